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

// src/react.ts
var react_exports = {};
__export(react_exports, {
  RealtimeProvider: () => RealtimeProvider,
  useConnection: () => useConnection,
  useConversation: () => useConversation,
  useConversations: () => useConversations,
  useInbox: () => useInbox
});
module.exports = __toCommonJS(react_exports);
var import_react = require("react");

// src/ids.ts
var isId = (value) => Number.isSafeInteger(value) && value > 0;
function idOf(value) {
  const id = /^\d+$/.test(value) ? Number(value) : value;
  if (isId(id)) return id;
  throw new RangeError(`${value} is not an id up to 2^53`);
}

// src/react.ts
var Context = (0, import_react.createContext)(null);
function RealtimeProvider({ client, children }) {
  return (0, import_react.createElement)(Context.Provider, { value: client }, children);
}
function usePart(access, empty, names, key) {
  const client = (0, import_react.useContext)(Context);
  const store = (0, import_react.useMemo)(() => {
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
  const snapshot = (0, import_react.useSyncExternalStore)(store.subscribe, store.get, store.server);
  return (0, import_react.useMemo)(() => ({ ...snapshot, ...store.actions }), [snapshot, store]);
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
  const access = (0, import_react.useMemo)(() => {
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
  const empty = (0, import_react.useMemo)(
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
var LIST = { items: [], loaded: false, error: null, hasOlder: false };
function useConversations() {
  const access = {
    peek: (client) => client.opened.conversations,
    open: (client) => client.conversations()
  };
  return usePart(access, LIST, ["reload", "loadOlder"]);
}
var INBOX = { state: "loading", error: null, items: [], unread: 0, hasOlder: false };
function useInbox() {
  const access = {
    peek: (client) => client.opened.notifications,
    open: (client) => client.notifications()
  };
  return usePart(access, INBOX, ["read", "readAll", "loadOlder"]);
}
//# sourceMappingURL=react.cjs.map
