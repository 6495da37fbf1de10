/* @vyzio/realtime, MIT */

// src/react.ts
import { createContext, createElement, useContext, useMemo, useSyncExternalStore } from "react";

// src/ids.ts
var isId = (value) => Number.isSafeInteger(value) && value > 0;
function idOf(value) {
  const id = /^\d+$/.test(value) ? Number(value) : value;
  if (isId(id)) return id;
  throw new RangeError(`${value} is not an id up to 2^53`);
}

// src/constants.ts
var failure = (code, detail = code) => ({ code, detail });
var ARCHIVED = "/archived";
var DONE = { ok: true, data: null };
var NO_ANSWER = failure("network", "no answer");
var NO_TOKEN = failure("unauthorized");
var CLOSED = failure("closed");
var USER_CHANGED = failure("user_changed");

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

// src/react.ts
var Context = createContext(null);
function RealtimeProvider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}
function usePart(access, empty, names, key) {
  const client = useContext(Context);
  const store = useMemo(() => {
    let mounted = null;
    const act = (name, values) => {
      if (mounted) return mounted[name](...values);
      const part = access.open(client);
      const result = part[name](...values);
      access.close?.(part);
      return result;
    };
    return {
      subscribe(onChange) {
        if (!client) return () => {
        };
        const part = mounted = access.open(client);
        const stop = part.on("change", onChange);
        return () => {
          mounted = null;
          stop();
          access.close?.(part);
        };
      },
      get: () => (mounted ?? (client && access.peek(client)))?.snapshot ?? empty,
      server: () => empty,
      actions: Object.fromEntries(names.map((name) => [name, (...values) => act(name, values)]))
    };
  }, [client, key]);
  const snapshot = useSyncExternalStore(store.subscribe, store.get, store.server);
  return useMemo(() => ({ ...snapshot, ...store.actions }), [snapshot, store]);
}
function useBound(functions) {
  const client = useContext(Context);
  return useMemo(
    () => Object.fromEntries(
      Object.entries(functions).map(([name, call]) => [name, (...values) => call(client, ...values)])
    ),
    [client]
  );
}
var CONNECTION = { state: "connecting", error: null, userId: null };
function connectionOf(client) {
  let last = CONNECTION;
  return {
    get snapshot() {
      const { state, error, userId } = client;
      if (state !== last.state || error !== last.error || userId !== last.userId) last = { state, error, userId };
      return last;
    },
    on(_, listener) {
      const stops = [client.on("state", listener), client.on("error", listener)];
      return () => {
        for (const stop of stops) stop();
      };
    },
    reconnect: () => client.reconnect()
  };
}
function useConnection() {
  const access = useMemo(() => {
    const known = /* @__PURE__ */ new WeakMap();
    const open = (client) => {
      if (!known.has(client)) known.set(client, connectionOf(client));
      return known.get(client);
    };
    return { open, peek: open };
  }, []);
  return usePart(access, CONNECTION, ["reconnect"]);
}
function useConversation(id) {
  const key = idOf(id);
  const empty = useMemo(
    () => ({ id: key, state: "loading", error: null, info: null, messages: [], typists: [], unread: 0, hasOlder: false }),
    [key]
  );
  const access = {
    peek: (client) => client.opened.conversation(key),
    open: (client) => client.conversation(key),
    close: (chat) => chat.close()
  };
  return usePart(access, empty, ["send", "retry", "discard", "edit", "delete", "read", "type", "loadOlder"], key);
}
var LIST_SETTINGS = { setMine };
var INBOX_SETTINGS = { markSeen, archive: archiveNotification };
var LIST = { items: [], loaded: false, error: null, hasOlder: false };
function useConversations() {
  const access = {
    peek: (client) => client.opened.conversations,
    open: (client) => client.conversations()
  };
  const list = usePart(access, LIST, ["reload", "loadOlder"]);
  const own = useBound(LIST_SETTINGS);
  return useMemo(() => ({ ...list, ...own }), [list, own]);
}
var INBOX = { state: "loading", error: null, items: [], unread: 0, unseen: 0, hasOlder: false };
function useInbox() {
  const access = {
    peek: (client) => client.opened.notifications,
    open: (client) => client.notifications()
  };
  const inbox = usePart(access, INBOX, ["read", "readAll", "loadOlder"]);
  const own = useBound(INBOX_SETTINGS);
  return useMemo(() => ({ ...inbox, ...own }), [inbox, own]);
}
var NOBODY = { people: [], error: null };
function usePresence(id) {
  const key = idOf(id);
  const access = {
    peek: (client) => openPresence(client, key),
    open: (client) => presenceOf(client, key),
    close: (presence) => presence.close()
  };
  return usePart(access, NOBODY, [], key);
}
function usePreferences() {
  const access = { peek: () => null, open: preferencesOf };
  return usePart(access, NO_PREFERENCES, ["reload", "isOn", "set", "setQuiet", "showPresence"]);
}
export {
  RealtimeProvider,
  useConnection,
  useConversation,
  useConversations,
  useInbox,
  usePreferences,
  usePresence
};
//# sourceMappingURL=react.js.map
