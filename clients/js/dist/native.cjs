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

// src/native.ts
var native_exports = {};
__export(native_exports, {
  draftsIn: () => draftsIn,
  followApp: () => followApp
});
module.exports = __toCommonJS(native_exports);
var PREFIX = "vyzio-realtime/draft/";
function followApp(rt, appState) {
  const subscription = appState.addEventListener("change", (state) => {
    if (state === "active" && rt.state !== "closed") rt.reconnect();
  });
  return () => subscription.remove();
}
function draftsIn(storage) {
  return {
    put: (draft) => storage.setItem(PREFIX + draft.client_id, JSON.stringify(draft)),
    delete: (clientId) => storage.removeItem(PREFIX + clientId),
    async list() {
      const keys = (await storage.getAllKeys()).filter((key) => key.startsWith(PREFIX));
      const texts = await Promise.all(keys.map((key) => storage.getItem(key)));
      return texts.flatMap((text) => text ? [JSON.parse(text)] : []);
    }
  };
}
//# sourceMappingURL=native.cjs.map
