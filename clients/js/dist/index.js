/* @vyzio/realtime, MIT */

// src/constants.ts
var TIMING = {
  backoff: 500,
  backoffMax: 3e4,
  stable: 1e4,
  spread: 1500,
  limited: 1e4,
  open: 15e3,
  idle: 2e4,
  answer: 1e4,
  probe: 6e3,
  settle: 1e3,
  typing: 2e3,
  http: 1e4,
  poll: 5e3,
  blocked: 6e5,
  linger: 5e3,
  frame: 16
};
var QUEUE = 100;
var KEEP = 2e3;
var CHARS = 4e3;
var DONE = { ok: true, data: null };
var NO_ANSWER = { code: "network", detail: "no answer from the server" };
var CLOSED = { code: "closed", detail: "the connection was closed by this client" };
var USER_CHANGED = { code: "user_changed", detail: "the token belongs to another user" };
var TEMPORARY = /* @__PURE__ */ new Set(["network", "unavailable", "rate_limited", "internal", "token_failed"]);

// src/tokens.ts
var monotonic = () => performance.now();
function within(value, ms) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("no answer in time")), ms);
  });
  return Promise.race([value, late]).finally(() => clearTimeout(timer));
}
function claimsOf(token) {
  try {
    const bytes = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    const escaped = bytes.replace(/[^]/g, (byte) => `%${byte.charCodeAt(0).toString(16).padStart(2, "0")}`);
    return JSON.parse(decodeURIComponent(escaped)) ?? {};
  } catch {
    return {};
  }
}
async function tokenIn(answer) {
  if (typeof answer !== "object" || !answer) return answer || null;
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the token request failed with HTTP ${answer.status}`);
  const text = (await answer.text()).trim();
  if (!/^[{"]/.test(text)) return text || null;
  const json = JSON.parse(text);
  return (typeof json === "string" ? json : json.token ?? json.access) || null;
}
var Tokens = class {
  /** The user. Until the server's `hello`, the `user_id` of the token; null if it has none. */
  userId;
  #source;
  #timeout;
  #onUserChanged;
  /** Whether `userId` is more than a guess: the server or the page named it. */
  #confirmed;
  #onKnown = [];
  #subject = null;
  #token = null;
  #request = null;
  #endsAt = Infinity;
  /** The server's time minus the monotonic time, once the server has named its time. */
  #offset = null;
  constructor({ token, userId }, timeout, onUserChanged) {
    this.userId = userId ?? null;
    this.#confirmed = userId !== void 0;
    this.#source = token;
    this.#timeout = timeout;
    this.#onUserChanged = onUserChanged;
  }
  /** Resolves once the user is known. */
  known() {
    return this.userId === null ? new Promise((resolve) => this.#onKnown.push(resolve)) : Promise.resolve();
  }
  /** The server's time in milliseconds since 1970, if it is known. This machine's clock may be wrong. */
  serverTime() {
    return this.#offset === null ? null : monotonic() + this.#offset;
  }
  /**
   * The token, a fresh one with `refresh`. `null`: nobody is signed in.
   *
   * @throws {Error} if the callback fails
   * @throws {Failure} `user_changed`
   */
  get(refresh = false) {
    if (!refresh && this.#token && monotonic() < this.#endsAt) return Promise.resolve(this.#token);
    this.#request ??= this.#load(refresh || !!this.#token).finally(() => this.#request = null);
    return this.#request;
  }
  async #load(refresh) {
    const source = this.#source;
    const answer = typeof source === "function" ? within(source({ refresh }), this.#timeout) : source;
    const token = await tokenIn(await answer);
    const { exp = NaN, iat = NaN, user_id: claimed, sub } = token ? claimsOf(token) : {};
    if (token) this.#checkUser(claimed, sub);
    this.#token = token;
    const now = this.serverTime();
    const left = now === null ? (exp - iat) * 1e3 : exp * 1e3 - now;
    this.#endsAt = Number.isNaN(left) ? Infinity : monotonic() + left;
    return token;
  }
  #checkUser(claimed, sub) {
    const subject = String(claimed ?? sub ?? "");
    const userId = Number(claimed);
    const valid = Number.isSafeInteger(userId) && userId > 0;
    if (this.#subject === null) this.#subject = subject;
    const changed = subject !== this.#subject;
    if (changed) {
      this.#onUserChanged();
      throw USER_CHANGED;
    }
    if (this.userId === null && valid) this.#know(userId);
  }
  /**
   * Takes the identity and the times from the server.
   *
   * Returns whether the user is another one than the token had claimed, so everything must be loaded again.
   *
   * @throws {Failure} `user_changed`
   */
  confirm({ user_id: userId, server_time: serverTime, expires_at: expiresAt }) {
    const time = Date.parse(serverTime);
    this.#offset = time - monotonic();
    const left = Date.parse(expiresAt) - time;
    this.#endsAt = Number.isNaN(left) ? Infinity : monotonic() + left;
    const guessed = this.userId !== null && this.userId !== userId;
    if (guessed && this.#confirmed) {
      this.#onUserChanged();
      throw USER_CHANGED;
    }
    this.#confirmed = true;
    this.#know(userId);
    return guessed;
  }
  #know(userId) {
    this.userId = userId;
    for (const resolve of this.#onKnown.splice(0)) resolve();
  }
  /** The time until a fresh token is due: a minute before the end, or a fifth of a short life. */
  dueIn() {
    const left = this.#endsAt - monotonic();
    return Math.min(Math.max(left - Math.min(6e4, left / 5), 1e3), 2 ** 31 - 1);
  }
};
function tokenFailure(cause) {
  return cause === USER_CHANGED ? USER_CHANGED : { code: "token_failed", detail: String(cause) };
}

// src/connection.ts
var FATAL = /* @__PURE__ */ new Set([1002, 1003, 1007, 1009, 4400, 4403]);
var CODES = { 4401: "unauthorized", 4429: "rate_limited", 1006: "network", 1011: "internal" };
var REFUSALS = 3;
var QUICK = 2e3;
var QUICK_REFUSALS = 3;
var Connection = class {
  state = "connecting";
  /** Why it is offline or closed. */
  error = null;
  /** Callbacks for the next time that the connection is there or closed: the outboxes. */
  waiting = /* @__PURE__ */ new Set();
  #options;
  #channels = /* @__PURE__ */ new Map();
  /** The channels with an active subscription. */
  #joined = /* @__PURE__ */ new Set();
  /** The subscription of each channel on the current socket. */
  #refs = /* @__PURE__ */ new Map();
  #requests = /* @__PURE__ */ new Map();
  /** What replaces `WebSocket` at the next attempt, if something does. */
  #Poll = null;
  /** Whether HTTP calls replace the socket now. */
  #polls = false;
  /** The socket, or a placeholder while the token is requested. */
  #socket = null;
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
  #retryTimer = 0;
  #openTimer = 0;
  #tokenTimer = 0;
  #watch = 0;
  constructor(options) {
    this.#options = options;
    this.#connect();
  }
  /** Whether it will never connect again. */
  get ended() {
    return this.#ended;
  }
  /** Half to all of a growing time, so that many clients don't return at once. */
  backoff(attempt) {
    const { backoff, backoffMax } = this.#options.timing;
    return Math.min(backoffMax, backoff * 2 ** attempt) * (0.5 + Math.random() / 2);
  }
  async #connect() {
    const { tokens, url, timing, logger } = this.#options;
    clearTimeout(this.#retryTimer);
    const turn = this.#socket = {};
    this.#become("connecting", this.error);
    let token, socket;
    try {
      token = await tokens.get(this.#refusals > 0);
      this.#tokenFailures = 0;
    } catch (cause) {
      if (turn !== this.#socket) return;
      this.#socket = null;
      return this.#retry(this.backoff(this.#tokenFailures++), tokenFailure(cause));
    }
    if (turn !== this.#socket) return;
    if (!token) return this.#giveUp({ code: "unauthorized", detail: "there is no token" });
    this.#startedAt = monotonic();
    try {
      socket = new (this.#Poll ?? this.#options.WebSocket)(url, ["bearer", token]);
    } catch (cause) {
      return this.#giveUp({ code: "refused", detail: String(cause) });
    }
    logger?.debug("connecting to", url);
    this.#polls = !!this.#Poll;
    this.#socket = socket;
    this.#openTimer = setTimeout(() => this.#lost(socket, 1006, "the handshake timed out"), timing.open);
    const current = () => socket === this.#socket;
    socket.onopen = () => current() && this.#put({ op: "ping" });
    socket.onmessage = ({ data }) => current() && this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(socket, code, reason);
    socket.onerror = () => {
    };
  }
  #receive(data) {
    const frame = JSON.parse(data);
    this.#receivedAt = monotonic();
    this.#requestedAt = 0;
    if (!this.#accepted && !this.#accept(frame)) return;
    if (frame.op === "event") {
      const channel = this.#channels.get(frame.channel);
      if (channel && this.#joined.has(channel)) channel.onEvent(frame.data);
    } else if (frame.op === "refresh") {
      this.#channels.get(frame.channel)?.onRefresh?.();
    } else {
      this.#requests.get(frame.ref)?.(frame);
    }
  }
  /** Takes the first frame of a socket. Returns whether the socket may be used. */
  #accept(frame) {
    const { tokens, timing, onIdentity } = this.#options;
    const socket = this.#socket;
    clearTimeout(this.#openTimer);
    if (frame.op === "hello") {
      if (!Number.isSafeInteger(frame.user_id)) {
        this.#giveUp({ code: "refused", detail: "the id of the user is above 2^53 - 1" });
        return false;
      }
      try {
        onIdentity(tokens.confirm(frame));
      } catch {
        return false;
      }
    }
    this.#accepted = true;
    this.#acceptedAt = monotonic();
    this.#quickRefusals = 0;
    this.#watch = setInterval(() => this.#check(), Math.min(timing.idle, timing.probe) / 4);
    this.#refreshIn(tokens.dueIn());
    this.#become("online", this.#polls ? this.error : null);
    for (const channel of this.#channels.values()) this.#subscribe(channel);
    for (const wake of [...this.waiting]) wake();
    return socket === this.#socket;
  }
  /** Checks that the server still answers. */
  #check() {
    const now = monotonic();
    const { idle, answer } = this.#options.timing;
    if (this.#requestedAt && now - this.#requestedAt > this.#patience) this.#lost(this.#socket, 1006, "no answer");
    else if (!this.#requestedAt && now - this.#receivedAt > idle) this.#ping(answer);
  }
  #ping(patience) {
    this.request({ op: "ping" });
    this.#patience = patience;
  }
  /** The socket is closed, or counts as closed. */
  #lost(socket, code, reason = "") {
    if (socket !== this.#socket) return;
    const { timing } = this.#options;
    const accepted = this.#accepted;
    const now = monotonic();
    this.#drop();
    if (accepted && now - this.#acceptedAt > timing.stable) this.#attempt = this.#refusals = 0;
    const detail = `the socket was closed with ${code}${reason && `: ${reason}`}`;
    const error = { code: CODES[code] ?? "unavailable", detail, close_code: code, close_reason: reason };
    if (FATAL.has(code)) return this.#giveUp({ ...error, code: "refused" });
    let wait = this.backoff(this.#attempt++);
    if (code === 4401) {
      if (++this.#refusals > REFUSALS) return this.#giveUp({ ...error, detail: "the server refuses the tokens" });
      if (this.#refusals === 1) wait = 0;
    }
    if (code === 4429) this.#notBefore = now + (wait = Math.max(wait, timing.limited));
    if (code === 1012 && this.#attempt === 1) wait = Math.random() * timing.spread;
    this.#retry(wait, error);
    const refused = !accepted && code === 1006 && now - this.#startedAt < QUICK;
    this.#quickRefusals = this.#polls ? QUICK_REFUSALS - 1 : refused ? this.#quickRefusals + 1 : 0;
    if (this.#polls) this.#Poll = null;
    if (this.#quickRefusals >= QUICK_REFUSALS) this.#diagnose();
  }
  /** Replaces the reason `network` by a more helpful one, if HTTP works, and polls if only WebSockets don't work. */
  async #diagnose() {
    this.#quickRefusals = -7;
    const error = await this.#options.diagnose();
    if (!error || this.state === "online" || this.state === "closed") return;
    const known = this.error?.code === error.code;
    this.error = error;
    if (!known) {
      this.#options.logger?.warn(error.detail);
      this.#options.onError(error);
    }
    if (error.code !== "no_websocket") return;
    this.#Poll = await this.#options.poll().catch(() => null);
    if (this.state === "offline" && !this.#socket) this.#connect();
  }
  #retry(wait, error) {
    this.#retryTimer = setTimeout(() => this.#connect(), wait);
    this.#options.logger?.debug(`offline, next attempt in ${Math.round(wait)} ms:`, error.detail);
    const known = this.error?.code === "no_websocket" || this.error?.code === "origin_not_allowed";
    this.#become("offline", known && error.code === "network" ? this.error : error);
    this.#options.onError(error);
  }
  #giveUp(error) {
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#options.logger?.warn("closed:", error.detail);
    this.#become("closed", error);
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
    }
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    this.#refs.clear();
    for (const answer of requests) answer({ op: "lost" });
    const joined = [...this.#joined];
    this.#joined.clear();
    for (const channel of joined) channel.onLost?.();
  }
  #become(state, error = null) {
    if (state === this.state && error === this.error) return;
    const changed = state !== this.state;
    this.error = error;
    this.state = state;
    if (changed || state === "closed") this.#options.onState(state);
  }
  /** Requests a fresh token while the current one is still valid. */
  #refreshIn(ms) {
    clearTimeout(this.#tokenTimer);
    this.#tokenTimer = setTimeout(() => this.#refresh(), ms);
  }
  async #refresh() {
    const { tokens, onError } = this.#options;
    const socket = this.#socket;
    const token = await tokens.get(true).catch((cause) => {
      if (socket === this.#socket) onError(tokenFailure(cause));
      return null;
    });
    if (socket !== this.#socket) return;
    if (!token) return this.#refreshIn(this.backoff(this.#tokenFailures++));
    this.#tokenFailures = 0;
    const answer = await this.request({ op: "auth", token });
    if (socket !== this.#socket) return;
    if (answer.ok) return this.#refreshIn(tokens.dueIn());
    this.#lost(socket, 4401, answer.error.detail);
  }
  /** Sends a frame and returns the server's answer. */
  request(frame) {
    return new Promise((resolve) => {
      if (!this.#accepted) return resolve({ ok: false, error: NO_ANSWER });
      const ref = this.#put(frame);
      this.#requests.set(ref, (answer) => {
        this.#requests.delete(ref);
        if (answer.op === "ok") resolve({ ok: true, data: null });
        else resolve({ ok: false, error: answer.op === "lost" ? NO_ANSWER : failureOf(answer) });
      });
    });
  }
  /** Sends a frame that needs no answer. Returns whether there is a connection. */
  send(frame) {
    if (this.#accepted) this.#put(frame);
    return this.#accepted;
  }
  #put(frame) {
    const ref = ++this.#ref;
    this.#patience = this.#options.timing.answer;
    this.#requestedAt ||= monotonic();
    this.#socket.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }
  /** Subscribes to a channel, now and after each reconnect. */
  join(channel) {
    this.#channels.set(channel.name, channel);
    if (this.#accepted) this.#subscribe(channel);
  }
  leave(channel) {
    if (this.#channels.get(channel.name) !== channel) return;
    this.#channels.delete(channel.name);
    this.#forget(channel);
    this.send({ op: "unsubscribe", channel: channel.name });
  }
  /** Ends a subscription on this side. Returns whether it was in force. */
  #forget(channel) {
    this.#requests.delete(this.#refs.get(channel));
    this.#refs.delete(channel);
    return this.#joined.delete(channel);
  }
  #subscribe(channel, attempt = 0) {
    const socket = this.#socket;
    const ref = this.#put({ op: "subscribe", channel: channel.name, after: channel.after?.() });
    this.#refs.set(channel, ref);
    this.#requests.set(ref, (answer) => {
      if (answer.op === "lost") return;
      if (answer.op === "ok") {
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
    if (this.state === "online") return this.#ping(this.#options.timing.probe);
    if (this.#ended || this.#socket || monotonic() < this.#notBefore) return;
    this.#refusals = 0;
    this.#connect();
  }
  /** The network is gone, so the socket is useless. */
  offline() {
    if (this.#socket) this.#lost(this.#socket, 1006, "this machine is offline");
  }
  /** Closes the socket until `wake`: a page with an open socket can't be kept for the back button. */
  pause() {
    if (this.state === "closed") return;
    this.#paused = true;
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#become("offline", { code: "network", detail: "the page is hidden" });
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
};
function failureOf({ code, detail, retry_after_ms: wait }) {
  return wait === void 0 ? { code, detail } : { code, detail, retry_after_ms: wait };
}

// src/emitter.ts
var Emitter = class {
  #listeners = /* @__PURE__ */ new Map();
  /** Calls `listener` at each event of this type. Returns a function that ends it. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? /* @__PURE__ */ new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }
  /** Calls the listeners. An error in one is reported, and the others are still called. @internal */
  emit(type, value) {
    for (const listener of [...this.#listeners.get(type) ?? []]) {
      try {
        listener(value);
      } catch (error) {
        report(error);
      }
    }
  }
};
function report(error) {
  if (globalThis.document) reportError(error);
  else console.error(error);
}
var Observable = class extends Emitter {
  #frame;
  #snapshot = null;
  #scheduled = false;
  #emittedAt = -Infinity;
  /** @internal */
  constructor(frame) {
    super();
    this.#frame = frame;
  }
  /** The current state in one frozen object, which is the same object until the state changes. */
  get snapshot() {
    return this.#snapshot ??= Object.freeze(this.describe());
  }
  /** Runs right before a `change` event. @internal */
  beforeChange() {
  }
  /** The state has changed. @internal */
  changed() {
    this.#snapshot = null;
    if (this.#scheduled) return;
    this.#scheduled = true;
    const wait = this.#emittedAt + this.#frame - performance.now();
    if (wait > 0) setTimeout(() => this.#flush(), wait);
    else queueMicrotask(() => this.#flush());
  }
  #flush() {
    this.#scheduled = false;
    this.#emittedAt = performance.now();
    this.beforeChange();
    this.emit("change", void 0);
  }
};

// src/feed.ts
var LATE = 1e3;
var Feed = class extends Observable {
  /** `loading` until the first items are here, `live`, `waiting` for the connection, or `closed` for good. */
  state = "loading";
  /** Why it is closed. */
  error = null;
  /** @internal */
  core;
  /** @internal */
  channel;
  /** Entries that arrived late, for the event `missed`. @internal */
  late = [];
  /** The server's time of the subscription. */
  #joinedAt = 0;
  /** @internal */
  constructor(core, name) {
    super(core.timing.frame);
    this.core = core;
    this.channel = {
      name,
      after: () => this.last(),
      onEvent: (frame) => this.onEvent(frame),
      onJoined: () => {
        this.#joinedAt = core.tokens.serverTime() ?? 0;
        this.become("live");
        this.onJoined();
      },
      onRefresh: () => this.state === "live" && this.onRefresh(),
      onLost: () => this.state === "live" && this.become("waiting"),
      onRefused: (error) => this.end(error)
    };
  }
  /** Loads, then subscribes from there on: nothing is lost in between. @internal */
  async start() {
    const { connection, tokens } = this.core;
    if (connection.ended) return this.end(connection.error);
    await tokens.known();
    const loaded = await this.core.repeat(() => this.load(), () => this.state === "loading");
    if (this.state !== "loading") return;
    if (!loaded.ok) return this.end(loaded.error);
    this.become("waiting");
    connection.join(this.channel);
  }
  /** Loads everything again: the log went back, or the user is another one. @internal */
  restart() {
    const { state } = this;
    if (state === "closed") return;
    this.core.connection.leave(this.channel);
    this.forget();
    if (state === "loading") return;
    this.become("loading");
    this.start();
  }
  /** Ends it. @internal */
  end(error) {
    if (this.state === "closed") return;
    this.core.connection.leave(this.channel);
    this.become("closed", error);
  }
  /** Whether an entry is from before the subscription. @internal */
  isLate(createdAt) {
    return Date.parse(createdAt) < this.#joinedAt - LATE;
  }
  /** @internal */
  become(state, error = null) {
    this.state = state;
    this.error = error;
    this.changed();
  }
};

// src/pager.ts
var PAGE = 200;
var Pager = class {
  /** Whether the first page is here. */
  loaded = false;
  #options;
  #all = /* @__PURE__ */ new Map();
  #shown = null;
  /** The cursor of the next page, as the server gave it; null at the end. */
  #next = null;
  /** The last item of the last page, as it was in that page. */
  #end = null;
  #keep = KEEP;
  #older = null;
  #reload = null;
  /** Items that came in while the list is loaded again. */
  #fresh = null;
  #version = 0;
  /** Grows with each `clear`, after which pages that are on their way are dropped. */
  #epoch = 0;
  constructor(options) {
    this.#options = options;
  }
  /** Newest first. The same array until the list changes. */
  get items() {
    if (!this.#shown) {
      const { compare: compare2 } = this.#options;
      const end = this.#next === null ? null : this.#end;
      const shown = [...this.#all.values()].filter((item) => end === null || compare2(item, end) <= 0).sort(compare2);
      if (shown.length > this.#keep) this.#trim(shown);
      this.#shown = Object.freeze(shown);
    }
    return this.#shown;
  }
  /** Whether there are older items to load. */
  get hasOlder() {
    return this.#next !== null;
  }
  /** Grows with each change from outside the pages. */
  get version() {
    return this.#version;
  }
  /** The item with this id, even if it is not shown yet. */
  find(id) {
    return this.#all.get(id);
  }
  /** Adds items, or later states of items. */
  put(items) {
    const { id, merge } = this.#options;
    this.#version += 1;
    for (const item of items) {
      const known = this.#all.get(id(item));
      this.#all.set(id(item), known && merge ? merge(known, item) : item);
      this.#fresh?.add(id(item));
    }
    this.#changed();
  }
  /** Changes each item that is here. */
  update(change) {
    const fresh = [...this.#all.values()].map((item) => [item, change(item)]);
    const changed = fresh.filter(([before, after]) => before !== after);
    if (changed.length) this.put(changed.map(([, after]) => after));
  }
  /** Forgets everything. */
  clear() {
    this.#all.clear();
    this.#next = this.#end = null;
    this.#keep = KEEP;
    this.loaded = false;
    this.#epoch += 1;
    this.#version += 1;
    this.#changed();
  }
  /** Loads the next page. Calls at the same time load it once. */
  loadOlder(limit = 50) {
    if (this.loaded && this.#next === null) return Promise.resolve(DONE);
    return this.#older ??= this.#loadOlder(limit).finally(() => this.#older = null);
  }
  async #loadOlder(limit) {
    const epoch = this.#epoch;
    await this.#reload;
    if (epoch !== this.#epoch) return DONE;
    const before = this.#next;
    const page = await this.#options.load(before, limit);
    if (!page.ok) return page;
    if (before !== this.#next || epoch !== this.#epoch) return DONE;
    this.#add(page.data);
    if (this.loaded) this.#keep += page.data.items.length;
    this.loaded = true;
    this.#changed();
    return DONE;
  }
  /** Loads everything that is shown again, from the newest item on: at least a page. */
  reload(limit = 50) {
    return this.#reload ??= this.#loadAgain(limit).finally(() => this.#reload = this.#fresh = null);
  }
  async #loadAgain(limit) {
    const wanted = Math.max(limit, this.items.length);
    const [fresh, epoch] = [this.#fresh = /* @__PURE__ */ new Set(), this.#epoch];
    const pages = [];
    let count = 0;
    for (let before = null; ; ) {
      const page = await this.#options.load(before, Math.min(PAGE, wanted - count));
      if (!page.ok) return page;
      if (epoch !== this.#epoch) return DONE;
      pages.push(page.data);
      count += page.data.items.length;
      before = page.data.next;
      if (before === null || count >= wanted) break;
    }
    for (const known of [...this.#all.keys()]) if (!fresh.has(known)) this.#all.delete(known);
    this.#end = null;
    this.#next = null;
    for (const page of pages) this.#add(page);
    this.loaded = true;
    this.#changed();
    return DONE;
  }
  #add({ items, next }) {
    const { id, merge } = this.#options;
    for (const item of items) {
      const known = this.#all.get(id(item));
      if (!known || merge) this.#all.set(id(item), known ? merge(known, item) : item);
    }
    this.#next = next;
    this.#end = items.at(-1) ?? this.#end;
  }
  #changed() {
    this.#shown = null;
    if (this.#all.size > 2 * this.#keep) void this.items;
    this.#options.onChange();
  }
  /** Forgets the oldest items. They can be loaded again. */
  #trim(shown) {
    const { id, cursor = id } = this.#options;
    for (const item of shown.splice(this.#keep)) this.#all.delete(id(item));
    this.#end = shown.at(-1);
    this.#next = cursor(this.#end);
  }
};

// src/typing.ts
var Typing = class {
  /** The other users who are typing. A new array after each change. */
  typists = [];
  #connection;
  #interval;
  #onChange;
  #channel;
  #sentAt = -Infinity;
  /** `interval`: the shortest time between two signs of typing. */
  constructor(connection, id, interval, onChange) {
    this.#connection = connection;
    this.#interval = interval;
    this.#onChange = onChange;
    this.#channel = {
      name: `typing/${id}`,
      onEvent: ({ user_id, username, is_typing: isTyping }) => {
        const others = this.typists.filter((person) => person.user_id !== user_id);
        this.#show(isTyping ? [...others, { user_id, username }] : others);
      },
      onJoined: () => this.#sentAt = -Infinity,
      onLost: () => this.#show([])
    };
  }
  join() {
    this.#connection.join(this.#channel);
  }
  leave() {
    this.type(false);
    this.#connection.leave(this.#channel);
    this.#show([]);
  }
  /** The user types, or has stopped. */
  type(isTyping) {
    const now = monotonic();
    if (isTyping ? now - this.#sentAt < this.#interval : this.#sentAt === -Infinity) return;
    const sent = this.#connection.send({ op: "send", channel: this.#channel.name, data: { is_typing: isTyping } });
    this.#sentAt = isTyping && sent ? now : -Infinity;
  }
  /** A message of this user has arrived, which ends the typing. */
  ended(userId) {
    this.#show(this.typists.filter((person) => person.user_id !== userId));
  }
  #show(typists) {
    if (!typists.length && !this.typists.length) return;
    this.typists = Object.freeze([...typists]);
    this.#onChange();
  }
};

// src/conversation.ts
var Conversation = class extends Feed {
  id;
  /** The server's description, once it is loaded. */
  info = null;
  #typing;
  #log;
  #outbox;
  /** How far each user has read, by `seq`. */
  #markers = /* @__PURE__ */ new Map();
  /** How far every other participant has read, by `seq`. */
  #readByAll = 0;
  /** The end of the log, which may be empty. */
  #last = { seq: 0, id: 0 };
  /** The message up to which the user has read, and up to which the server knows it. */
  #read = { id: 0, reported: 0, sending: false };
  #messages = null;
  #uses = 0;
  #linger;
  /** @internal */
  constructor(core, id) {
    super(core, `chat/${id}`);
    this.id = id;
    const changed = () => this.changed();
    this.#log = new Pager({
      id: ({ seq }) => seq,
      compare: (a, b) => b.seq - a.seq,
      cursor: ({ message_id }) => message_id,
      load: (before, limit) => this.#loadPage(before, limit),
      onChange: changed
    });
    this.#typing = new Typing(core.connection, id, core.timing.typing, changed);
    this.#outbox = core.outbox(id);
    this.#outbox.follow(changed);
    this.start();
  }
  /** Oldest first; messages that are being sent come last. The same array until it changes. */
  get messages() {
    return this.#messages ??= Object.freeze(this.#merge());
  }
  #merge() {
    const stored = this.info ? [...this.#log.items].reverse() : [];
    const unsent = this.#outbox.messages;
    if (!unsent.length) return stored;
    const keys = new Set(stored.map(({ key }) => key));
    return [...stored, ...unsent.filter(({ key }) => !keys.has(key))];
  }
  /** The other users who are typing. */
  get typists() {
    return this.#typing.typists;
  }
  /** The number of messages that the user has not read. */
  get unread() {
    return Math.max(0, this.#last.seq - this.#markerOf(this.core.userId));
  }
  /** Whether there are older messages to load. */
  get hasOlder() {
    return this.#log.hasOlder;
  }
  /**
   * Sends a message. It is in `messages` at once; without a connection, it is sent once there is one.
   *
   * Resolves to the message once it is `sent` or `failed`; never rejects.
   */
  send(text) {
    this.type(false);
    return this.#outbox.send(text);
  }
  /** Sends a failed message again; it can't be stored twice. `null`: no such message has failed. */
  retry(key) {
    return this.#outbox.retry(key);
  }
  /** Removes a message that failed. */
  discard(key) {
    this.#outbox.discard(key);
  }
  /** The user has read all messages, or those up to `messageId`. */
  read(messageId = this.#last.id) {
    const upTo = this.#log.items.find((message) => message.message_id <= messageId)?.seq ?? 0;
    if (upTo <= this.#markerOf(this.core.userId)) return;
    this.#mark(this.core.userId, upTo);
    this.#read.id = Math.max(this.#read.id, messageId);
    this.#sendRead();
    this.changed();
  }
  /** The user types, or has stopped. Call it on every key: it sends only what is needed, and ends by itself. */
  type(isTyping = true) {
    this.#typing.type(isTyping);
  }
  /** Loads a page of older messages. */
  async loadOlder(limit = 50) {
    return this.#log.loaded ? this.#log.loadOlder(limit) : DONE;
  }
  /**
   * Ends one use: one call of `rt.conversation(id)`. After the last one, the conversation stays open for 5 s, so that
   * a page which comes back at once finds it. Messages that wait are still sent.
   */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.type(false);
    this.#linger = setTimeout(() => this.end(CLOSED), this.core.timing.linger);
  }
  /** Begins a use. @internal */
  retain() {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }
  /** Fails what waits to be sent. With `forget`, nothing is shown any more. @internal */
  abort(error, forget) {
    this.#outbox.end(error, forget);
    if (forget) this.forget();
    this.end(error);
  }
  /** @internal */
  end(error) {
    if (this.state === "closed") return;
    clearTimeout(this.#linger);
    this.#typing.leave();
    super.end(error);
    this.#outbox.follow(null);
    if (this.core.conversations.get(this.id) === this) this.core.conversations.delete(this.id);
  }
  /** @internal */
  forget() {
    this.#log.clear();
    this.#markers.clear();
    this.#readByAll = 0;
    this.#last = { seq: 0, id: 0 };
    this.#read = { id: 0, reported: 0, sending: false };
    this.late = [];
    this.info = null;
  }
  /** @internal */
  last() {
    return this.#last.id;
  }
  /** @internal */
  async load() {
    const [info, page] = await Promise.all([
      this.#loadInfo(),
      this.#log.loaded ? DONE : this.#log.loadOlder()
    ]);
    if (!info.ok || !page.ok) return info.ok ? page : info;
    if (!this.#log.loaded) return this.load();
    this.info = info.data;
    const [newest] = this.#log.items;
    if (newest) this.#last = { seq: newest.seq, id: newest.message_id };
    for (const message of this.#log.items) this.#outbox.settle(message);
    this.#showRead();
    this.#typing.join();
    return info;
  }
  async #loadPage(before, limit) {
    const cursor = before === null ? "" : `&before=${before}`;
    const page = await this.core.call("GET", `/api/conversations/${this.id}/messages?limit=${limit}${cursor}`);
    if (!page.ok) return page;
    for (const { sender_id: sender, seq } of page.data.items) this.#mark(sender, seq);
    const items = page.data.items.map((wire) => this.#storedOf(wire));
    return { ok: true, data: { items, next: page.data.next } };
  }
  /** @internal */
  onEvent(frame) {
    if (frame.type === "message") this.#onMessage(frame);
    else if (frame.type === "read") {
      this.#mark(frame.user_id, frame.seq);
      this.#showRead();
    }
    this.changed();
  }
  #onMessage(wire) {
    const { seq, message_id: id, sender_id: sender } = wire;
    if (seq <= this.#last.seq) return this.#onRepeat(wire);
    if (seq > this.#last.seq + 1 && this.#last.seq > 0) {
      this.core.connection.leave(this.channel);
      return this.core.connection.join(this.channel);
    }
    const message = this.#storedOf(wire);
    this.#last = { seq, id };
    this.#mark(sender, seq);
    this.#log.put([message]);
    this.#showRead();
    if (message.mine) return this.#outbox.settle(message);
    this.#typing.ended(sender);
    if (this.isLate(wire.created_at)) this.late.push(message);
    else this.emit("message", message);
  }
  /** A message with a known number: a repeated send, or the database was restored to an earlier time. */
  #onRepeat(wire) {
    const known = this.#log.find(wire.seq);
    const own = this.#isMine(wire) && this.#outbox.has(wire.client_id);
    if (known ? known.message_id !== wire.message_id || known.created_at !== wire.created_at : !own) this.restart();
    else if (own) this.#outbox.settle(known ?? this.#storedOf(wire));
  }
  #isMine(wire) {
    return wire.sender_id === this.core.userId;
  }
  #storedOf(wire) {
    const { message_id, seq, sender_id, sender_username, content, created_at, client_id } = wire;
    const mine = this.#isMine(wire);
    if (mine && wire.is_read) this.#readByAll = Math.max(this.#readByAll, seq);
    return {
      key: mine && client_id || `message-${message_id}`,
      message_id,
      seq,
      sender_id,
      sender_username,
      content,
      created_at,
      ...mine && client_id && { client_id },
      mine,
      state: !mine ? "received" : seq <= this.#readByAll ? "read" : "sent"
    };
  }
  #wireOf({ key: _, mine, state, ...message }) {
    const others = this.info?.participants.filter((person) => person.user_id !== message.sender_id) ?? [];
    const isRead = mine ? state === "read" : others.every((person) => this.#markerOf(person.user_id) >= message.seq);
    return { conversation_id: this.id, ...message, is_read: isRead };
  }
  #markerOf(user) {
    return this.#markers.get(user) ?? 0;
  }
  /** Moves a marker, which only moves forward. */
  #mark(user, seq) {
    this.#markers.set(user, Math.max(seq, this.#markerOf(user)));
  }
  /** Shows as read what every other participant has read. */
  #showRead() {
    const others = this.info?.participants.filter((person) => person.user_id !== this.core.userId) ?? [];
    if (!others.length) return;
    const read = Math.min(...others.map((person) => this.#markerOf(person.user_id)));
    if (read <= this.#readByAll) return;
    this.#readByAll = read;
    this.#showReadByAll();
  }
  #showReadByAll() {
    this.#log.update((message) => message.state === "sent" && message.seq <= this.#readByAll ? { ...message, state: "read" } : message);
  }
  /** @internal */
  async onRefresh() {
    const [info, page] = await Promise.all([this.#loadInfo(), this.#loadPage(null, 50)]);
    if (!info.ok || !page.ok || this.state !== "live") return;
    this.#showReadByAll();
    this.changed();
  }
  /** Reads the server's description, and the user's marker with it. */
  async #loadInfo() {
    const info = await this.core.call("GET", `/api/conversations/${this.id}`);
    if (info.ok) this.#mark(this.core.userId, (info.data.last_message?.seq ?? 0) - info.data.unread_count);
    return info;
  }
  /** @internal */
  onJoined() {
    this.#sendRead();
  }
  /** Sends the user's marker; again if the answer was lost. */
  async #sendRead() {
    const read = this.#read;
    if (read.sending || read.reported >= read.id || this.state !== "live") return;
    read.sending = true;
    const upTo = read.id;
    const data = { type: "read", message_id: upTo };
    const answer = await this.core.connection.request({ op: "send", channel: this.channel.name, data });
    read.sending = false;
    if (answer.ok) read.reported = upTo;
    else if (answer.error.code === "network") return;
    else if (!await this.core.again(answer.error, 1)) read.reported = upTo;
    this.#sendRead();
  }
  /** @internal */
  describe() {
    const { id, state, error, info, messages, typists, unread, hasOlder } = this;
    return { id, state, error, info, messages, typists, unread, hasOlder };
  }
  /** @internal */
  changed() {
    this.#messages = null;
    super.changed();
  }
  /** @internal */
  beforeChange() {
    const late = this.late.splice(0);
    if (late.length) this.emit("missed", Object.freeze(late));
    if (this.state !== "live") return;
    const [last] = this.#log.items;
    this.core.list?.onChange(this.id, { last_message: last ? this.#wireOf(last) : null, unread_count: this.unread });
  }
};

// src/conversations.ts
var MANY = 10;
var at = (item) => item.last_message?.created_at ?? item.created_at;
var lastSeq = (item) => item.last_message?.seq ?? 0;
function compare(a, b) {
  return at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : b.conversation_id - a.conversation_id;
}
function later(known, fresh) {
  if (lastSeq(known) !== lastSeq(fresh)) return lastSeq(known) > lastSeq(fresh) ? known : fresh;
  const unread = Math.min(known.unread_count, fresh.unread_count);
  const last = fresh.last_message && known.last_message?.is_read ? { ...fresh.last_message, is_read: true } : fresh.last_message;
  return { ...fresh, unread_count: unread, last_message: last };
}
var Conversations = class extends Observable {
  /** Why the last page could not be loaded; null after the next success. */
  error = null;
  #core;
  #list;
  /** Conversations to read again in a moment. */
  #moved = /* @__PURE__ */ new Set();
  #timer;
  #loading = null;
  /** @internal */
  constructor(core) {
    super(core.timing.frame);
    this.#core = core;
    this.#list = new Pager({
      id: ({ conversation_id }) => conversation_id,
      compare,
      merge: later,
      load: (before, limit) => core.call("GET", `/api/conversations?limit=${limit}${before === null ? "" : `&before=${before}`}`),
      onChange: () => this.changed()
    });
    this.reload();
  }
  /** Newest activity first. The same array until it changes. */
  get items() {
    return this.#list.items;
  }
  /** Whether the first page is loaded. */
  get loaded() {
    return this.#list.loaded;
  }
  /** Whether there are older conversations to load. */
  get hasOlder() {
    return this.#list.hasOlder;
  }
  /** A conversation that is known here, even if it is older than the list. */
  find(id) {
    return this.#list.find(id);
  }
  /** Reads everything that is shown again. */
  reload() {
    return this.#loading ??= this.#core.repeat(() => this.#result(this.#list.reload())).finally(() => this.#loading = null);
  }
  /** Loads a page of older conversations. */
  loadOlder(limit = 50) {
    return this.loaded ? this.#result(this.#list.loadOlder(limit)) : this.reload();
  }
  async #result(loading) {
    const page = await loading;
    this.error = page.ok ? null : page.error;
    this.changed();
    return page;
  }
  /** Shows nothing more. @internal */
  forget() {
    clearTimeout(this.#timer);
    this.#moved.clear();
    this.#list.clear();
  }
  /** @internal */
  onMoved(id) {
    this.#moved.add(id);
    this.#timer ??= setTimeout(() => this.#refresh(), 200 + Math.random() * 200);
  }
  /** @internal */
  onChange(id, change) {
    const item = this.#list.find(id);
    if (!item) return void (this.loaded && this.onMoved(id));
    const text = ({ unread_count: unread, last_message: last }) => [unread, last?.message_id, last?.is_read].join();
    if (text(item) !== text(change)) this.#list.put([{ ...item, ...change }]);
  }
  /** @internal */
  onSettled() {
    this.reload();
  }
  /** Reads the conversations in which something happened. */
  #refresh() {
    this.#timer = void 0;
    const ids = [...this.#moved];
    this.#moved.clear();
    if (ids.length > MANY) return void this.reload();
    for (const id of ids) this.#read(id);
  }
  async #read(id) {
    const info = await this.#core.repeat(() => this.#core.call("GET", `/api/conversations/${id}`), () => !this.#moved.has(id));
    if (info.ok) this.#list.put([info.data]);
  }
  /** @internal */
  describe() {
    const { items, loaded, error, hasOlder } = this;
    return { items, loaded, error, hasOlder };
  }
};

// src/ids.ts
function idOf(value) {
  const id = typeof value === "string" && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof id === "number" && Number.isSafeInteger(id) && id > 0) return id;
  throw new RangeError(`${String(value)} is not an id: ids are whole numbers from 1 to 2^53 - 1`);
}
function randomId() {
  const parts = new Uint32Array(4);
  if (globalThis.crypto) crypto.getRandomValues(parts);
  else parts.forEach((_, at2) => parts[at2] = Math.random() * 2 ** 32);
  return [...parts].map((part) => part.toString(16).padStart(8, "0")).join("");
}

// src/outbox.ts
var TRIES = 2;
var Outbox = class {
  #core;
  #id;
  /** Runs after each change; null if the conversation is closed. Then no log shows what is stored. */
  #onChange = null;
  #drafts = [];
  #sending = false;
  constructor(core, id) {
    this.#core = core;
    this.#id = id;
  }
  /** The messages, in the order in which they were sent. */
  get messages() {
    return this.#drafts.map(({ shown }) => shown);
  }
  has(key) {
    return this.#drafts.some(({ shown }) => shown.key === key);
  }
  /** Connects the outbox to an open conversation, or with null to none. */
  follow(onChange) {
    this.#onChange = onChange;
    this.#settleStored();
  }
  send(text) {
    const content = text.trim();
    const key = randomId();
    return new Promise((settle) => {
      const shown = {
        key,
        message_id: null,
        seq: null,
        sender_id: this.#core.userId ?? 0,
        sender_username: "",
        content,
        created_at: (/* @__PURE__ */ new Date()).toISOString(),
        client_id: key,
        mine: true,
        state: "sending"
      };
      const draft = { shown, tries: 0, stored: false, saved: void 0, settle };
      const waiting = this.#drafts.filter((other) => other.shown.state === "sending").length;
      this.#drafts.push(draft);
      if (!content) this.#fail(draft, { code: "invalid_message", detail: "the message is empty" });
      else if ([...content].length > CHARS) this.#fail(draft, { code: "message_too_long", detail: `at most ${CHARS} characters` });
      else if (waiting >= QUEUE) this.#fail(draft, { code: "queue_full", detail: `${QUEUE} messages wait to be sent` });
      else {
        this.#save(draft);
        this.#start();
      }
      this.#changed();
    });
  }
  /** Takes over messages of a tab that is gone. */
  restore(drafts) {
    for (const { client_id: key, content, created_at, error } of drafts) {
      if (this.has(key)) continue;
      const shown = {
        key,
        message_id: null,
        seq: null,
        sender_id: this.#core.userId ?? 0,
        sender_username: "",
        content,
        created_at,
        client_id: key,
        mine: true,
        ...error ? { state: "failed", error } : { state: "sending" }
      };
      const draft = { shown, tries: 0, stored: false, saved: void 0, settle: () => {
      } };
      this.#drafts.push(draft);
      this.#save(draft);
    }
    this.#start();
    this.#changed();
  }
  /** Sends a failed message again. Its `client_id` is the same, so it can't be stored twice. */
  retry(key) {
    const draft = this.#drafts.find(({ shown: shown2 }) => shown2.key === key && shown2.state === "failed");
    if (!draft) return null;
    const { error: _, ...shown } = draft.shown;
    return new Promise((settle) => {
      Object.assign(draft, { shown: { ...shown, state: "sending" }, tries: 0, settle });
      this.#save(draft);
      this.#start();
      this.#changed();
    });
  }
  discard(key) {
    for (const draft of this.#drafts.filter(({ shown }) => shown.key === key && shown.state === "failed")) this.#drop(draft);
    this.#changed();
  }
  /** The log has this message now. */
  settle(message) {
    const draft = this.#drafts.find(({ shown }) => shown.key === message.client_id);
    if (draft) this.#remove(draft, message);
  }
  /** Fails everything that waits; with `forget`, nothing stays. */
  end(error, forget) {
    for (const draft of [...this.#drafts]) if (draft.shown.state === "sending") this.#fail(draft, error);
    if (forget) this.#drafts = [];
    this.#changed();
  }
  #start() {
    this.#core.connection.waiting.add(this.#pump);
    this.#pump();
  }
  #pump = async () => {
    if (this.#sending) return;
    this.#sending = true;
    const { connection } = this.#core;
    let draft;
    while (draft = this.#drafts.find(({ shown, stored }) => shown.state === "sending" && !stored)) {
      await draft.saved;
      if (!this.#drafts.includes(draft) || draft.shown.state !== "sending") continue;
      if (connection.state === "closed") this.#fail(draft, connection.error);
      else if (!await this.#transmit(draft)) break;
    }
    this.#sending = false;
    if (!draft) connection.waiting.delete(this.#pump);
    this.#changed();
  };
  /** Tries to send one message. Returns false if there is no connection. */
  async #transmit(draft) {
    const { connection } = this.#core;
    const data = { message: draft.shown.content, client_id: draft.shown.key };
    const answer = await connection.request({ op: "send", channel: `chat/${this.#id}`, data });
    if (!this.#drafts.includes(draft)) return true;
    if (answer.ok) {
      draft.stored = true;
      this.#settleStored();
      return true;
    }
    const { error } = answer;
    if (error.code === "network") return connection.state === "online" || connection.state === "closed";
    if (error.code !== "rate_limited") draft.tries += 1;
    if (draft.tries >= TRIES || !await this.#core.again(error, draft.tries)) this.#fail(draft, error);
    return true;
  }
  /** Settles what is stored, if no log shows it. */
  #settleStored() {
    if (this.#onChange) return;
    for (const draft of this.#drafts.filter(({ stored }) => stored)) {
      this.#remove(draft, { ...draft.shown, state: "sent" });
    }
    this.#changed();
  }
  #remove(draft, message) {
    this.#drop(draft);
    draft.settle(message);
  }
  #drop(draft) {
    this.#drafts = this.#drafts.filter((other) => other !== draft);
    this.#keep((store) => store.delete(draft.shown.key));
  }
  #save(draft) {
    const { base, tab, tokens } = this.#core;
    const order = this.#core.order += 1;
    draft.saved = this.#keep(async (store) => {
      await tokens.known();
      const { key, content, created_at } = draft.shown;
      const error = draft.shown.state === "failed" ? { error: draft.shown.error } : {};
      const user_id = tokens.userId;
      await store.put({ client_id: key, base, user_id, conversation_id: this.#id, content, created_at, order, tab, ...error });
    });
  }
  /** Changes what is kept. If that fails, messages are sent all the same. */
  #keep(change) {
    return this.#core.drafts?.then(change).catch(() => {
    });
  }
  #fail(draft, error) {
    draft.shown = { ...draft.shown, state: "failed", error };
    if (draft.saved) this.#save(draft);
    const failed = this.#drafts.filter(({ shown }) => shown.state === "failed");
    for (const old of failed.slice(0, -QUEUE)) this.#drop(old);
    draft.settle(draft.shown);
    this.#changed();
  }
  #changed() {
    if (this.#onChange) return this.#onChange();
    if (!this.#drafts.length) this.#core.outboxes.delete(this.#id);
  }
};

