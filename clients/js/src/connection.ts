/** One socket for everything, which reconnects by itself. */

import { CLOSED, NO_ANSWER, TEMPORARY, USER_CHANGED } from './constants.js';
import { type Tokens, monotonic, tokenFailure } from './tokens.js';
import type { Failure, Logger, Result, State, Timing } from './types.js';

/** A subscription on the socket. It is renewed after each reconnect. */
export interface Channel {
  name: string;
  /** The id after which to resume; without it, the subscription starts with new entries. */
  after?(): number;
  onEvent(data: any): void;
  onJoined?(): void;
  /** The subscription is interrupted. */
  onLost?(): void;
  /** While the client polls, no event reports read markers: reads them again. */
  onRefresh?(): void;
  /** The subscription was refused for good. */
  onRefused?(error: Failure): void;
}

/** What the connection needs from the client. */
export interface ConnectionOptions {
  /** The address of `/ws/`. */
  url: string;
  tokens: Tokens;
  WebSocket: any;
  timing: Timing;
  logger?: Logger;
  onState(state: State): void;
  onError(error: Failure): void;
  /** The server named the user; `corrected`: another one than the token had claimed. */
  onIdentity(corrected: boolean): void;
  /** Finds out why the socket is refused while the server may be up. `null`: nothing is known. */
  diagnose(): Promise<Failure | null>;
  /** A class that replaces `WebSocket` where WebSockets are blocked. */
  poll(): Promise<any>;
}

/** Close codes after which a reconnect would fail as well. */
const FATAL = new Set([1002, 1003, 1007, 1009, 4400, 4403]);
const CODES: Record<number, string> = { 4401: 'unauthorized', 4429: 'rate_limited', 1006: 'network', 1011: 'internal' };
/** Refusals of fresh tokens in a row after which the client gives up. */
const REFUSALS = 3;
/** A handshake that fails within this time was refused, rather than lost. */
const QUICK = 2_000;
/** Quick refusals in a row after which the client looks for the reason. */
const QUICK_REFUSALS = 3;

