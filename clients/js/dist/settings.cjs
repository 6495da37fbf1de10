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

// src/settings.ts
var settings_exports = {};
__export(settings_exports, {
  NO_PREFERENCES: () => NO_PREFERENCES,
  Preferences: () => Preferences,
  archiveNotification: () => archiveNotification,
  isMuted: () => isMuted,
  markSeen: () => markSeen,
  preferencesOf: () => preferencesOf,
  setMine: () => setMine
});
module.exports = __toCommonJS(settings_exports);

// src/constants.ts
var failure = (code, detail = code) => ({ code, detail });
var ARCHIVED = "/archived";
var DONE = { ok: true, data: null };
var NO_ANSWER = failure("network", "no answer");
var NO_TOKEN = failure("unauthorized");
var CLOSED = failure("closed");
var USER_CHANGED = failure("user_changed");

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

// src/muted.ts
function isMuted({ muted_until: until }) {
  return until === "forever" || Date.parse(until ?? "") > Date.now();
}

// src/settings.ts
async function setMine(rt, id, changes) {
  const answer = await rt.call("PUT", `/api/conversations/${id}/mine`, changes);
  const { U: list } = rt.t;
  const item = list?.find(id);
  if (answer.ok && item) {
    const { muted_until: until = item.muted_until } = changes;
    list.At(id, { ...item, ...changes, muted_until: until ?? void 0 });
  }
  return answer;
}
async function markSeen(rt) {
  const inbox = rt.opened.notifications;
  let newest;
  if (inbox?.state === "live" || inbox?.state === "waiting") {
    newest = inbox.unseen ? inbox.items[0] : void 0;
  } else {
    const page = await rt.t.kt("/api/notifications", null, 1);
    if (!page.ok) return page;
    [newest] = page.data.items;
  }
  if (!newest) return DONE;
  return rt.call("POST", "/api/notifications/seen", { notification_id: newest.notification_id });
}
async function archiveNotification(rt, id) {
  const answer = await rt.call("POST", `/api/notifications/${id}/archive`);
  if (answer.ok) rt.opened.notifications?.C({ type: ARCHIVED, notification_id: id });
  return answer;
}
var PATH = "/api/me/preferences";
var NO_PREFERENCES = Object.freeze({
  loaded: false,
  error: null,
  types: {},
  defaults: {},
  mandatory: [],
  quiet: null,
  presence: null
});
var Preferences = class extends Emitter {
  /** The current state, which is the same object until it changes. */
  snapshot = NO_PREFERENCES;
  #rt;
  /** Whose preferences these are, as the client knew it. */
  #user = null;
  /** @internal */
  constructor(rt) {
    super();
    this.#rt = rt;
    rt.on("state", () => this.#follow());
    this.#load();
  }
  /** Reads everything for the first time. */
  #load() {
    this.#rt.t.st(
      () => this.reload(),
      () => !this.snapshot.loaded
    );
  }
  /** Nothing of a user's stays for the next one. */
  #follow() {
    const isAnother = this.snapshot.loaded && this.#user !== this.#rt.userId;
    if (isAnother || this.#rt.t.e.h) this.#become(NO_PREFERENCES);
    if (isAnother) this.#load();
  }
  /** Reads everything again. */
  async reload() {
    const [own, presence] = await Promise.all([this.#rt.call("GET", PATH), this.#rt.call("GET", "/api/me/presence")]);
    this.#user = this.#rt.userId;
    const off = !presence.ok && presence.error.code === "invalid_request";
    if (!presence.ok && !off) return this.#failed(presence);
    return this.#take(own, { presence: presence.ok ? presence.data.shown : null });
  }
  /** Whether reminders of a type are sent over a channel: the most specific setting wins. */
  isOn(type, channel) {
    const { types, defaults, mandatory } = this.snapshot;
    const id = type.replaceAll(".", "-");
    const known = (settings, type2) => settings[type2]?.[channel] ?? settings["*"]?.[channel];
    return mandatory.includes(id) || (known(types, type) ?? known(defaults, id) ?? true);
  }
  /** Switches reminders of a type, or of all (`*`), over a channel on or off. `null` removes the user's setting. */
  async set(type, channel, on) {
    return this.#patch({ types: { [type]: { [channel]: on } } });
  }
  /** Sets the quiet hours; `null`: none. */
  async setQuiet(quiet) {
    return this.#patch({ quiet });
  }
  /** Shows the user's presence to others, or hides it. Users who hide see nobody's. */
  async showPresence(shown) {
    const answer = await this.#rt.call("PUT", "/api/me/presence", { shown });
    if (!answer.ok) return this.#failed(answer);
    this.#become({ presence: shown, error: null });
    return DONE;
  }
  async #patch(changes) {
    return this.#take(await this.#rt.call("PATCH", PATH, changes), {});
  }
  /** Takes the preferences in an answer. */
  #take(answer, more) {
    if (!answer.ok) return this.#failed(answer);
    const { types, defaults, mandatory, quiet } = answer.data;
    this.#become({ loaded: true, error: null, types, defaults, mandatory, quiet, ...more });
    return DONE;
  }
  #failed(answer) {
    this.#become({ error: answer.error });
    return answer;
  }
  #become(state) {
    const ended = this.#rt.t.e.h;
    this.snapshot = ended ? NO_PREFERENCES : Object.freeze({ ...this.snapshot, ...state });
    this.f("change", void 0);
  }
};
var KEY = /* @__PURE__ */ Symbol.for("@vyzio/realtime/preferences");
function preferencesOf(rt) {
  const client = rt;
  return client[KEY] ??= new Preferences(rt);
}
//# sourceMappingURL=settings.cjs.map
