/**
 * Where sockets fail while the server is up: finds out why. If WebSockets are blocked, an object like one carries the
 * protocol of `/ws/` over HTTP calls: it asks while the page is in view, and nobody is shown as typing. Loaded only then.
 */

import { TEMPORARY, failure } from './constants.js';
import type { Conversation } from './conversation.js';
import type { Core } from './core.js';
import type { Notifications } from './notifications.js';
import type { Failure, Result } from './types.js';

/** Entries of a page. */
const LIMIT = 200;
/** Calls without an answer in a row after which the connection counts as lost. */
const FAILURES = 2;

interface Subscription {
  ref: number;
  after: number;
  /** Whether a poll is in progress, and whether another one is to follow it. */
  busy: boolean;
  again: boolean;
}

/** The path of a channel's log. */
function pathOf(channel: string): string {
  return channel === 'notifications' ? '/api/notifications' : `/api/conversations/${channel.slice('chat/'.length)}/messages`;
}

/** The call that does what a frame asks for; `null`: there is none, and none is needed. */
function callOf(channel: string, data: any): [path: string, body?: object] | null {
  if (channel.startsWith('typing/')) return null;
  if (data.type === 'read_all') return ['/api/notifications/read_all'];
  if (data.type === 'read' && channel === 'notifications') return [`/api/notifications/${data.notification_id}/read`];
  if (data.type === 'read') return [pathOf(channel).replace(/messages$/, 'read'), { message_id: data.message_id }];
  return [pathOf(channel), data];
}

/** The server is up and refuses sockets: replaces the reason `network` by a more helpful one, and polls if that helps. */
export async function diagnose(core: Core) {
  const { _connection: connection, _client: client, _options: options } = core;
  const error = await reasonOf(core);
  if (!error || connection.state === 'online' || connection.state === 'closed') return;
  const known = connection._diagnosis?.code === error.code;
  connection._diagnosis = connection.error = error;
  if (!known) {
    options.logger?.warn(error.detail);
    client._emit('error', error);
  }
  if (error.code !== 'no_websocket') return;
  connection._Poll = pollSocket(core);
  if (connection.state === 'offline') connection._wake();
}

async function reasonOf(core: Core): Promise<Failure | null> {
  const answer = await core.get('/api/unread');
  if (answer.ok || answer.error.code !== 'network') {
    const detail = 'HTTP reaches the server and WebSockets do not: a proxy may block them, or ALLOWED_ORIGINS lacks this page';
    return failure('no_websocket', detail);
  }
  const origin = globalThis.location?.origin;
  return origin ? failure('origin_not_allowed', `the server refuses this page: add ${origin} to ALLOWED_ORIGINS`) : null;
}

/** No poll reports read markers: reads those of a conversation again, which its newest messages show. */
async function refreshMarkers(chat: Conversation) {
  const [info, page] = await Promise.all([chat._loadInfo(), chat._loadPage(null, 50)]);
  if (!info.ok || !page.ok || chat.state !== 'live') return;
  chat._showRead();
  const read = page.data.items.find(({ state }) => state === 'read');
  if (read) chat._showRead(read.seq);
  chat._changed();
}