export class Connection {
  state: State = 'connecting';
  /** Why it is offline or closed. */
  error: Failure | null = null;
  /** Callbacks for the next time that the connection is there or closed: the outboxes. */
  readonly waiting = new Set<() => void>();
  readonly #options: ConnectionOptions;
  readonly #channels = new Map<string, Channel>();
  /** The channels with an active subscription. */
  readonly #joined = new Set<Channel>();
  /** The subscription of each channel on the current socket. */
  readonly #refs = new Map<Channel, number>();
  readonly #requests = new Map<number, (answer: any) => void>();
  /** What replaces `WebSocket` at the next attempt, if something does. */
  #Poll: any = null;
  /** Whether HTTP calls replace the socket now. */
  #polls = false;
  /** The socket, or a placeholder while the token is requested. */
  #socket: any = null;
  /** Whether the server has sent something on this socket, so it has accepted the token. */
  #accepted = false;
  #ended = false;
  #paused = false;
  #ref = 0;
  #attempt = 0;
  #refusals = 0;
  #quickRefusals = 0;
  #tokenFailures = 0;
  #startedAt = 0;
  #acceptedAt = 0;
  #receivedAt = 0;
  #requestedAt = 0;
  #patience = 0;
  /** Before this time, not even a page that comes back into view reconnects. */
  #notBefore = 0;
  #retryTimer: any = 0;
  #openTimer: any = 0;
  #tokenTimer: any = 0;
  #watch: any = 0;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#connect();
  }

  /** Whether it will never connect again. */
  get ended() {
    return this.#ended;
  }

  /** Half to all of a growing time, so that many clients don't return at once. */
  backoff(attempt: number): number {
    const { backoff, backoffMax } = this.#options.timing;
    return Math.min(backoffMax, backoff * 2 ** attempt) * (0.5 + Math.random() / 2);
  }

  async #connect() {
    const { tokens, url, timing, logger } = this.#options;
    clearTimeout(this.#retryTimer);
    const turn = (this.#socket = {}); // A later attempt replaces it and so ends this one.
    this.#become('connecting', this.error);
    let token, socket: any;
    try {
      token = await tokens.get(this.#refusals > 0);
      this.#tokenFailures = 0;
    } catch (cause) {
      if (turn !== this.#socket) return;
      this.#socket = null;
      return this.#retry(this.backoff(this.#tokenFailures++), tokenFailure(cause));
    }
    if (turn !== this.#socket) return;
    if (!token) return this.#giveUp({ code: 'unauthorized', detail: 'there is no token' });
    this.#startedAt = monotonic();
    try {
      // In the subprotocols, the token stays out of addresses and so out of logs.
      socket = new (this.#Poll ?? this.#options.WebSocket)(url, ['bearer', token]);
    } catch (cause) {
      return this.#giveUp({ code: 'refused', detail: String(cause) });
    }
    logger?.debug('connecting to', url);
    this.#polls = !!this.#Poll;
    this.#socket = socket;
    this.#openTimer = setTimeout(() => this.#lost(socket, 1006, 'the handshake timed out'), timing.open);
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
    this.#requestedAt = 0;
    if (!this.#accepted && !this.#accept(frame)) return;
    if (frame.op === 'event') {
      const channel = this.#channels.get(frame.channel);
      // Until a subscription is answered, events belong to an earlier one.
      if (channel && this.#joined.has(channel)) channel.onEvent(frame.data);
    } else if (frame.op === 'refresh') {
      this.#channels.get(frame.channel)?.onRefresh?.();
    } else {
      this.#requests.get(frame.ref)?.(frame);
    }
  }

  /** Takes the first frame of a socket. Returns whether the socket may be used. */
  #accept(frame: any): boolean {
    const { tokens, timing, onIdentity } = this.#options;
    const socket = this.#socket;
    clearTimeout(this.#openTimer);
    if (frame.op === 'hello') {
      if (!Number.isSafeInteger(frame.user_id)) {
        this.#giveUp({ code: 'refused', detail: 'the id of the user is above 2^53 - 1' });
        return false;
      }
      try {
        onIdentity(tokens.confirm(frame));
      } catch {
        return false; // Another user: the client has ended.
      }
    }
    this.#accepted = true;
    this.#acceptedAt = monotonic();
    this.#quickRefusals = 0;
    this.#watch = setInterval(() => this.#check(), Math.min(timing.idle, timing.probe) / 4);
    this.#refreshIn(tokens.dueIn());
    this.#become('online', this.#polls ? this.error : null);
    for (const channel of this.#channels.values()) this.#subscribe(channel);
    for (const wake of [...this.waiting]) wake();
    return socket === this.#socket;
  }

  /** Checks that the server still answers. */
  #check() {
    const now = monotonic();
    const { idle, answer } = this.#options.timing;
    if (this.#requestedAt && now - this.#requestedAt > this.#patience) this.#lost(this.#socket, 1006, 'no answer');
    else if (!this.#requestedAt && now - this.#receivedAt > idle) this.#ping(answer);
  }

  #ping(patience: number) {
    this.request({ op: 'ping' });
    this.#patience = patience;
  }

  /** The socket is closed, or counts as closed. */
  #lost(socket: any, code: number, reason = '') {
    if (socket !== this.#socket) return;
    const { timing } = this.#options;
    const accepted = this.#accepted;
    const now = monotonic();
    this.#drop();
    if (accepted && now - this.#acceptedAt > timing.stable) this.#attempt = this.#refusals = 0;
    const detail = `the socket was closed with ${code}${reason && `: ${reason}`}`;
    const error: Failure = { code: CODES[code] ?? 'unavailable', detail, close_code: code, close_reason: reason };
    if (FATAL.has(code)) return this.#giveUp({ ...error, code: 'refused' });
    let wait = this.backoff(this.#attempt++);
    if (code === 4401) {
      if (++this.#refusals > REFUSALS) return this.#giveUp({ ...error, detail: 'the server refuses the tokens' });
      if (this.#refusals === 1) wait = 0;
    }
    if (code === 4429) this.#notBefore = now + (wait = Math.max(wait, timing.limited));
    if (code === 1012 && this.#attempt === 1) wait = Math.random() * timing.spread;
    this.#retry(wait, error);
    const refused = !accepted && code === 1006 && now - this.#startedAt < QUICK;
    // After a time of polling, one refusal shows that WebSockets are still blocked.
    this.#quickRefusals = this.#polls ? QUICK_REFUSALS - 1 : refused ? this.#quickRefusals + 1 : 0;
    if (this.#polls) this.#Poll = null;
    if (this.#quickRefusals >= QUICK_REFUSALS) this.#diagnose();
  }

  /** Replaces the reason `network` by a more helpful one, if HTTP works, and polls if only WebSockets don't work. */
  async #diagnose() {
    this.#quickRefusals = -7; // Not at each attempt.
    const error = await this.#options.diagnose();
    if (!error || this.state === 'online' || this.state === 'closed') return;
    const known = this.error?.code === error.code;
    this.error = error;
    if (!known) {
      this.#options.logger?.warn(error.detail);
      this.#options.onError(error);
    }
    if (error.code !== 'no_websocket') return;
    // If the module can't be loaded, the client goes on trying WebSockets.
    this.#Poll = await this.#options.poll().catch(() => null);
    if (this.state === 'offline' && !this.#socket) this.#connect();
  }

  #retry(wait: number, error: Failure) {
    this.#retryTimer = setTimeout(() => this.#connect(), wait);
    this.#options.logger?.debug(`offline, next attempt in ${Math.round(wait)} ms:`, error.detail);
    const known = this.error?.code === 'no_websocket' || this.error?.code === 'origin_not_allowed';
    this.#become('offline', known && error.code === 'network' ? this.error : error);
    this.#options.onError(error);
  }

  #giveUp(error: Failure) {
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#options.logger?.warn('closed:', error.detail);
    this.#become('closed', error);
    for (const wake of [...this.waiting]) wake();
  }

  /** Lets go of the socket. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#accepted = false;
    this.#requestedAt = 0;
    clearTimeout(this.#openTimer);
    clearTimeout(this.#tokenTimer);
    clearInterval(this.#watch);
    try {
      socket?.close?.();
    } catch {
      // It was never open.
    }
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    this.#refs.clear();
    for (const answer of requests) answer({ op: 'lost' });
    const joined = [...this.#joined];
    this.#joined.clear();
    for (const channel of joined) channel.onLost?.();
  }

  #become(state: State, error: Failure | null = null) {
    if (state === this.state && error === this.error) return;
    const changed = state !== this.state;
    this.error = error;
    this.state = state;
    if (changed || state === 'closed') this.#options.onState(state);
  }

  /** Requests a fresh token while the current one is still valid. */
  #refreshIn(ms: number) {
    clearTimeout(this.#tokenTimer);
    this.#tokenTimer = setTimeout(() => this.#refresh(), ms);
  }

  async #refresh() {
    const { tokens, onError } = this.#options;
    const socket = this.#socket;
    const token = await tokens.get(true).catch((cause: unknown) => {
      if (socket === this.#socket) onError(tokenFailure(cause));
      return null;
    });
    if (socket !== this.#socket) return;
    // Without a fresh token, the server closes the socket in time, and the next attempt decides.
    if (!token) return this.#refreshIn(this.backoff(this.#tokenFailures++));
    this.#tokenFailures = 0;
    const answer = await this.request({ op: 'auth', token });
    if (socket !== this.#socket) return;
    if (answer.ok) return this.#refreshIn(tokens.dueIn());
    this.#lost(socket, 4401, answer.error.detail); // It ended already, or belongs to another user.
  }

  /** Sends a frame and returns the server's answer. */
  request(frame: object): Promise<Result<null>> {
    return new Promise((resolve) => {
      if (!this.#accepted) return resolve({ ok: false, error: NO_ANSWER });
      const ref = this.#put(frame);
      this.#requests.set(ref, (answer) => {
        this.#requests.delete(ref);
        if (answer.op === 'ok') resolve({ ok: true, data: null });
        else resolve({ ok: false, error: answer.op === 'lost' ? NO_ANSWER : failureOf(answer) });
      });
    });
  }

  /** Sends a frame that needs no answer. Returns whether there is a connection. */
  send(frame: object): boolean {
    if (this.#accepted) this.#put(frame);
    return this.#accepted;
  }

  #put(frame: object): number {
    const ref = ++this.#ref;
    this.#patience = this.#options.timing.answer;
    this.#requestedAt ||= monotonic();
    this.#socket.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }

  /** Subscribes to a channel, now and after each reconnect. */
  join(channel: Channel) {
    this.#channels.set(channel.name, channel);
    if (this.#accepted) this.#subscribe(channel);
  }

  leave(channel: Channel) {
    if (this.#channels.get(channel.name) !== channel) return;
    this.#channels.delete(channel.name);
    this.#forget(channel);
    this.send({ op: 'unsubscribe', channel: channel.name });
  }

  /** Ends a subscription on this side. Returns whether it was in force. */
  #forget(channel: Channel): boolean {
    this.#requests.delete(this.#refs.get(channel)!);
    this.#refs.delete(channel);
    return this.#joined.delete(channel);
  }

  #subscribe(channel: Channel, attempt = 0) {
    const socket = this.#socket;
    const ref = this.#put({ op: 'subscribe', channel: channel.name, after: channel.after?.() });
    this.#refs.set(channel, ref);
    // More answers may follow the first one: a subscription in force can fail while its replay is sent.
    this.#requests.set(ref, (answer) => {
      if (answer.op === 'lost') return;
      if (answer.op === 'ok') {
        this.#joined.add(channel);
        return channel.onJoined?.();
      }
      if (this.#forget(channel)) channel.onLost?.();
      const error = failureOf(answer);
      if (!TEMPORARY.has(error.code)) {
        this.#channels.delete(channel.name);
        return channel.onRefused?.(error);
      }
      setTimeout(() => {
        const here = socket === this.#socket && this.#channels.get(channel.name) === channel;
        if (here && !this.#refs.has(channel)) this.#subscribe(channel, attempt + 1);
      }, Math.max(error.retry_after_ms ?? 0, this.backoff(attempt)));
    });
  }

  /** Tries now rather than later, and checks a connection that seems to be there. */
  wake() {
    this.#paused = false;
    if (this.state === 'online') return this.#ping(this.#options.timing.probe);
    if (this.#ended || this.#socket || monotonic() < this.#notBefore) return;
    this.#refusals = 0;
    this.#connect();
  }

  /** The network is gone, so the socket is useless. */
  offline() {
    if (this.#socket) this.#lost(this.#socket, 1006, 'this machine is offline');
  }

  /** Closes the socket until `wake`: a page with an open socket can't be kept for the back button. */
  pause() {
    if (this.state === 'closed') return;
    this.#paused = true;
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#become('offline', { code: 'network', detail: 'the page is hidden' });
  }

  /** Whether `pause` was the last call. */
  get paused() {
    return this.#paused;
  }

  /** Ends for good. */
  close(error = CLOSED) {
    if (this.#ended) return;
    this.#ended = true;
    this.#giveUp(error);
  }

  /** Ends because the token is another user's. */
  userChanged() {
    this.close(USER_CHANGED);
  }
}

/** The failure in an answer of the server. */
export function failureOf({ code, detail, retry_after_ms: wait }: any): Failure {
  return wait === undefined ? { code, detail } : { code, detail, retry_after_ms: wait };
}
