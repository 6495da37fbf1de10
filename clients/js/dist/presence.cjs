/* @vyzio/realtime, MIT */
"use strict";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
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
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/presence.ts
var presence_exports = {};
__export(presence_exports, {
  Presence: () => Presence,
  openPresence: () => openPresence,
  presenceOf: () => presenceOf
});
module.exports = __toCommonJS(presence_exports);

// src/constants.ts
var failure = (code, detail = code) => ({ code, detail });
var NO_ANSWER = failure("network", "no answer");
var NO_TOKEN = failure("unauthorized");
var CLOSED = failure("closed");
var USER_CHANGED = failure("user_changed");

// src/ids.ts
var isId = (value) => Number.isSafeInteger(value) && value > 0;
function idOf(value) {
  const id = /^\d+$/.test(value) ? Number(value) : value;
  if (isId(id)) return id;
  throw new RangeError(`${value} is not an id up to 2^53`);
}

// src/tokens.ts
var monotonic = () => performance.now();

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

// src/presence.ts
var Presence = class extends Observable {
  people = Object.freeze([]);
  error = null;
  /** @internal */
  n;
  #uses = 0;
  #linger;
  /** @internal */
  constructor(core, id) {
    super(core, ["people", "error"]);
    this.n = `presence/${id}`;
    core.e.D(this);
  }
  /** The presence of one participant; undefined while it is not known. */
  of(userId) {
    return this.people.find((person) => person.user_id === userId);
  }
  /** Ends one use: one call of `presenceOf`. After the last one, it stays open for 5 s, as a conversation does. */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.#linger = setTimeout(() => {
      this.t.e.b(this);
      this.r(CLOSED);
    }, this.t.timing.linger);
  }
  /** Begins a use. @internal */
  bt() {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }
  /** @internal */
  C({ user_id, online, last_seen }) {
    const person = { user_id, online, ...last_seen && { last_seen } };
    this.#show([...this.people.filter((other) => other.user_id !== user_id), person].sort((a, b) => a.user_id - b.user_id));
  }
  /** The frames after a subscription are the complete state. @internal */
  T() {
    this.#show([]);
  }
  /** @internal */
  r(error) {
    this.error = error;
    this.#show([]);
  }
  #show(people) {
    this.people = Object.freeze(people);
    this.p();
  }
};
function openPresence({ t: core }, id) {
  return core.e.m.get(`presence/${id}`) ?? null;
}
function presenceOf(rt, id) {
  const key = idOf(id);
  return (openPresence(rt, key) ?? new Presence(rt.t, key)).bt();
}
//# sourceMappingURL=presence.cjs.map