// src/core.ts
var Core = class extends Emitter {
  timing;
  tokens;
  http;
  storage;
  /** Identifies the server in the storage. */
  base;
  connection;
  conversations = /* @__PURE__ */ new Map();
  /** The unsent messages of each conversation that has any. */
  outboxes = /* @__PURE__ */ new Map();
  list = null;
  /** Where unsent messages are kept, if they are. */
  drafts = null;
  /** The order of the last message that is kept. */
  order = Date.now();
  /** Identifies this client among the tabs of a browser. */
  tab = randomId();
  constructor(base, timing, tokens, http, storage) {
    super();
    this.base = base;
    this.timing = timing;
    this.tokens = tokens;
    this.http = http;
    this.storage = storage;
  }
  get userId() {
    return this.tokens.userId;
  }
  /** The unsent messages of a conversation. */
  outbox(id) {
    const outbox = this.outboxes.get(id) ?? new Outbox(this, id);
    this.outboxes.set(id, outbox);
    return outbox;
  }
  call(method, path, body) {
    return this.http.call(method, path, body);
  }
  /** Repeats a call while that may help and it is wanted. */
  async repeat(call, wanted = () => true) {
    for (let attempt = 0; ; attempt += 1) {
      const answer = await call();
      if (answer.ok || !wanted() || !await this.again(answer.error, attempt)) return answer;
    }
  }
  /** Waits until a call may be repeated. Returns false if that is no use. */
  async again(error, attempt) {
    const { connection } = this;
    if (connection.ended) return false;
    if (error.code === "unauthorized") {
      await this.#nextState((state) => state === "online");
      return !connection.ended;
    }
    if (!TEMPORARY.has(error.code)) return false;
    const wait = Math.max(error.retry_after_ms ?? 0, connection.backoff(attempt));
    let timer;
    const pause = new Promise((resolve) => timer = setTimeout(resolve, wait));
    const woken = error.code === "network" ? this.#nextState((state) => state === "online") : this.#nextState(() => false);
    await Promise.race([pause, woken]);
    clearTimeout(timer);
    return !connection.ended;
  }
  /** Resolves at the next state that is accepted, and at the end. */
  #nextState(accept) {
    return new Promise((resolve) => {
      const stop = this.on("state", (state) => {
        if (!accept(state) && !this.connection.ended) return;
        stop();
        resolve();
      });
    });
  }
};

