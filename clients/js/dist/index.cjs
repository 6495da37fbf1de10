/* @vyzio/realtime, MIT */
"use strict";
var __create = Object.create;
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __getProtoOf = Object.getPrototypeOf;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toESM = (mod, isNodeMode, target) => (target = mod != null ? __create(__getProtoOf(mod)) : {}, __copyProps(
  // If the importer is in node compatibility mode or this is not an ESM
  // file that has been converted to a CommonJS file using a Babel-
  // compatible transform (i.e. "__esModule" has not been set), then set
  // "default" to the CommonJS "module.exports" for node compatibility.
  isNodeMode || !mod || !mod.__esModule ? __defProp(target, "default", { value: mod, enumerable: true }) : target,
  mod
));
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/index.ts
var index_exports = {};
__export(index_exports, {
  Realtime: () => Realtime,
  connect: () => connect
});
module.exports = __toCommonJS(index_exports);

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
  typing: 2e3,
  http: 1e4,
  linger: 5e3,
  frame: 16
};
var QUEUE = 100;
var KEEP = 2e3;
var CHARS = 4e3;
var failure = (code, detail = code) => ({ code, detail });
var refused = (error) => ({ ok: false, error });
var DONE = { ok: true, data: null };
var NO_ANSWER = failure("network", "no answer");
var NO_TOKEN = failure("unauthorized");
var CLOSED = failure("closed");
var USER_CHANGED = failure("user_changed");
var TEMPORARY = /* @__PURE__ */ new Set(["network", "unavailable", "rate_limited", "internal", "token_failed"]);
function failureOf({ code, detail, retry_after_ms }) {
  return { code, detail, ...retry_after_ms && { retry_after_ms } };
}

// src/ids.ts
var isId = (value) => Number.isSafeInteger(value) && value > 0;
function idOf(value) {
  const id = /^\d+$/.test(value) ? Number(value) : value;
  if (isId(id)) return id;
  throw new RangeError(`${value} is not an id up to 2^53`);
}
function randomId() {
  const random = () => Math.random().toString(36).slice(2);
  return globalThis.crypto?.randomUUID?.() ?? random() + random() + random();
}

