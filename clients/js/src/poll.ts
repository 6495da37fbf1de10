/**
 * Where sockets fail while the server is up: finds out why. If WebSockets are blocked, an object like one carries the
 * protocol of `/ws/` over HTTP calls: it asks while the page is in view, and nobody is shown as typing. Loaded only then.
 */

import { TEMPORARY, failure } from './constants.js';
import type { Conversation } from './conversation.js';
import type { Core } from './core.js';
import type { Notifications } from './notifications.js';
import type { Failure, Result } from './types.js';

/** `timing.poll` and `timing.blocked`, if the page does not set them. */
const POLL = 5_000;
const BLOCKED = 600_000;
/** Entries of a page. */
const LIMIT = 200;
/** Calls without an answer in a row after which the connection counts as lost. */
const FAILURES = 2;

interface Subscription {
  ref: number;
  after: number;
  /** The number of the last change that was read; of notifications, undefined. */
  changes: number | undefined;
  /** Whether a poll is in progress, and whether another one is to follow it. */
  busy: boolean;
  again: boolean;
}

/** The path of a channel's log. */
function pathOf(channel: string): string {
  return channel === 'notifications' ? '/api/notifications' : `/api/conversations/${channel.slice('chat/'.length)}/messages`;
}

/** The call that does what a frame asks for; `null`: there is none, and none is needed. */
function callOf(channel: string, data: any): [method: string, path: string, body?: object] | null {
  const { type, message_id, message, notification_id } = data;
  const path = pathOf(channel);
  if (channel.startsWith('typing/')) return null;
  if (type === 'read_all') return ['POST', `${path}/read_all`];
  if (type === 'read' && notification_id) return ['POST', `${path}/${notification_id}/read`];
  if (type === 'read') return ['POST', path.replace(/messages$/, 'read'), { message_id }];
  if (type === 'edit') return ['PATCH', `${path}/${message_id}`, { message }];
  if (type === 'delete') return ['DELETE', `${path}/${message_id}`];
  return ['POST', path, data];
}

/** The server is up and refuses sockets: replaces the reason `network` by a more helpful one, and polls if that helps. */
export async function diagnose(core: Core) {
  const { _connection: connection, _client: client, _options: options } = core;
  await core._http._fetch('/healthz', { mode: 'no-cors', cache: 'no-store' }); // It throws if the server is down.
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
  const { _http: http, _connection: connection } = core;
  const { poll = POLL, blocked = BLOCKED } = core.timing;
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
      this.#tick = setInterval(() => globalThis.document?.visibilityState !== 'hidden' && this.#pollAll(), poll);
      this.#end = setTimeout(() => this.#lose(1006), blocked); // Then a WebSocket is tried again.
      this.onopen?.();
    }

    send(text: string) {
      const frame = JSON.parse(text);
      const { op, ref, channel } = frame;
      if (op === 'send') return void this.#post(frame);
      if (op === 'auth') this.#token = frame.token;
      if (op === 'unsubscribe') this.#subscriptions.delete(channel);
      this.#reply({ op: 'ok', ref });
      if (op === 'visible' || op === 'ping') this.#pollAll(); // The page may be in view again.
      if (op !== 'subscribe' || /^(typing|presence)/.test(channel)) return;
      this.#subscriptions.set(channel, { ref, after: frame.after ?? 0, changes: frame.changes, busy: false, again: false });
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
      const answer = call ? await this.#call(...call) : { ok: true };
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

    /** Reads what is new, and then what has changed. */
    async #read(channel: string, subscription: Subscription) {
      const last = await this.#pages(
        channel,
        subscription,
        () => `after=${subscription.after}`,
        (item) => {
          subscription.after = item.notification_id ?? item.message_id;
          this.#event(channel, channel === 'notifications' ? item : { ...item, type: 'message' });
        },
      );
      const all =
        last?.changes > subscription.changes!
          ? await this.#pages(
              channel,
              subscription,
              () => `changed_after=${subscription.changes}`,
              (item) => {
                const { change, message_id: id } = item;
                subscription.changes = change;
                // A later message comes with the next poll, as it is then.
                if (id <= subscription.after) this.#event(channel, { type: 'changed', change, message: item });
              },
            )
          : last;
      if (all) queueMicrotask(() => this.#closed || this.#refresh(channel));
    }

    /** Reads page by page. Returns the last one; `null`: the subscription ended, or the server did not answer. */
    async #pages(channel: string, subscription: Subscription, from: () => string, take: (item: any) => void): Promise<any> {
      for (;;) {
        if (this.#subscriptions.get(channel) !== subscription) return null;
        const page = await this.#call('GET', `${pathOf(channel)}?limit=${LIMIT}&${from()}`);
        if (this.#subscriptions.get(channel) !== subscription) return null;
        if (!page.ok) return this.#refuse(channel, subscription, page.error);
        page.data.items.forEach(take);
        if (page.data.next === null) return page.data;
      }
    }

    /** Reads what events report, and polls do not. */
    #refresh(name: string) {
      const channel = connection._channels.get(name);
      if (!channel?._joined) return;
      if (name === 'notifications') (channel as Notifications)._refresh();
      else refreshMarkers(channel as Conversation);
    }

    #refuse(channel: string, { ref }: Subscription, error: Failure): null {
      if (TEMPORARY.has(error.code)) return null; // The next poll repeats it.
      this.#subscriptions.delete(channel);
      this.#reply({ op: 'error', ref, ...error });
      return null;
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