// src/http.ts
var Http = class {
  #base;
  #tokens;
  #fetch;
  #timeout;
  /** `base`: the gateway's address without a slash at the end. */
  constructor(base, tokens, fetch, timeout) {
    this.#base = base;
    this.#tokens = tokens;
    this.#fetch = fetch;
    this.#timeout = timeout;
  }
  /** Calls the API. If the token is refused, it tries once more with a fresh one. */
  async call(method, path, body) {
    for (let refresh = false; ; refresh = true) {
      let token;
      try {
        token = await this.#tokens.get(refresh);
      } catch (cause) {
        return { ok: false, error: tokenFailure(cause) };
      }
      if (!token) return { ok: false, error: { code: "unauthorized", detail: "there is no token" } };
      const answer = await this.send(method, path, token, body);
      if (answer.ok || answer.error.code !== "unauthorized" || refresh) return answer;
    }
  }
  /** Calls the API once, with this token. */
  async send(method, path, token, body) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), this.#timeout);
    try {
      const answer = await this.#fetch(this.#base + path, {
        method,
        headers: { Authorization: `Bearer ${token}`, ...body && { "Content-Type": "application/json" } },
        ...body && { body: JSON.stringify(body) },
        signal: abort.signal
      });
      const text = await answer.text();
      const data = text ? JSON.parse(text) : null;
      if (answer.ok) return { ok: true, data };
      return { ok: false, error: failureOf({ code: "internal", detail: `HTTP ${answer.status}`, ...data }) };
    } catch {
      return { ok: false, error: NO_ANSWER };
    } finally {
      clearTimeout(timer);
    }
  }
  /** Why sockets fail, if HTTP works. */
  async diagnose() {
    const answer = await this.call("GET", "/api/unread");
    if (answer.ok || answer.error.code !== "network") {
      const detail = "HTTP reaches the server and WebSockets do not: a proxy may block them, or ALLOWED_ORIGINS lacks this page";
      return { code: "no_websocket", detail };
    }
    const origin = globalThis.location?.origin;
    if (!origin) return null;
    try {
      await this.#fetch(`${this.#base}/healthz`, { mode: "no-cors", cache: "no-store" });
      return { code: "origin_not_allowed", detail: `the server refuses this page: add ${origin} to ALLOWED_ORIGINS` };
    } catch {
      return null;
    }
  }
};

