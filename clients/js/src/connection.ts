/** One socket for everything, which reconnects by itself. */

import { DONE, NO_ANSWER, NO_TOKEN, TEMPORARY, failure, failureOf, refused } from './constants.js';
import type { Core } from './core.js';
import { monotonic, tokenFailure } from './tokens.js';
import type { Failure, Result, State } from './types.js';

/** A subscription on the socket. It is renewed after each reconnect. */
export interface Channel {
  readonly _name: string;
  /** The id after which to resume; without it, the subscription starts with new entries. */
  _after?(): number;
  /** The number of the last change that is known here, after which to resume. */
  _changes?: number | undefined;
  _onEvent(data: any): void;
  _onJoined?(): void;
  /** The subscription is interrupted. */
  _onLost?(): void;
  /** The subscription was refused for good. */
  _end?(error: Failure): void;
  /** The subscription on the current socket, and whether it is in force. Only the connection changes them. */
  _ref?: number;
  _joined?: boolean;
}

/** What a close code means. After `refused`, a reconnect would fail as well. */
const CODES: Record<number, string> = {
  1002: 'refused',
  1003: 'refused',
  1006: 'network',
  1007: 'refused',
  1009: 'refused',
  1011: 'internal',
  4400: 'refused',
  4401: 'unauthorized',
  4403: 'refused',
  4429: 'rate_limited',
};
/** Refusals of fresh tokens in a row after which the client gives up; quick ones, after which it looks for the reason. */
const REFUSALS = 3;
/** A handshake that fails within this time was refused, rather than lost. */
const QUICK = 2_000;

export class Connection {
  state: State = 'connecting';
  /** Why it is offline or closed. */
  error: Failure | null = null;
  /** Whether it will never connect again. */
  _ended = false;
  /** Callbacks for the next time that the connection is there or closed: the outboxes. */
  readonly _waiting = new Set<() => void>();
  readonly #core: Core;
  readonly _channels = new Map<string, Channel>();
  readonly #requests = new Map<number, (answer: any) => void>();
  /** Why sockets have failed, if that is known: a more helpful reason than `network`. */
  _diagnosis: Failure | null = null;
  /** What replaces `WebSocket` at the next attempt, if something does. */
  _Poll: any = null;
  /** The socket, or a placeholder while the token is requested. */
  #socket: any = null;
  /** Whether the server has sent something on this socket, so it has accepted the token. */
  #accepted = false;
  #ref = 0;
  #attempt = 0;
  #refusals = 0;
  #quickRefusals = 0;
  #tokenFailures = 0;
  /** When the handshake began, or was accepted. */
  #since = 0;
  #receivedAt = 0;
  /** By this time, something must have arrived. */
  #deadline = Infinity;
  /** Before this time, not even a page that comes back into view reconnects. */
  #notBefore = 0;
  /** For the next attempt; with a socket, for the next token. */
  #timer: any = 0;
  #watch: any = 0;

  constructor(core: Core) {
    this.#core = core;
    this.#connect();
  }

  /** Half to all of a growing time, so that many clients don't return at once; at least a time that the server names. */
  _backoff(attempt: number, atLeast = 0): number {
    const { backoff, backoffMax } = this.#core.timing;
    return Math.max(atLeast, Math.min(backoffMax, backoff * 2 ** attempt) * (0.5 + Math.random() / 2));
  }