// src/tokens.ts
var monotonic = () => performance.now();
async function within(ms, request) {
  const abort = new AbortController();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error("no answer"));
      abort.abort();
    }, ms);
  });
  return Promise.race([request(abort.signal), late]).finally(() => clearTimeout(timer));
}
function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}
async function tokenIn(answer) {
  if (typeof answer !== "object" || !answer) return answer || null;
  if ([401, 403].includes(answer.status)) return null;
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const text = (await answer.text()).trim();
  const body = /^[{"]/.test(text) ? JSON.parse(text) : text;
  const token = body.token ?? body.access ?? body;
  return typeof token === "string" && token || null;
}
var Tokens = class {
  /** The user. Until the server's `hello`, the `user_id` of the token; null if it has none. */
  userId = null;
  /** Resolves once the user is known. */
  Z;
  #core;
  #onKnown;
  /** Whether `userId` is more than a guess: the server or the page named it. */
  #confirmed;
  #subject = null;
  #token = null;
  #request = null;
  #endsAt = 0;
  /** The server's time minus the monotonic time, once the server has named its time. */
  #offset = NaN;
  constructor(core) {
    const { userId } = core.s;
    this.#core = core;
    this.Z = new Promise((resolve) => this.#onKnown = resolve);
    this.#confirmed = userId !== void 0;
    if (this.#confirmed) this.#know(userId);
  }
  /** The server's time in milliseconds since 1970; NaN: not known yet. This machine's clock may be wrong. */
  tt() {
    return monotonic() + this.#offset;
  }
  /**
   * The token, a fresh one with `refresh`. `null`: nobody is signed in.
   *
   * @throws {Error} if the callback fails
   * @throws {Failure} `user_changed`
   */
  async j(refresh = false) {
    if (!refresh && this.#token && monotonic() < this.#endsAt) return this.#token;
    return this.#request ??= this.#load(refresh || !!this.#token).finally(() => this.#request = null);
  }
  async #load(refresh) {
    const { s: options, timing } = this.#core;
    const source = options.token;
    const answer = typeof source === "function" ? within(timing.http, async () => source({ refresh })) : source;
    const token = this.#token = await tokenIn(await answer);
    if (!token) return null;
    const { exp = NaN, iat = NaN, user_id: claimed, sub } = claimsOf(token);
    const subject = `${claimed ?? sub}`;
    const userId = Number(claimed);
    this.#subject ??= subject;
    if (subject !== this.#subject) this.#refuseUser();
    if (this.userId === null && isId(userId)) this.#know(userId);
    this.#lives(exp * 1e3 - (this.tt() || iat * 1e3));
    return token;
  }
  /** The token lives for so many milliseconds; NaN: for good. */
  #lives(ms) {
    this.#endsAt = monotonic() + (ms || Infinity);
  }
  #refuseUser() {
    this.#token = null;
    this.#core.d.r(USER_CHANGED, true);
    throw USER_CHANGED;
  }
  /**
   * Takes the identity and the times from the server.
   *
   * Returns whether the user is another one than the token had claimed, so everything must be loaded again.
   *
   * @throws {Failure} `user_changed`, or `refused` if JavaScript would round the id
   */
  mt({ user_id: userId, server_time: serverTime, expires_at: expiresAt }) {
    if (!isId(userId)) throw failure("refused", "not an id up to 2^53");
    const time = Date.parse(serverTime);
    this.#offset = time - monotonic();
    this.#lives(Date.parse(expiresAt) - time);
    const guessed = this.userId !== null && this.userId !== userId;
    if (guessed && this.#confirmed) this.#refuseUser();
    this.#confirmed = true;
    this.#know(userId);
    return guessed;
  }
  #know(userId) {
    this.userId = userId;
    this.#onKnown();
  }
  /** The time until a fresh token is due: a minute before the end, or a fifth of a short life. */
  et() {
    const left = this.#endsAt - monotonic();
    return Math.min(Math.max(left - Math.min(6e4, left / 5), 1e3), 2 ** 31 - 1);
  }
};
function tokenFailure(cause) {
  return cause === USER_CHANGED ? USER_CHANGED : failure("token_failed", String(cause));
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
  f(type, value) {
    for (const listener of [...this.#listeners.get(type) ?? []]) {
      try {
        listener(value);
      } catch (error) {
        (globalThis.document ? reportError : console.error)(error);
      }
    }
  }
};
var Observable = class extends Emitter {
  /** @internal */
  t;
  #fields;
  #snapshot = null;
  #scheduled = false;
  #emittedAt = NaN;
  /** `fields`: the properties that are in a snapshot. @internal */
  constructor(core, fields) {
    super();
    this.t = core;
    this.#fields = fields;
  }
  /** The current state in one frozen object, which is the same object until the state changes. */
  get snapshot() {
    const entries = () => this.#fields.map((name) => [name, this[name]]);
    return this.#snapshot ??= Object.freeze(Object.fromEntries(entries()));
  }
  /** Runs right before a `change` event. @internal */
  N() {
  }
  /** The state has changed. @internal */
  p() {
    this.#snapshot = null;
    if (this.#scheduled) return;
    this.#scheduled = true;
    const wait = this.#emittedAt + this.t.timing.frame - monotonic();
    if (wait > 0) setTimeout(() => this.#flush(), wait);
    else queueMicrotask(() => this.#flush());
  }
  #flush() {
    this.#scheduled = false;
    this.#emittedAt = monotonic();
    this.N();
    this.f("change", void 0);
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
  n;
  /** Entries that arrived late, for the event `missed`. @internal */
  g = [];
  /** The server's time of the subscription. */
  #joinedAt = 0;
  /** `fields`: those of its snapshot that not every feed has. @internal */
  constructor(core, name, fields) {
    super(core, [...fields, "state", "error", "unread", "hasOlder"]);
    this.n = name;
  }
  /** @internal */
  y() {
    this.#joinedAt = this.t.a.tt();
    this.w("live");
  }
  /** @internal */
  T() {
    if (this.state === "live") this.w("waiting");
  }
  /** Loads, then subscribes from there on: nothing is lost in between. @internal */
  async F() {
    const { e: connection, a: tokens } = this.t;
    if (connection.h) return this.r(connection.error);
    await tokens.Z;
    const loaded = await this.t.st(
      () => this.S(),
      () => this.state === "loading"
    );
    if (this.state !== "loading") return;
    if (!loaded.ok) return this.r(loaded.error);
    this.w("waiting");
    connection.D(this);
  }
  /** Loads everything again: the log went back, or the user is another one. @internal */
  k() {
    const { state } = this;
    if (state === "closed") return;
    this.t.e.b(this);
    this.P();
    if (state === "loading") return;
    this.w("loading");
    this.F();
  }
  /** Ends it. @internal */
  r(error) {
    if (this.state === "closed") return;
    this.t.e.b(this);
    this.w("closed", error);
  }
  /** Announces a new entry; one from before the subscription later, together with others. @internal */
  ft(entry, announce) {
    if (Date.parse(entry.created_at) < this.#joinedAt - LATE) this.g.push(entry);
    else announce();
  }
  /** @internal */
  it(entries) {
    this.g = [];
    if (entries.length) this.f("missed", Object.freeze(entries));
  }
  /** @internal */
  w(state, error = null) {
    this.state = state;
    this.error = error;
    this.p();
  }
};

// src/pager.ts
var Log = class {
  /** Whether the first page is here. */
  loaded = false;
  s;
  l = /* @__PURE__ */ new Map();
  /** The cursor of the next page, as the server gave it; null at the end. */
  v = null;
  /** Grows with each `clear`, after which pages that are on their way are dropped. */
  c = 0;
  #shown = null;
  /** The last item of the last page, as it was in that page. */
  #end = null;
  #keep = KEEP;
  /** The request for a page, if one is on its way. */
  Mt = null;
  constructor(options) {
    this.s = options;
  }
  /** Newest first. The same array until the list changes. */
  get items() {
    if (!this.#shown) {
      const { compare } = this.s;
      const shown = [...this.l.values()].filter((item) => !this.hasOlder || compare(item, this.#end) <= 0).sort(compare);
      if (shown.length > this.#keep) this.#trim(shown);
      this.#shown = Object.freeze(shown);
    }
    return this.#shown;
  }
  /** Whether there are older items to load. */
  get hasOlder() {
    return this.v !== null;
  }
  /** The item with this id, even if it is not shown yet. */
  find(id) {
    return this.l.get(id);
  }
  /** Adds items, or later states of items. */
  put(items) {
    for (const item of items) this.O(item);
    this.#changed();
  }
  #changed() {
    this.#shown = null;
    if (this.l.size > 2 * this.#keep) void this.items;
    this.s.onChange();
  }
  O(item) {
    this.l.set(this.s.id(item), item);
  }
  /** Forgets everything. */
  clear() {
    this.l.clear();
    this.v = this.#end = null;
    this.#keep = KEEP;
    this.loaded = false;
    this.c += 1;
    this.put([]);
  }
  /** Loads the next page. Calls at the same time load it once. */
  loadOlder(limit = 50) {
    if (this.loaded && !this.hasOlder) return Promise.resolve(DONE);
    return this.Mt ??= this.A(limit).finally(() => this.Mt = null);
  }
  async A(limit) {
    const [before, epoch] = [this.v, this.c];
    const page = await this.s.load(before, limit);
    if (!page.ok) return page;
    if (before !== this.v || epoch !== this.c) return DONE;
    if (this.loaded) this.#keep += page.data.items.length;
    this.rt(page.data);
    return DONE;
  }
  /** Adds a page at the end. */
  rt({ items, next }) {
    this.v = next;
    this.#end = items.at(-1) ?? this.#end;
    this.loaded = true;
    for (const item of items) this.O(item);
    this.#changed();
  }
  /** Forgets the oldest items. They can be loaded again. */
  #trim(shown) {
    const { id, cursor = id } = this.s;
    for (const item of shown.splice(this.#keep)) this.l.delete(id(item));
    this.#end = shown.at(-1);
    this.v = cursor(this.#end);
  }
};

// src/typing.ts
var Typing = class {
  /** The other users who are typing. A new array after each change. */
  typists = [];
  n;
  #core;
  #onChange;
  /** When the last sign of typing was sent; NaN: the user does not type. */
  #sentAt = NaN;
  constructor(core, id, onChange) {
    this.n = `typing/${id}`;
    this.#core = core;
    this.#onChange = onChange;
  }
  C({ user_id, username, is_typing: isTyping }) {
    this.nt(user_id);
    if (isTyping) this.#show([...this.typists, { user_id, username }]);
  }
  y() {
    this.#sentAt = NaN;
  }
  T() {
    this.#show([]);
  }
  b() {
    this.type(false);
    this.#core.e.b(this);
    this.#show([]);
  }
  /** The user types, or has stopped. */
  type(isTyping) {
    const now = monotonic();
    if (isTyping ? now - this.#sentAt < this.#core.timing.typing : !this.#sentAt) return;
    const sent = this.#core.e.send({ op: "send", channel: this.n, data: { is_typing: isTyping } });
    this.#sentAt = isTyping && sent ? now : NaN;
  }
  /** A user has stopped, or sent the message. */
  nt(userId) {
    this.#show(this.typists.filter((person) => person.user_id !== userId));
  }
  #show(typists) {
    if (!typists.length && !this.typists.length) return;
    this.typists = Object.freeze(typists);
    this.#onChange();
  }
};

// src/conversation.ts
var Conversation = class extends Feed {
  id;
  /** The server's description, once it is loaded. */
  info = null;
  #path;
  #typing;
  /** @internal */
  i;
  /** The number of the last change: that of the first page, and then of the frames. @internal */
  Et;
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
    super(core, `chat/${id}`, ["id", "info", "messages", "typists"]);
    this.id = id;
    this.#path = `/api/conversations/${id}`;
    const changed = () => this.p();
    this.i = new Log({
      id: ({ seq }) => seq,
      compare: (a, b) => b.seq - a.seq,
      cursor: ({ message_id }) => message_id,
      load: (before, limit) => this.gt(before, limit),
      onChange: changed
    });
    this.#typing = new Typing(core, id, changed);
    this.#outbox = core.yt(id);
    this.#outbox.q(changed);
    this.F();
  }
  /** Oldest first; messages that are being sent come last. The same array until it changes. */
  get messages() {
    return this.#messages ??= Object.freeze(this.#merge());
  }
  #merge() {
    const stored = this.info ? [...this.i.items].reverse() : [];
    const keys = new Set(stored.map(({ key }) => key));
    return [...stored, ...this.#outbox.messages.filter(({ key }) => !keys.has(key))];
  }
  /** The other users who are typing. */
  get typists() {
    return this.#typing.typists;
  }
  /** The number of messages that the user has not read. */
  get unread() {
    return Math.max(0, this.#last.seq - this.#markerOf(this.t.userId));
  }
  /** Whether there are older messages to load. */
  get hasOlder() {
    return this.i.hasOlder;
  }
  /**
   * Sends a message. It is in `messages` at once; without a connection, it is sent once there is one.
   *
   * `more`: its kind with data, and the message to which it replies. The text of some kinds is made from the data; it may
   * then be empty.
   *
   * Resolves to the message once it is `sent` or `failed`; never rejects.
   */
  send(text, more) {
    this.type(false);
    return this.#outbox.send(text, more);
  }
  /** Sends a failed message again; it can't be stored twice. `null`: no such message has failed. */
  retry(key) {
    return this.#outbox.retry(key);
  }
  /** Removes a message that failed. */
  discard(key) {
    this.#outbox.discard(key);
  }
  /**
   * Replaces the text of one of the user's messages. It is shown at once; without a connection, it is sent once there is
   * one. If it fails, for example with `too_late`, the message is shown as before.
   */
  edit(key, text) {
    return this.#change(key, { content: text.trim(), edited: true });
  }
  /** Deletes one of the user's messages, like `edit`: it keeps its place, without its text. A failed one is discarded. */
  delete(key) {
    return this.#change(key, { content: "", deleted: true });
  }
  async #change(key, patch) {
    const known = this.i.items.find((message) => message.key === key);
    if (known?.mine && !known.deleted) this.i.put([{ ...known, ...patch }]);
    const edits = await this.t.S(() => import("./edits.js"));
    if (edits.ok) return edits.data.carry(this, key, known, patch);
    if (known) this.i.put([known]);
    return edits;
  }
  /** The user has read all messages, or those up to `messageId`. */
  read(messageId = this.#last.id) {
    const upTo = this.i.items.find((message) => message.message_id <= messageId)?.seq ?? 0;
    if (upTo <= this.#markerOf(this.t.userId)) return;
    this.#mark(this.t.userId, upTo);
    this.#read.id = Math.max(this.#read.id, messageId);
    this.#sendRead();
    this.p();
  }
  /** The user types, or has stopped. Call it on every key: it sends only what is needed, and ends by itself. */
  type(isTyping = true) {
    this.#typing.type(isTyping);
  }
  /** Loads a page of older messages. */
  async loadOlder(limit = 50) {
    return this.i.loaded ? this.i.loadOlder(limit) : DONE;
  }
  /**
   * Ends one use: one call of `rt.conversation(id)`. After the last one, the conversation stays open for 5 s, so that
   * a page which comes back at once finds it. Messages that wait are still sent.
   */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.type(false);
    this.#linger = setTimeout(() => this.r(CLOSED), this.t.timing.linger);
  }
  /** Begins a use. @internal */
  bt() {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }
  /** Fails what waits to be sent. With `forget`, nothing is shown any more. @internal */
  vt(error, forget) {
    this.#outbox.r(error, forget);
    if (forget) this.P();
    this.r(error);
  }
  /** @internal */
  r(error) {
    if (this.state === "closed") return;
    clearTimeout(this.#linger);
    this.#typing.b();
    super.r(error);
    this.#outbox.q(null);
    const { _: open } = this.t;
    if (open.get(this.id) === this) open.delete(this.id);
  }
  /** @internal */
  P() {
    this.i.clear();
    this.#markers.clear();
    this.#readByAll = 0;
    this.#last = { seq: 0, id: 0 };
    this.#read = { id: 0, reported: 0, sending: false };
    this.g = [];
    this.info = null;
  }
  /** @internal */
  ot() {
    return this.#last.id;
  }
  /** @internal */
  async S() {
    const [info, page] = await Promise.all([this.wt(), this.i.loaded ? DONE : this.i.loadOlder()]);
    if (!info.ok || !page.ok) return info.ok ? page : info;
    if (!this.i.loaded) return this.S();
    this.info = info.data;
    const [newest] = this.i.items;
    if (newest) this.#last = { seq: newest.seq, id: newest.message_id };
    for (const message of this.i.items) this.#outbox.u(message);
    this.L();
    this.t.e.D(this.#typing);
    return info;
  }
  /** @internal */
  async gt(before, limit) {
    const page = await this.t.kt(
      `${this.#path}/messages`,
      before,
      limit
    );
    if (!page.ok) return page;
    const { items, next, changes } = page.data;
    if (!this.i.loaded) this.Et = changes;
    const stored = items.map((wire) => {
      this.#mark(wire.sender_id, wire.seq);
      return this.#storedOf(wire);
    });
    return { ok: true, data: { items: stored, next } };
  }
  /** @internal */
  C(frame) {
    if (frame.type === "message") this.#onMessage(frame);
    else if (frame.type === "read") {
      this.#mark(frame.user_id, frame.seq);
      this.L();
    } else if (frame.type === "changed") {
      const { change, message } = frame;
      this.Et = change;
      if (this.i.Mt || this.i.find(message.seq)) this.i.put([this.#storedOf(message)]);
    }
    this.p();
  }
  #onMessage(wire) {
    const { seq, message_id: id, sender_id: sender } = wire;
    if (seq <= this.#last.seq) return this.#onRepeat(wire);
    if (seq > this.#last.seq + 1 && this.#last.seq > 0) return this.k();
    const message = this.#storedOf(wire);
    this.#last = { seq, id };
    this.#mark(sender, seq);
    this.i.put([message]);
    this.L();
    if (message.mine) return this.#outbox.u(message);
    this.#typing.nt(sender);
    if (!message.deleted) this.ft(message, () => this.f("message", message));
  }
  /** A message with a known number: a repeated send, or the database was restored to an earlier time. */
  #onRepeat(wire) {
    const known = this.i.find(wire.seq);
    const own = wire.sender_id === this.t.userId && !!this.#outbox.x(wire.client_id);
    if (known ? known.message_id !== wire.message_id || known.created_at !== wire.created_at : !own) this.k();
    else if (own) this.#outbox.u(known ?? this.#storedOf(wire));
  }
  /** The message as it is now: that of the server, unless a later change of it is known. */
  #storedOf(wire) {
    const { type: _, is_read: isRead, client_id, ...message } = wire;
    const mine = message.sender_id === this.t.userId;
    const known = this.i.find(message.seq);
    return {
      key: mine && client_id || `message-${message.message_id}`,
      ...message,
      ...mine && client_id && { client_id },
      mine,
      edited: !!message.edited_at,
      deleted: !!message.deleted_at,
      ...(known?.change ?? 0) > (message.change ?? 0) && known,
      state: !mine ? "received" : isRead || message.seq <= this.#readByAll ? "read" : "sent"
    };
  }
  #markerOf(user) {
    return this.#markers.get(user) ?? 0;
  }
  /** Moves a marker, which only moves forward. */
  #mark(user, seq) {
    this.#markers.set(user, Math.max(seq, this.#markerOf(user)));
  }
  /** How far all participants but one have read; Infinity: there are no others, or they are not known. @internal */
  _t(user) {
    const others = this.info?.participants.filter((person) => person.user_id !== user) ?? [];
    return Math.min(...others.map((person) => this.#markerOf(person.user_id)));
  }
  /** Shows as read what every other participant has read. @internal */
  L(upTo = this._t(this.t.userId)) {
    if (upTo <= this.#readByAll || upTo === Infinity) return;
    this.#readByAll = upTo;
    const sent = this.i.items.filter(({ state, seq }) => state === "sent" && seq <= upTo);
    this.i.put(sent.map((message) => ({ ...message, state: "read" })));
  }
  /** Reads the server's description, and the user's marker with it. @internal */
  async wt() {
    const info = await this.t.get(this.#path);
    if (info.ok) this.#mark(this.t.userId, (info.data.last_message?.seq ?? 0) - info.data.unread_count);
    return info;
  }
  /** @internal */
  y() {
    super.y();
    this.#sendRead();
  }
  /** Sends the user's marker; again if the answer was lost. */
  async #sendRead() {
    const read = this.#read;
    if (read.sending || read.reported >= read.id || this.state !== "live") return;
    read.sending = true;
    const upTo = read.id;
    const answer = await this.t.e.R(this.n, { type: "read", message_id: upTo });
    read.sending = false;
    if (!answer.ok && answer.error.code === "network") return;
    if (answer.ok || !await this.t.$(answer.error, 1)) read.reported = upTo;
    this.#sendRead();
  }
  /** @internal */
  p() {
    this.#messages = null;
    super.p();
  }
  /** @internal */
  N() {
    this.it(this.g);
    if (this.state === "live") this.t.U?.q(this);
  }
};

// src/conversations.ts
var NONE = Object.freeze([]);
var Conversations = class extends Observable {
  /** Why the last page could not be loaded; null after the next success. */
  error = null;
  #list = null;
  /** @internal */
  constructor(core) {
    super(core, ["items", "loaded", "error", "hasOlder"]);
    this.reload();
  }
  /** Newest activity first. The same array until it changes. */
  get items() {
    return this.#list?.items ?? NONE;
  }
  /** Whether the first page is loaded. */
  get loaded() {
    return !!this.#list?.loaded;
  }
  /** Whether there are older conversations to load. */
  get hasOlder() {
    return !!this.#list?.hasOlder;
  }
  /** A conversation that is known here, even if it is older than the list. */
  find(id) {
    return this.#list?.find(id);
  }
  /** Reads everything that is shown again. */
  async reload() {
    const lists = await this.t.z();
    if (!lists.ok) return lists;
    this.#list ??= new lists.data.ConversationList(this.t, this);
    return this.#list.reloadAll();
  }
  /** Loads a page of older conversations. */
  async loadOlder(limit = 50) {
    return this.#list?.loaded ? this.#list.Pt(this.#list.loadOlder(limit)) : this.reload();
  }
};

// src/connection.ts
var CODES = {
  1002: "refused",
  1003: "refused",
  1006: "network",
  1007: "refused",
  1009: "refused",
  1011: "internal",
  4400: "refused",
  4401: "unauthorized",
  4403: "refused",
  4429: "rate_limited"
};
var REFUSALS = 3;
var QUICK = 2e3;
var Connection = class {
  state = "connecting";
  /** Why it is offline or closed. */
  error = null;
  /** Whether it will never connect again. */
  h = false;
  /** Callbacks for the next time that the connection is there or closed: the outboxes. */
  W = /* @__PURE__ */ new Set();
  #core;
  m = /* @__PURE__ */ new Map();
  #requests = /* @__PURE__ */ new Map();
  /** Why sockets have failed, if that is known: a more helpful reason than `network`. */
  K = null;
  /** What replaces `WebSocket` at the next attempt, if something does. */
  ht = null;
  /** The socket, or a placeholder while the token is requested. */
  #socket = null;
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
  #timer = 0;
  #watch = 0;
  constructor(core) {
    this.#core = core;
    this.#connect();
  }
  /** Half to all of a growing time, so that many clients don't return at once; at least a time that the server names. */
  I(attempt, atLeast = 0) {
    const { backoff, backoffMax } = this.#core.timing;
    return Math.max(atLeast, Math.min(backoffMax, backoff * 2 ** attempt) * (0.5 + Math.random() / 2));
  }
  async #connect() {
    const { s: options, H: base, a: tokens, timing } = this.#core;
    const url = `${base.replace("http", "ws")}/ws/`;
    clearTimeout(this.#timer);
    const turn = this.#socket = {};
    this.#become("connecting", this.error);
    const token = await tokens.j(this.#refusals > 0).catch(tokenFailure);
    if (turn !== this.#socket) return;
    if (!token) return this.#giveUp(NO_TOKEN);
    if (typeof token === "object") {
      this.#socket = null;
      return this.#retry(this.I(this.#tokenFailures++), token);
    }
    this.#tokenFailures = 0;
    let socket;
    try {
      socket = new (this.ht ?? options.WebSocket ?? WebSocket)(url, ["bearer", token]);
    } catch (cause) {
      return this.#giveUp(failure("refused", String(cause)));
    }
    options.logger?.debug("connecting to", url);
    this.#socket = socket;
    this.#since = monotonic();
    this.#deadline = this.#since + timing.open;
    this.#watch = setInterval(() => this.#check(), Math.min(timing.idle, timing.probe) / 4);
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
    this.#deadline = Infinity;
    if (!this.#accepted && !this.#accept(frame)) return;
    const channel = this.m.get(frame.channel);
    if (frame.op === "event") channel?.J && channel.C(frame.data);
    else this.#requests.get(frame.ref)?.(frame);
  }
  /** Takes the first frame of a socket. Returns whether the socket may be used. */
  #accept(frame) {
    const { a: tokens, d: client } = this.#core;
    const socket = this.#socket;
    try {
      if (frame.op === "hello" && tokens.mt(frame)) client.k();
    } catch (error) {
      this.#giveUp(error);
      return false;
    }
    this.#accepted = true;
    this.#since = monotonic();
    this.#quickRefusals = 0;
    this.#renewIn(tokens.et());
    if (!socket.lt) this.K = null;
    this.#become("online", this.K);
    if (globalThis.document?.hidden) this.Ft();
    for (const channel of this.m.values()) this.#subscribe(channel);
    this.#wakeAll();
    return socket === this.#socket;
  }
  #wakeAll() {
    for (const wake of [...this.W]) wake();
  }
  /** Checks that the server still answers. */
  #check() {
    const now = monotonic();
    if (now > this.#deadline) this.ut("no answer");
    else if (this.#deadline === Infinity && now - this.#receivedAt > this.#core.timing.idle) this.#put({ op: "ping" });
  }
  /** The socket is closed, or counts as closed. */
  #lost(socket, code, reason = "") {
    if (!socket || socket !== this.#socket) return;
    const { timing } = this.#core;
    const accepted = this.#accepted;
    const now = monotonic();
    this.#drop();
    const age = now - this.#since;
    if (accepted && age > timing.stable) this.#attempt = this.#refusals = 0;
    const error = {
      code: CODES[code] ?? "unavailable",
      detail: `closed with ${code}${reason && `: ${reason}`}`,
      close_code: code,
      close_reason: reason
    };
    const refusals = code === 4401 ? ++this.#refusals : 0;
    if (error.code === "refused" || refusals > REFUSALS) return this.#giveUp(error);
    let wait = this.I(this.#attempt++, code === 4429 ? timing.limited : 0);
    if (code === 4429) this.#notBefore = now + wait;
    if (refusals === 1) wait = 0;
    if (code === 1012 && this.#attempt === 1) wait = Math.random() * timing.spread;
    this.#retry(wait, error);
    const quick = !accepted && code === 1006 && age < QUICK;
    this.#quickRefusals = socket.lt ? REFUSALS - 1 : quick ? this.#quickRefusals + 1 : 0;
    if (socket.lt) this.ht = null;
    if (this.#quickRefusals < REFUSALS) return;
    this.#quickRefusals = -7;
    import("./poll.js").then(({ diagnose }) => diagnose(this.#core)).catch(() => {
    });
  }
  #retry(wait, error) {
    const { s: options, d: client } = this.#core;
    this.#timer = setTimeout(() => this.#connect(), wait);
    options.logger?.debug(`offline for ${Math.round(wait)} ms:`, error.detail);
    this.#become("offline", error.code === "network" && this.K || error);
    client.f("error", error);
  }
  #giveUp(error) {
    this.#drop();
    this.#core.s.logger?.warn("closed:", error.detail);
    this.#become("closed", error);
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
    }
    const lost = [...this.m.values()].filter((channel) => this.#forget(channel));
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const answer of requests) answer(NO_ANSWER);
    for (const channel of lost) channel.T?.();
  }
  #become(state, error) {
    const changed = state !== this.state || state === "closed" && error !== this.error;
    this.error = error;
    this.state = state;
    if (changed) this.#core.d.f("state", state);
  }
  /** Requests a fresh token while the current one is still valid. */
  #renewIn(ms) {
    this.#timer = setTimeout(() => this.#renew(), ms);
  }
  async #renew() {
    const { d: client, a: tokens } = this.#core;
    const socket = this.#socket;
    const token = await tokens.j(true).catch(tokenFailure);
    if (socket !== this.#socket) return;
    if (typeof token !== "string") {
      if (token) client.f("error", token);
      return this.#renewIn(this.I(this.#tokenFailures++));
    }
    this.#tokenFailures = 0;
    const answer = await this.dt({ op: "auth", token });
    if (socket !== this.#socket) return;
    if (answer.ok) this.#renewIn(tokens.et());
    else this.#lost(socket, 4401, answer.error.detail);
  }
  /** Sends a frame and returns the server's answer. */
  dt(frame) {
    return new Promise((resolve) => {
      const settle = (answer) => resolve(answer.op === "ok" ? DONE : refused(failureOf(answer)));
      if (!this.#accepted) return settle(NO_ANSWER);
      const ref = this.#put(frame);
      this.#requests.set(ref, (answer) => {
        this.#requests.delete(ref);
        settle(answer);
      });
    });
  }
  /** Publishes to a channel and returns the server's answer. */
  R(channel, data) {
    return this.dt({ op: "send", channel, data });
  }
  /** Sends a frame that needs no answer. Returns whether there is a connection. */
  send(frame) {
    if (this.#accepted) this.#put(frame);
    return this.#accepted;
  }
  #put(frame, patience = this.#core.timing.answer) {
    const ref = ++this.#ref;
    if (this.#accepted) this.#deadline = Math.min(this.#deadline, monotonic() + patience);
    this.#socket.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }
  /** Subscribes to a channel, now and after each reconnect. */
  D(channel) {
    this.m.set(channel.n, channel);
    if (this.#accepted) this.#subscribe(channel);
  }
  b(channel) {
    if (!this.#has(channel)) return;
    this.m.delete(channel.n);
    this.#forget(channel);
    this.send({ op: "unsubscribe", channel: channel.n });
  }
  #has(channel) {
    return this.m.get(channel.n) === channel;
  }
  /** Ends a subscription on this side. Returns whether it was in force. */
  #forget(channel) {
    const joined = !!channel.J;
    this.#requests.delete(channel.G);
    channel.G = 0;
    channel.J = false;
    return joined;
  }
  #subscribe(channel, attempt = 0) {
    const socket = this.#socket;
    const ref = this.#put({ op: "subscribe", channel: channel.n, after: channel.ot?.(), changes: channel.Et });
    channel.G = ref;
    this.#requests.set(ref, (answer) => {
      if (answer.op === "ok") {
        channel.J = true;
        return channel.y?.();
      }
      if (this.#forget(channel)) channel.T?.();
      const error = failureOf(answer);
      if (!TEMPORARY.has(error.code)) {
        this.m.delete(channel.n);
        return channel.r?.(error);
      }
      setTimeout(
        () => {
          if (socket === this.#socket && this.#has(channel) && !channel.G) this.#subscribe(channel, attempt + 1);
        },
        this.I(attempt, error.retry_after_ms)
      );
    });
  }
  /**
   * Tells the server whether the page is visible, if there is a connection. Like a ping, it has an answer, which shows that
   * the connection is alive.
   */
  Ft() {
    return this.#accepted && this.#put({ op: "visible", visible: !globalThis.document?.hidden }, this.#core.timing.probe);
  }
  /** Tries now rather than later, and checks a connection that seems to be there. */
  ct() {
    if (this.Ft() || this.h || this.#socket || monotonic() < this.#notBefore) return;
    this.#refusals = 0;
    this.#connect();
  }
  /** The socket is useless. */
  ut(reason) {
    this.#lost(this.#socket, 1006, reason);
  }
  /** Closes the socket until `wake`: a page with an open socket can't be kept for the back button. */
  It() {
    if (this.state === "closed") return;
    this.#drop();
    this.#become("offline", NO_ANSWER);
  }
  /** Ends for good. */
  close(error) {
    if (this.h) return;
    this.h = true;
    this.#giveUp(error);
  }
};

// src/http.ts
var Http = class {
  #core;
  constructor(core) {
    this.#core = core;
  }
  /** Calls the API. If the token is refused, it tries once more with a fresh one. */
  async Q(method, path, body, refresh = false) {
    const token = await this.#core.a.j(refresh).catch(tokenFailure);
    if (typeof token !== "string") return refused(token ?? NO_TOKEN);
    const answer = await this.send(method, path, token, body);
    if (answer.ok || answer.error.code !== "unauthorized" || refresh) return answer;
    return this.Q(method, path, body, true);
  }
  /** Calls the API once, with this token. */
  async send(method, path, token, body) {
    try {
      return await within(this.#core.timing.http, async (signal) => {
        const answer = await this.jt(path, {
          method,
          headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
          body: JSON.stringify(body),
          signal
        });
        const data = JSON.parse(await answer.text() || "null");
        return answer.ok ? { ok: true, data } : refused(failureOf({ ...failure("internal", `HTTP ${answer.status}`), ...data }));
      });
    } catch {
      return refused(NO_ANSWER);
    }
  }
  jt(path, init) {
    const { fetch = globalThis.fetch } = this.#core.s;
    return fetch(this.#core.H + path, init);
  }
};

// src/outbox.ts
var TRIES = 2;
var waits = ({ o: shown }) => shown.state === "sending";
var failed = ({ o: shown }) => shown.state === "failed";
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
    return this.#drafts.map(({ o: shown }) => shown);
  }
  x(key) {
    return this.#drafts.find(({ o: shown }) => shown.key === key);
  }
  /** Connects the outbox to an open conversation, or with null to none. */
  q(onChange) {
    this.#onChange = onChange;
    this.#settleStored();
  }
  send(text, more) {
    const content = text.trim();
    let error;
    if (!content && !more?.kind) error = failure("invalid_message", "empty");
    else if ([...content].length > CHARS) error = failure("message_too_long", `over ${CHARS} characters`);
    else if (this.#drafts.filter(waits).length >= QUEUE) error = failure("queue_full");
    return this.rt({ client_id: randomId(), content, more, created_at: (/* @__PURE__ */ new Date()).toISOString() }, error, !error);
  }
  /** Takes over a message: with `save`, one that is to be kept. With `error`, it has failed. */
  rt({ client_id, content, more, created_at }, error, save) {
    return new Promise((settle) => {
      const shown = {
        ...more,
        key: client_id,
        message_id: null,
        seq: null,
        sender_id: this.#core.userId ?? 0,
        sender_username: "",
        content,
        created_at,
        client_id,
        mine: true,
        edited: false,
        deleted: false,
        state: "sending"
      };
      const draft = { o: shown, Tt: more, M: 0, B: false, Y: void 0, u: settle };
      this.#drafts.push(draft);
      if (save) this.#save(draft);
      if (error) this.#fail(draft, error);
      else this.#start();
    });
  }
  /** Sends a failed message again. Its `client_id` is the same, so it can't be stored twice. */
  retry(key) {
    const draft = this.x(key);
    if (!draft || !failed(draft)) return null;
    const { error: _, ...shown } = draft.o;
    return new Promise((settle) => {
      Object.assign(draft, { o: { ...shown, state: "sending" }, M: 0, u: settle });
      this.#save(draft);
      this.#start();
    });
  }
  discard(key) {
    const draft = this.x(key);
    if (draft && failed(draft)) this.#drop(draft);
  }
  /** The log has this message now. */
  u(message) {
    const draft = this.x(message.client_id);
    if (draft) this.#remove(draft, message);
  }
  /** Fails everything that waits; with `forget`, nothing stays. */
  r(error, forget) {
    for (const draft of this.#drafts.filter(waits)) this.#fail(draft, error);
    if (forget) this.#drafts = [];
    this.#changed();
  }
  #start() {
    this.#changed();
    this.#core.e.W.add(this.#pump);
    this.#pump();
  }
  #pump = async () => {
    if (this.#sending) return;
    this.#sending = true;
    const { e: connection } = this.#core;
    let draft;
    while (draft = this.#drafts.find((one) => waits(one) && !one.B)) {
      await draft.Y;
      if (!this.#drafts.includes(draft) || !waits(draft)) continue;
      if (connection.state === "closed") this.#fail(draft, connection.error);
      else if (!await this.#transmit(draft)) break;
    }
    this.#sending = false;
    if (!draft) connection.W.delete(this.#pump);
  };
  /** Tries to send one message. Returns false if there is no connection. */
  async #transmit(draft) {
    const { e: connection } = this.#core;
    const { content, key } = draft.o;
    const answer = await connection.R(`chat/${this.#id}`, { ...draft.Tt, message: content, client_id: key });
    if (!this.#drafts.includes(draft)) return true;
    if (answer.ok) {
      draft.B = true;
      this.#settleStored();
      return true;
    }
    const { error } = answer;
    if (error.code === "network") return connection.state === "online" || connection.state === "closed";
    if (error.code !== "rate_limited") draft.M += 1;
    if (draft.M >= TRIES || !await this.#core.$(error, draft.M)) this.#fail(draft, error);
    return true;
  }
  /** Settles what is stored, if no log shows it. */
  #settleStored() {
    if (this.#onChange) return;
    for (const draft of this.#drafts.filter((draft2) => draft2.B)) {
      this.#remove(draft, { ...draft.o, state: "sent" });
    }
    this.#changed();
  }
  #remove(draft, message) {
    this.#drop(draft);
    draft.u(message);
  }
  #drop(draft) {
    this.#drafts = this.#drafts.filter((other) => other !== draft);
    this.#keep((kept) => kept.drop(draft));
    this.#changed();
  }
  #save(draft) {
    draft.Y = this.#keep((kept) => kept.save(draft, this.#id));
  }
  /** Changes what is kept. If that fails, messages are sent all the same. */
  #keep(change) {
    return this.#core.V?.then(change).catch(() => {
    });
  }
  #fail(draft, error) {
    draft.o = { ...draft.o, state: "failed", error };
    if (draft.Y) this.#save(draft);
    for (const old of this.#drafts.filter(failed).slice(0, -QUEUE)) this.#drop(old);
    draft.u(draft.o);
    this.#changed();
  }
  #changed() {
    if (this.#onChange) return this.#onChange();
    if (!this.#drafts.length) this.#core.X.delete(this.#id);
  }
};

// src/core.ts
function baseOf(url) {
  const absolute = /^\w+:/.test(url) ? url : new URL(url, globalThis.location?.href).href;
  return absolute.replace(/\/*([?#].*)?$/, "").replace(/^ws/, "http");
}
var Core = class {
  d;
  s;
  timing;
  /** The gateway's address. Identifies the server in the storage. */
  H;
  a;
  E;
  e;
  _ = /* @__PURE__ */ new Map();
  /** The unsent messages of each conversation that has any. */
  X = /* @__PURE__ */ new Map();
  /** The list of conversations, once it is loaded. */
  U = null;
  /** Keeps unsent messages, if the client has the option `persist`. */
  V = null;
  constructor(client, options) {
    this.d = client;
    this.s = options;
    this.H = baseOf(options.url);
    this.timing = { ...TIMING, ...options.timing };
    this.a = new Tokens(this);
    this.E = new Http(this);
    this.e = new Connection(this);
  }
  get userId() {
    return this.a.userId;
  }
  /** The unsent messages of a conversation. */
  yt(id) {
    const outbox = this.X.get(id) ?? new Outbox(this, id);
    this.X.set(id, outbox);
    return outbox;
  }
  get(path) {
    return this.E.Q("GET", path);
  }
  /** A page of a list. */
  kt(path, before, limit) {
    return this.get(`${path}?limit=${limit}${before === null ? "" : `&before=${before}`}`);
  }
  /** A module that is loaded when it is needed. */
  S(load) {
    return this.st(
      () => load().then(
        (data) => ({ ok: true, data }),
        () => refused(NO_ANSWER)
      )
    );
  }
  /** The module of the lists. */
  z() {
    return this.S(() => import("./lists.js"));
  }
  /** Repeats a call while that may help and it is wanted. */
  async st(call, wanted = () => true) {
    for (let attempt = 0; ; attempt += 1) {
      const answer = await call();
      if (answer.ok || !wanted() || !await this.$(answer.error, attempt)) return answer;
    }
  }
  /** Waits until a call may be repeated. Returns false if that is no use. */
  async $({ code, retry_after_ms: wait }, attempt) {
    const connection = this.e;
    const signedOut = code === "unauthorized";
    if (connection.h || !(signedOut || TEMPORARY.has(code))) return false;
    await new Promise((resolve) => {
      const done = () => {
        stop();
        clearTimeout(timer);
        resolve();
      };
      const stop = this.d.on("state", (state) => {
        if (connection.h || state === "online" && (signedOut || code === "network")) done();
      });
      const timer = signedOut ? 0 : setTimeout(done, connection.I(attempt, wait));
    });
    return !connection.h;
  }
};

// src/notifications.ts
var NONE2 = Object.freeze([]);
var Notifications = class extends Feed {
  /** The number of unread notifications, loaded or not. */
  unread = 0;
  /** The number of unread notifications that are later than the last one that was seen. */
  unseen = 0;
  #log = null;
  /** @internal */
  constructor(core) {
    super(core, "notifications", ["items", "unseen"]);
    core.z();
    this.F();
  }
  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  get items() {
    return this.#log?.items ?? NONE2;
  }
  /** Whether there are older notifications to load. */
  get hasOlder() {
    return !!this.#log?.hasOlder;
  }
  /** Marks a notification as read. */
  read(id) {
    return this.t.e.R(this.n, { type: "read", notification_id: id });
  }
  /** Marks all notifications as read. */
  readAll() {
    return this.t.e.R(this.n, { type: "read_all" });
  }
  /** Loads older notifications: a page, or more, if all of a page are hidden behind newer ones. */
  async loadOlder(limit = 50) {
    return this.#log?.loadOlder(limit) ?? DONE;
  }
  /** Ends the subscription. `rt.notifications()` begins a new one. */
  close() {
    this.r(CLOSED);
  }
  /** Nothing stays to be shown. @internal */
  P() {
    this.#log?.clear();
    this.unread = this.unseen = 0;
    this.g = [];
  }
  /** @internal */
  ot() {
    return this.#log.Ct;
  }
  /** @internal */
  async S() {
    const lists = await this.t.z();
    if (!lists.ok) return lists;
    this.#log ??= new lists.data.InboxLog(this.t, this);
    return this.#log.S();
  }
  /** @internal */
  y() {
    super.y();
    this.#log.u();
  }
  /** Reads again what events report. @internal */
  St() {
    this.#log.St();
  }
  /** @internal */
  C(frame) {
    this.#log?.C(frame);
  }
  /** @internal */
  N() {
    this.it(this.#log?.Rt(this.g) ?? []);
  }
};

// src/index.ts
var Realtime = class extends Emitter {
  /** @internal */
  t;
  #notifications = null;
  #list = null;
  #life = new AbortController();
  /** @internal */
  constructor(options) {
    super();
    if (!(options.WebSocket ?? globalThis.WebSocket)) throw new TypeError("no option WebSocket");
    const core = this.t = new Core(this, options);
    if (options.persist) core.V = import("./persist.js").then(({ keep }) => keep(core, this.#life.signal));
    this.#watchPage();
  }
  /** `connecting`, `online`, `offline` (it tries again) or `closed` (it does not). */
  get state() {
    return this.t.e.state;
  }
  /** Why it is offline or closed. */
  get error() {
    return this.t.e.error;
  }
  /** The user, as the server names it; before that, as the token does. `null`: not known yet. */
  get userId() {
    return this.t.userId;
  }
  /**
   * Opens a conversation, or returns the open one. Each call is a use; end it with `close()`.
   *
   * @throws {RangeError} if this is not an id
   */
  conversation(id) {
    const { _: conversations } = this.t;
    const key = idOf(id);
    const conversation = conversations.get(key) ?? new Conversation(this.t, key);
    conversations.set(key, conversation);
    return conversation.bt();
  }
  /** The user's notifications. */
  notifications() {
    if (!this.#notifications || this.#notifications.state === "closed") this.#notifications = new Notifications(this.t);
    return this.#notifications;
  }
  /** The list of the user's conversations. */
  conversations() {
    this.notifications();
    return this.#list ??= new Conversations(this.t);
  }
  /** What is open, without opening anything: for `@vyzio/realtime/react`. @internal */
  get opened() {
    return {
      conversation: (id) => this.t._.get(id) ?? null,
      notifications: this.#notifications,
      conversations: this.#list
    };
  }
  /** Calls the HTTP API, for example `call('GET', '/api/unread')`. Never rejects. */
  call(method, path, body) {
    return this.t.E.Q(method, path, body);
  }
  /** Tries now rather than later; also after the server refused the connection. */
  reconnect() {
    this.t.e.ct();
  }
  /** Ends everything, and forgets the unsent messages of this user that the option `persist` has kept. */
  async signOut() {
    this.r(CLOSED, true);
    await (await this.t.V)?.forget();
  }
  /** Ends everything. */
  close() {
    this.r(CLOSED);
  }
  /** Ends everything. With `forget`, nothing of the user's is sent or shown any more. @internal */
  r(error, forget) {
    const { e: connection, _: conversations } = this.t;
    if (connection.h) return;
    this.#life.abort();
    connection.close(error);
    for (const conversation of [...conversations.values()]) conversation.vt(error, forget);
    this.#notifications?.r(error);
    if (!forget) return;
    this.#notifications?.P();
    this.t.U?.clear();
  }
  /** The server named another user than the token had claimed. @internal */
  k() {
    for (const conversation of this.t._.values()) conversation.k();
    this.#notifications?.k();
    this.t.U?.clear();
    this.#list?.reload();
  }
  /** Follows the network and the visibility of the page, if there is one. */
  #watchPage() {
    if (!globalThis.document) return;
    const listen = addEventListener;
    const connection = this.t.e;
    const life = this.#life;
    const wake = () => connection.state !== "closed" && connection.ct();
    listen("online", wake, life);
    listen("offline", () => connection.ut("offline"), life);
    listen("pagehide", () => connection.It(), life);
    listen("pageshow", wake, life);
    listen("visibilitychange", () => document.hidden ? connection.Ft() : wake(), life);
  }
};
function connect(options) {
  return new Realtime(options);
}
// Annotate the CommonJS export names for ESM import in node:
0 && (module.exports = {
  Realtime,
  connect
});
//# sourceMappingURL=index.cjs.map