// src/notifications.ts
var REPEATS = 3;
var Notifications = class extends Feed {
  /** The number of unread notifications, loaded or not. */
  unread = 0;
  #log;
  #items = null;
  /** The id after which to resume. */
  #last = 0;
  /** The announcements so far, one after the other. */
  #announced = Promise.resolve();
  #timer;
  /** @internal */
  constructor(core) {
    super(core, "notifications");
    this.#log = new Pager({
      id: ({ notification_id }) => notification_id,
      compare: (a, b) => b.notification_id - a.notification_id,
      // A notification that was read stays so.
      merge: (known, fresh) => known.is_read && !fresh.is_read ? { ...fresh, is_read: true } : fresh,
      load: (before, limit) => core.call("GET", `/api/notifications?limit=${limit}${before === null ? "" : `&before=${before}`}`),
      onChange: () => this.changed()
    });
    this.start();
  }
  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  get items() {
    return this.#items ??= Object.freeze(newestOfEach(this.#log.items));
  }
  /** Whether there are older notifications to load. */
  get hasOlder() {
    return this.#log.hasOlder;
  }
  /** Marks a notification as read. */
  read(id) {
    return this.#request({ type: "read", notification_id: id });
  }
  /** Marks all notifications as read. */
  readAll() {
    return this.#request({ type: "read_all" });
  }
  /** Loads a page of older notifications, or more, if all of a page are hidden behind newer ones. */
  async loadOlder(limit = 50) {
    if (!this.#log.loaded) return DONE;
    const before = this.items.length;
    for (; ; ) {
      const page = await this.#log.loadOlder(limit);
      if (!page.ok || !this.hasOlder || this.items.length > before) return page;
    }
  }
  /** Ends the subscription. `rt.notifications()` begins a new one. */
  close() {
    this.end(CLOSED);
  }
  /** @internal */
  end(error) {
    clearTimeout(this.#timer);
    super.end(error);
  }
  /** Ends it; nothing stays to be shown. @internal */
  forget() {
    this.#log.clear();
    this.unread = this.#last = 0;
    this.late = [];
  }
  /** @internal */
  last() {
    return this.#last;
  }
  /** @internal */
  async load() {
    const page = await this.#log.reload();
    const [newest] = this.#log.items;
    this.#last = newest?.notification_id ?? 0;
    this.unread = newest?.unread_count ?? 0;
    return page;
  }
  #request(data) {
    return this.core.connection.request({ op: "send", channel: this.channel.name, data });
  }
  /** A reconnect replays notifications, but not what was read meanwhile: once reads arrive again, lists are read again. @internal */
  onJoined() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.state === "live" && this.onRefresh(), this.core.timing.settle * (1 + Math.random()));
  }
  /** @internal */
  onRefresh() {
    this.#reload();
    this.core.list?.onSettled();
  }
  /** Reads the loaded part again, until nothing arrives meanwhile: then the unread count is right. */
  async #reload() {
    for (let attempt = 0; attempt < REPEATS; attempt += 1) {
      const { version } = this.#log;
      const page = await this.core.repeat(() => this.#log.reload(), () => this.state === "live");
      if (!page.ok || this.state !== "live") return;
      this.unread = this.#log.items[0]?.unread_count ?? 0;
      this.changed();
      if (version === this.#log.version) return;
    }
  }
  /** @internal */
  onEvent(frame) {
    if (frame.type === "read" && "conversation_id" in frame) return this.#moved(frame.conversation_id);
    if (frame.type === "read") {
      const { notification_id: id, all } = frame;
      const read = this.#log.items.filter((item) => !item.is_read && (item.notification_id === id || all && item.notification_id <= id));
      this.#log.put(read.map((item) => ({ ...item, is_read: true })));
      for (const item of read) this.#movedBy(item);
    } else if ("notification_id" in frame) {
      const id = frame.notification_id;
      const known = this.#log.find(id);
      if (known ? known.created_at !== frame.created_at : id <= this.#last) return this.restart();
      this.#last = Math.max(this.#last, id);
      this.#log.put([frame]);
      this.#movedBy(frame);
      if (!frame.is_read && !known) {
        if (this.isLate(frame.created_at)) this.late.push(frame);
        else this.#announce(frame);
      }
    } else return;
    this.unread = frame.unread_count;
    this.changed();
  }
  #movedBy({ type, data }) {
    if (type === "message_received") this.#moved(data.conversation_id);
  }
  #moved(conversationId) {
    if (this.core.conversations.get(conversationId)?.state !== "live") this.core.list?.onMoved(conversationId);
  }
  /** Emits a new notification in one of the user's tabs. */
  #announce(item) {
    const { base, storage, userId } = this.core;
    this.#announced = this.#announced.then(async () => {
      if (await isFirst(`vyzio-realtime/${base}/${userId}`, storage, item)) this.emit("notification", item);
    });
  }
  /** @internal */
  describe() {
    const { state, error, items, unread, hasOlder } = this;
    return { state, error, items, unread, hasOlder };
  }
  /** @internal */
  changed() {
    this.#items = null;
    super.changed();
  }
  /** @internal */
  beforeChange() {
    const missed = this.late.splice(0).filter((item) => !this.#log.find(item.notification_id)?.is_read);
    if (missed.length) this.emit("missed", Object.freeze(newestOfEach(missed.reverse())));
  }
};
function newestOfEach(items) {
  const conversations = /* @__PURE__ */ new Set();
  return items.filter(({ type, data }) => {
    if (type !== "message_received") return true;
    const { size } = conversations;
    return conversations.add(data.conversation_id).size > size;
  });
}
async function isFirst(key, storage, { notification_id: id, created_at: at2 }) {
  const { document } = globalThis;
  if (!document || !storage) return true;
  const take = () => {
    const [announced, announcedAt] = JSON.parse(storage.getItem(key) ?? '[0, ""]');
    if (announced >= id && announcedAt >= at2) return false;
    storage.setItem(key, JSON.stringify([id, at2]));
    return true;
  };
  try {
    if (document.visibilityState !== "visible") await new Promise((resolve) => setTimeout(resolve, 400));
    return navigator.locks ? await navigator.locks.request(key, take) : take();
  } catch {
    return true;
  }
}