  async #connect() {
    const { _options: options, _base: base, _tokens: tokens, timing } = this.#core;
    const url = `${base.replace('http', 'ws')}/ws/`;
    clearTimeout(this.#timer);
    const turn = (this.#socket = {}); // A later attempt replaces it and so ends this one.
    this.#become('connecting', this.error);
    const token = await tokens._get(this.#refusals > 0).catch(tokenFailure);
    if (turn !== this.#socket) return;
    if (!token) return this.#giveUp(NO_TOKEN);
    if (typeof token === 'object') {
      this.#socket = null;
      return this.#retry(this._backoff(this.#tokenFailures++), token);
    }
    this.#tokenFailures = 0;
    let socket: any;
    try {
      // In the subprotocols, the token stays out of addresses and so out of logs.
      socket = new (this._Poll ?? options.WebSocket ?? WebSocket)(url, ['bearer', token]);
    } catch (cause) {
      return this.#giveUp(failure('refused', String(cause)));
    }
    options.logger?.debug('connecting to', url);
    this.#socket = socket;
    this.#since = monotonic();
    this.#deadline = this.#since + timing.open;
    this.#watch = setInterval(() => this.#check(), Math.min(timing.idle, timing.probe) / 4);
    const current = () => socket === this.#socket;
    // The server accepts a socket even if it refuses the token, because a page could not read the reason otherwise.
    // So only its first frame shows that all is well.
    socket.onopen = () => current() && this.#put({ op: 'ping' });
    socket.onmessage = ({ data }: { data: string }) => current() && this.#receive(data);
    socket.onclose = ({ code, reason }: { code: number; reason: string }) => this.#lost(socket, code, reason);
    socket.onerror = () => {}; // A close follows.
  }

  #receive(data: string) {
    const frame = JSON.parse(data);
    this.#receivedAt = monotonic();
    this.#deadline = Infinity;
    if (!this.#accepted && !this.#accept(frame)) return;
    const channel = this._channels.get(frame.channel);
    // Until a subscription is answered, events belong to an earlier one.
    if (frame.op === 'event') channel?._joined && channel._onEvent(frame.data);
    else this.#requests.get(frame.ref)?.(frame);
  }

  /** Takes the first frame of a socket. Returns whether the socket may be used. */
  #accept(frame: any): boolean {
    const { _tokens: tokens, _client: client } = this.#core;
    const socket = this.#socket;
    try {
      if (frame.op === 'hello' && tokens._confirm(frame)) client._restart();
    } catch (error) {
      this.#giveUp(error as Failure);
      return false;
    }
    this.#accepted = true;
    this.#since = monotonic();
    this.#quickRefusals = 0;
    this.#renewIn(tokens._dueIn());
    if (!socket._polls) this._diagnosis = null;
    this.#become('online', this._diagnosis);
    if (globalThis.document?.hidden) this._look(); // A new socket counts as visible.
    for (const channel of this._channels.values()) this.#subscribe(channel);
    this.#wakeAll();
    return socket === this.#socket;
  }

  #wakeAll() {
    for (const wake of [...this._waiting]) wake();
  }

  /** Checks that the server still answers. */
  #check() {
    const now = monotonic();
    if (now > this.#deadline) this._lose('no answer');
    else if (this.#deadline === Infinity && now - this.#receivedAt > this.#core.timing.idle) this.#put({ op: 'ping' });
  }

  /** The socket is closed, or counts as closed. */
  #lost(socket: any, code: number, reason = '') {
    if (!socket || socket !== this.#socket) return;
    const { timing } = this.#core;
    const accepted = this.#accepted;
    const now = monotonic();
    this.#drop();
    const age = now - this.#since;
    if (accepted && age > timing.stable) this.#attempt = this.#refusals = 0;
    const error: Failure = {
      code: CODES[code] ?? 'unavailable',
      detail: `closed with ${code}${reason && `: ${reason}`}`,
      close_code: code,
      close_reason: reason,
    };
    const refusals = code === 4401 ? ++this.#refusals : 0;
    if (error.code === 'refused' || refusals > REFUSALS) return this.#giveUp(error);
    let wait = this._backoff(this.#attempt++, code === 4429 ? timing.limited : 0);
    if (code === 4429) this.#notBefore = now + wait;
    if (refusals === 1) wait = 0;
    if (code === 1012 && this.#attempt === 1) wait = Math.random() * timing.spread;
    this.#retry(wait, error);
    const quick = !accepted && code === 1006 && age < QUICK;
    // After a time of polling, one refusal shows that WebSockets are still blocked.
    this.#quickRefusals = socket._polls ? REFUSALS - 1 : quick ? this.#quickRefusals + 1 : 0;
    if (socket._polls) this._Poll = null;
    if (this.#quickRefusals < REFUSALS) return;
    this.#quickRefusals = -7; // Not at each attempt.
    // If the module can't be loaded, or the server is down, the client goes on trying WebSockets.
    import('./poll.js').then(({ diagnose }) => diagnose(this.#core)).catch(() => {});
  }

  #retry(wait: number, error: Failure) {
    const { _options: options, _client: client } = this.#core;
    this.#timer = setTimeout(() => this.#connect(), wait);
    options.logger?.debug(`offline for ${Math.round(wait)} ms:`, error.detail);
    this.#become('offline', (error.code === 'network' && this._diagnosis) || error);
    client._emit('error', error);
  }

  #giveUp(error: Failure) {
    this.#drop();
    this.#core._options.logger?.warn('closed:', error.detail);
    this.#become('closed', error);
    this.#wakeAll();
  }

  /** Lets go of the socket. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#accepted = false;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    try {
      socket?.close?.();
    } catch {
      // It was never open.
    }
    const lost = [...this._channels.values()].filter((channel) => this.#forget(channel));
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const answer of requests) answer(NO_ANSWER);
    for (const channel of lost) channel._onLost?.();
  }

  #become(state: State, error: Failure | null) {
    const changed = state !== this.state || (state === 'closed' && error !== this.error);
    this.error = error;
    this.state = state;
    if (changed) this.#core._client._emit('state', state);
  }

  /** Requests a fresh token while the current one is still valid. */
  #renewIn(ms: number) {
    this.#timer = setTimeout(() => this.#renew(), ms);
  }

  async #renew() {
    const { _client: client, _tokens: tokens } = this.#core;
    const socket = this.#socket;
    const token = await tokens._get(true).catch(tokenFailure);
    if (socket !== this.#socket) return;
    if (typeof token !== 'string') {
      if (token) client._emit('error', token);
      // Without a fresh token, the server closes the socket in time, and the next attempt decides.
      return this.#renewIn(this._backoff(this.#tokenFailures++));
    }
    this.#tokenFailures = 0;
    const answer = await this._request({ op: 'auth', token });
    if (socket !== this.#socket) return;
    if (answer.ok) this.#renewIn(tokens._dueIn());
    else this.#lost(socket, 4401, answer.error.detail); // It ended already, or belongs to another user.
  }

  /** Sends a frame and returns the server's answer. */
  _request(frame: object): Promise<Result<null>> {
    return new Promise((resolve) => {
      const settle = (answer: any) => resolve(answer.op === 'ok' ? DONE : refused(failureOf(answer)));
      if (!this.#accepted) return settle(NO_ANSWER);
      const ref = this.#put(frame);
      this.#requests.set(ref, (answer) => {
        this.#requests.delete(ref);
        settle(answer);
      });
    });
  }

  /** Publishes to a channel and returns the server's answer. */
  _publish(channel: string, data: object): Promise<Result<null>> {
    return this._request({ op: 'send', channel, data });
  }

  /** Sends a frame that needs no answer. Returns whether there is a connection. */
  send(frame: object): boolean {
    if (this.#accepted) this.#put(frame);
    return this.#accepted;
  }

  #put(frame: object, patience = this.#core.timing.answer): number {
    const ref = ++this.#ref;
    if (this.#accepted) this.#deadline = Math.min(this.#deadline, monotonic() + patience); // Before, there is that of the handshake.
    this.#socket.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }

  /** Subscribes to a channel, now and after each reconnect. */
  _join(channel: Channel) {
    this._channels.set(channel._name, channel);
    if (this.#accepted) this.#subscribe(channel);
  }

  _leave(channel: Channel) {
    if (!this.#has(channel)) return;
    this._channels.delete(channel._name);
    this.#forget(channel);
    this.send({ op: 'unsubscribe', channel: channel._name });
  }

  #has(channel: Channel): boolean {
    return this._channels.get(channel._name) === channel;
  }

  /** Ends a subscription on this side. Returns whether it was in force. */
  #forget(channel: Channel): boolean {
    const joined = !!channel._joined;
    this.#requests.delete(channel._ref!);
    channel._ref = 0;
    channel._joined = false;
    return joined;
  }

  #subscribe(channel: Channel, attempt = 0) {
    const socket = this.#socket;
    const ref = this.#put({ op: 'subscribe', channel: channel._name, after: channel._after?.(), changes: channel._changes });
    channel._ref = ref;
    // More answers may follow the first one: a subscription in force can fail while its replay is sent.
    this.#requests.set(ref, (answer) => {
      if (answer.op === 'ok') {
        channel._joined = true;
        return channel._onJoined?.();
      }
      if (this.#forget(channel)) channel._onLost?.();
      const error = failureOf(answer);
      if (!TEMPORARY.has(error.code)) {
        this._channels.delete(channel._name);
        return channel._end?.(error);
      }
      setTimeout(
        () => {
          if (socket === this.#socket && this.#has(channel) && !channel._ref) this.#subscribe(channel, attempt + 1);
        },
        this._backoff(attempt, error.retry_after_ms),
      );
    });
  }

  /**
   * Tells the server whether the page is visible, if there is a connection. Like a ping, it has an answer, which shows that
   * the connection is alive.
   */
  _look() {
    return this.#accepted && this.#put({ op: 'visible', visible: !globalThis.document?.hidden }, this.#core.timing.probe);
  }

  /** Tries now rather than later, and checks a connection that seems to be there. */
  _wake() {
    if (this._look() || this._ended || this.#socket || monotonic() < this.#notBefore) return;
    this.#refusals = 0;
    this.#connect();
  }

  /** The socket is useless. */
  _lose(reason: string) {
    this.#lost(this.#socket, 1006, reason);
  }

  /** Closes the socket until `wake`: a page with an open socket can't be kept for the back button. */
  _pause() {
    if (this.state === 'closed') return;
    this.#drop();
    this.#become('offline', NO_ANSWER);
  }

  /** Ends for good. */
  close(error: Failure) {
    if (this._ended) return;
    this._ended = true;
    this.#giveUp(error);
  }
}
