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

// src/kinds.ts
var kinds_exports = {};
__export(kinds_exports, {
  kindsOf: () => kindsOf,
  original: () => original,
  originalHere: () => originalHere,
  textOf: () => textOf
});
module.exports = __toCommonJS(kinds_exports);

// src/constants.ts
var failure = (code, detail = code) => ({ code, detail });
var DONE = { ok: true, data: null };
var NO_ANSWER = failure("network", "no answer");
var NO_TOKEN = failure("unauthorized");
var CLOSED = failure("closed");
var USER_CHANGED = failure("user_changed");

// src/kinds.ts
var read = /* @__PURE__ */ new WeakMap();
var schemas = /* @__PURE__ */ new WeakMap();
function originalHere(chat, { reply_to: id }) {
  const found = id && chat.messages.find((message) => message.message_id === id);
  return found ? found : void 0;
}
function original(rt, chat, message) {
  const { reply_to: id } = message;
  const here = originalHere(chat, message);
  if (!id || here) return Promise.resolve(here ? { ok: true, data: here } : DONE);
  const { Et: _changes } = chat;
  let known = read.get(chat);
  if (!known || known.Et !== _changes) read.set(chat, known = { Et: _changes, re: /* @__PURE__ */ new Map(), se: /* @__PURE__ */ new Map() });
  const { re: _answers, se: _failures } = known;
  const earlier = _answers.get(id);
  if (earlier) return earlier;
  const answer = rt.call("GET", `/api/conversations/${chat.id}/messages/${id}`).then((answer2) => {
    if (!answer2.ok) {
      const failures = _failures.get(id) ?? 0;
      _failures.set(id, failures + 1);
      rt.t.$(answer2.error, failures).then((again) => again && _answers.delete(id));
      return answer2;
    }
    const { message_id, sender_id, sender_username, content, kind, data, deleted_at } = answer2.data;
    const deleted = !!deleted_at;
    return { ok: true, data: { message_id, sender_id, sender_username, content, kind, data, deleted } };
  });
  _answers.set(id, answer);
  return answer;
}
function kindsOf(rt) {
  const known = schemas.get(rt);
  if (known) return known;
  const answer = rt.call("GET", "/api/kinds").then((kinds) => {
    if (!kinds.ok) {
      schemas.delete(rt);
      return kinds;
    }
    return { ok: true, data: new Map(kinds.data.kinds.map(({ kind, schema }) => [kind, schema])) };
  });
  schemas.set(rt, answer);
  return answer;
}
function textOf(schema, data, lang) {
  const { text, labels } = schema["x-vyzio"] ?? {};
  const template = own(text, lang);
  if (!template) return null;
  const words = own(labels, lang);
  const shown = (placeholder) => {
    const name = placeholder.replace(/\/100$/, "");
    const value = own(data, name);
    if (placeholder !== name && Number.isInteger(value) && Math.abs(value) <= 2 ** 63) return centsOf(value, lang);
    if (typeof value !== "string") return typeof value === "object" ? "" : `${value ?? ""}`;
    const property = schema.properties?.[name];
    if (property?.format === "date-time") return timeOf(value, lang);
    const isListed = (property?.enum ?? property?.const) !== void 0;
    return (isListed ? own(words, value) : void 0) ?? value;
  };
  return template.replace(/\{([^}]*)\}/g, (_, placeholder) => shown(placeholder)).replace(/\p{Cc}/gu, " ").trim();
}
function own(object, name) {
  return object && Object.hasOwn(object, name) ? object[name] : void 0;
}
function centsOf(number, lang) {
  const digits = `${BigInt(Math.abs(number))}`.padStart(3, "0");
  const [whole, cents] = [`${number < 0 ? "-" : ""}${digits.slice(0, -2)}`, digits.slice(-2)];
  return cents === "00" ? whole : `${whole}${lang === "en" ? "." : ","}${cents}`;
}
function timeOf(text, lang) {
  const [year, month, day, time] = [text.slice(0, 4), text.slice(5, 7), text.slice(8, 10), text.slice(11, 16)];
  return lang === "fr" ? `${day}/${month}/${year} à ${time}` : `${year}-${month}-${day} ${time}`;
}
//# sourceMappingURL=kinds.cjs.map