/** Creates a class with the constructor of `WebSocket`. */
function pollSocket(core: Core) {
  const { _http: http, _connection: connection, timing } = core;
  return class PollSocket {
    readonly _polls = true;
    onopen: (() => void) | undefined;
    onmessage: ((event: { data: string }) => void) | undefined;
    onclose: ((event: { code: number; reason: string }) => void) | undefined;
    onerror: (() => void) | undefined;
    readonly #subscriptions = new Map<string, Subscription>();
    #token: string;
    #failures = 0;
    #closed = false;
    #tick: ReturnType<typeof setInterval> | undefined;
    #end: ReturnType<typeof setTimeout> | undefined;

    constructor(_url: string, [, token]: [string, string]) {
      this.#token = token;
      this.#open();
    }

    async #open() {
      const answer = await this.#call('GET', '/api/unread');
      if (this.#closed) return;
      if (!answer.ok) return this.#lose(1006);
      this.#tick = setInterval(() => globalThis.document?.visibilityState !== 'hidden' && this.#pollAll(), timing.poll);
      this.#end = setTimeout(() => this.#lose(1006), timing.blocked); // Then a WebSocket is tried again.
      this.onopen?.();
    }

    send(text: string) {
      const frame = JSON.parse(text);
      const { op, ref, channel } = frame;
      if (op === 'send') return void this.#post(frame);
      if (op === 'auth') this.#token = frame.token;
      if (op === 'unsubscribe') this.#subscriptions.delete(channel);
      this.#reply({ op: 'ok', ref });
      if (op === 'ping') this.#pollAll(); // The page is in view again.
      if (op !== 'subscribe' || channel.startsWith('typing/')) return;
      this.#subscriptions.set(channel, { ref, after: frame.after ?? 0, busy: false, again: false });
      this.#poll(channel);
    }

    close() {
      this.#closed = true;
      clearInterval(this.#tick);
      clearTimeout(this.#end);
      this.#subscriptions.clear();
    }

    async #post({ ref, channel, data }: { ref: number; channel: string; data: any }) {
      const call = callOf(channel, data);
      const answer = call ? await this.#call('POST', ...call) : { ok: true };
      if (this.#closed) return;
      this.#reply(answer.ok ? { op: 'ok', ref } : { op: 'error', ref, ...(answer as { error: Failure }).error });
      if (call) this.#poll(channel);
    }

    #pollAll() {
      for (const channel of this.#subscriptions.keys()) this.#poll(channel);
    }

    /** Polls a channel; if a poll is in progress, once more after it. */
    async #poll(channel: string) {
      const subscription = this.#subscriptions.get(channel);
      if (!subscription) return;
      subscription.again = true;
      if (subscription.busy) return;
      subscription.busy = true;
      while (subscription.again) {
        subscription.again = false;
        await this.#read(channel, subscription);
      }
      subscription.busy = false;
    }

    /** Reads what is new, page by page. */
    async #read(channel: string, subscription: Subscription) {
      for (let next: unknown = 0; next !== null; ) {
        if (this.#subscriptions.get(channel) !== subscription) return;
        const page = await this.#call('GET', `${pathOf(channel)}?limit=${LIMIT}&after=${subscription.after}`);
        if (this.#subscriptions.get(channel) !== subscription) return;
        if (!page.ok) return this.#refuse(channel, subscription, page.error);
        for (const item of page.data.items) {
          subscription.after = item.notification_id ?? item.message_id;
          this.#event(channel, channel === 'notifications' ? item : { ...item, type: 'message' });
        }
        next = page.data.next;
      }
      queueMicrotask(() => this.#closed || this.#refresh(channel));
    }

    /** Reads what events report, and polls do not. */
    #refresh(name: string) {
      const channel = connection._channels.get(name);
      if (!channel?._joined) return;
      if (name === 'notifications') (channel as Notifications)._refresh();
      else refreshMarkers(channel as Conversation);
    }

    #refuse(channel: string, { ref }: Subscription, error: Failure) {
      if (TEMPORARY.has(error.code)) return; // The next poll repeats it.
      this.#subscriptions.delete(channel);
      this.#reply({ op: 'error', ref, ...error });
    }

    /** Calls the API, and ends the connection if the token is refused or nothing is answered. */
    async #call(method: string, path: string, body?: object): Promise<Result<any>> {
      const answer = await http.send(method, path, this.#token, body);
      const code = answer.ok ? null : answer.error.code;
      this.#failures = code === 'network' ? this.#failures + 1 : 0;
      if (code === 'unauthorized') this.#lose(4401);
      else if (this.#failures >= FAILURES) this.#lose(1006);
      return answer;
    }

    #lose(code: number) {
      if (this.#closed) return;
      this.close();
      this.onclose?.({ code, reason: '' });
    }

    #event(channel: string, data: object) {
      this.#reply({ op: 'event', channel, data });
    }

    /** Answers after `send` has returned, as a socket does. */
    #reply(frame: object) {
      queueMicrotask(() => this.#closed || this.onmessage?.({ data: JSON.stringify(frame) }));
    }
  };
}