// src/index.ts
function baseOf(url) {
  const absolute = /^(http|ws)s?:\/\//.test(url) ? url : new URL(url, globalThis.location?.href).href;
  return absolute.replace(/[?#].*$/, "").replace(/^ws/, "http").replace(/\/+$/, "");
}
function browserStorage() {
  try {
    return globalThis.document && globalThis.localStorage;
  } catch {
    return void 0;
  }
}
var Realtime = class extends Emitter {
  #core;
  #notifications = null;
  #list = null;
  #stops = [];
  /** @internal */
  constructor(options) {
    super();
    const { WebSocket = globalThis.WebSocket, logger } = options;
    if (!WebSocket) throw new TypeError("this platform has no WebSocket: pass one as an option");
    const fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
    const timing = { ...TIMING, ...options.timing };
    const base = baseOf(options.url);
    const tokens = new Tokens(options, timing.http, () => this.#userChanged());
    const http = new Http(base, tokens, fetch, timing.http);
    const core = this.#core = new Core(base, timing, tokens, http, options.storage ?? browserStorage());
    core.connection = new Connection({
      url: `${base.replace(/^http/, "ws")}/ws/`,
      tokens,
      WebSocket,
      timing,
      ...logger && { logger },
      onState: (state) => {
        core.emit("state", state);
        this.emit("state", state);
      },
      onError: (error) => this.emit("error", error),
      onIdentity: (corrected) => corrected && this.#restart(),
      diagnose: () => http.diagnose(),
      poll: async () => (await import("./poll.js")).pollSocket(http, timing)
    });
    this.#watchPage();
    if (options.persist) this.#persist(options.persist);
  }
  /** `connecting`, `online`, `offline` (it tries again) or `closed` (it does not). */
  get state() {
    return this.#core.connection.state;
  }
  /** Why it is offline or closed. */
  get error() {
    return this.#core.connection.error;
  }
  /** The user, as the server names it; before that, as the token does. `null`: not known yet. */
  get userId() {
    return this.#core.userId;
  }
  /**
   * Opens a conversation, or returns the open one. Each call is a use; end it with `close()`.
   *
   * @throws {RangeError} if this is not an id
   */
  conversation(id) {
    const { conversations } = this.#core;
    const known = conversations.get(idOf(id));
    if (known && known.state !== "closed") return known.retain();
    const opened = new Conversation(this.#core, idOf(id));
    conversations.set(opened.id, opened);
    return opened.retain();
  }
  /** The user's notifications. */
  notifications() {
    if (!this.#notifications || this.#notifications.state === "closed") this.#notifications = new Notifications(this.#core);
    return this.#notifications;
  }
  /** The list of the user's conversations. */
  conversations() {
    this.notifications();
    if (!this.#list) this.#core.list = this.#list = new Conversations(this.#core);
    return this.#list;
  }
  /** What is open, without opening anything: for `@vyzio/realtime/react`. @internal */
  get opened() {
    return {
      conversation: (id) => this.#core.conversations.get(id) ?? null,
      notifications: this.#notifications,
      conversations: this.#list
    };
  }
  /** Calls the HTTP API, for example `call('GET', '/api/unread')`. Never rejects. */
  call(method, path, body) {
    return this.#core.call(method, path, body);
  }
  /** Tries now rather than later; also after the server refused the connection. */
  reconnect() {
    this.#core.connection.wake();
  }
  /** Ends everything, and forgets the unsent messages of this user that the option `persist` has kept. */
  async signOut() {
    const { drafts, userId, base } = this.#core;
    this.#end(CLOSED, true);
    const store = await drafts;
    const kept = await store?.list() ?? [];
    const own = kept.filter((draft) => draft.base === base && draft.user_id === userId);
    await Promise.all(own.map((draft) => store.delete(draft.client_id)));
  }
  /** Keeps unsent messages, and sends those of tabs that are gone. */
  async #persist(option) {
    const core = this.#core;
    const loading = import("./persist.js");
    core.drafts = loading.then(({ storeOf }) => storeOf(option));
    const ended = new Promise((resolve) => this.#stops.push(resolve));
    await core.tokens.known();
    const restore = (drafts) => {
      for (const draft of drafts) core.outbox(draft.conversation_id).restore([draft]);
    };
    const { adopt } = await loading;
    await adopt(await core.drafts, core.tab, { base: core.base, userId: core.userId, restore, ended });
  }
  /** Ends everything. */
  close() {
    this.#end(CLOSED, false);
  }
  /** The token callback gave a token of another user: nothing of the first user's may be sent or shown. */
  #userChanged() {
    this.#end(USER_CHANGED, true);
  }
  #end(error, forget) {
    const { connection, conversations } = this.#core;
    if (connection.ended) return;
    for (const stop of this.#stops.splice(0)) stop();
    connection.close(error);
    for (const conversation of [...conversations.values()]) conversation.abort(error, forget);
    this.#notifications?.end(error);
    if (!forget) return;
    this.#notifications?.forget();
    this.#list?.forget();
  }
  /** The server named another user than the token had claimed. */
  #restart() {
    for (const conversation of [...this.#core.conversations.values()]) conversation.restart();
    this.#notifications?.restart();
    this.#list?.forget();
    this.#list?.reload();
  }
  /** Follows the network and the visibility of the page, if there is one. */
  #watchPage() {
    const { document, window } = globalThis;
    if (!document || !window?.addEventListener) return;
    const watch = (target, type, listener) => {
      target.addEventListener(type, listener);
      this.#stops.push(() => target.removeEventListener(type, listener));
    };
    const { connection } = this.#core;
    const wake = () => connection.state !== "closed" && connection.wake();
    watch(window, "online", wake);
    watch(window, "offline", () => connection.offline());
    watch(window, "pagehide", () => connection.pause());
    watch(window, "pageshow", () => connection.paused && wake());
    watch(document, "visibilitychange", () => document.visibilityState === "visible" && wake());
  }
};
function connect(options) {
  return new Realtime(options);
}
export {
  Realtime,
  connect
};
//# sourceMappingURL=index.js.map
