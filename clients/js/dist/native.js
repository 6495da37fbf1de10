/* @vyzio/realtime, MIT */

// src/native.ts
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
export {
  draftsIn,
  followApp
};
//# sourceMappingURL=native.js.map
