/** React Native: the adapters, without the parts of a browser and of Node that it lacks. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import WebSocket from 'ws';

// Hermes, the engine of React Native 0.74 and later, has none of these, and no `ReadableStream`, which Node's `fetch` needs.
const LACKING = [
  'document',
  'window',
  'location',
  'localStorage',
  'sessionStorage',
  'indexedDB',
  'navigator',
  'BroadcastChannel',
  'crypto',
  'TextDecoder',
  'TextEncoder',
  'structuredClone',
  'MessageChannel',
  'Event',
  'EventTarget',
];

/** What the tests themselves need is imported before anything is removed. */
const { HASTE, client, contents, pair, stored, until } = await import('./stack.js');
const { draftsIn, followApp } = await import('@vyzio/realtime/native');

/** An `AppState`. */
function app() {
  const listeners = new Set();
  return {
    listeners,
    addEventListener(type, listener) {
      assert.equal(type, 'change');
      listeners.add(listener);
      return { remove: () => listeners.delete(listener) };
    },
    become: (state) => {
      for (const listener of listeners) listener(state);
    },
  };
}

/** An `AsyncStorage` with keys of the app. */
function asyncStorage() {
  const kept = new Map([['the app’s own', 'value']]);
  return {
    kept,
    getItem: async (key) => kept.get(key) ?? null,
    setItem: async (key, value) => void kept.set(key, value),
    removeItem: async (key) => void kept.delete(key),
    getAllKeys: async () => [...kept.keys()],
  };
}

/** Hides what React Native lacks, for the client and not for Node's own modules, which have taken theirs already. */
function hide(context) {
  const before = LACKING.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
  for (const name of LACKING) Object.defineProperty(globalThis, name, { value: undefined, configurable: true, writable: true });
  const fields = ['any', 'timeout'].map((name) => [name, AbortSignal[name]]);
  for (const [name] of fields) AbortSignal[name] = undefined;
  context.after(() => {
    for (const [name, value] of before) {
      if (value) Object.defineProperty(globalThis, name, value);
      else delete globalThis[name];
    }
    for (const [name, value] of fields) AbortSignal[name] = value;
  });
}

test('an app sends, is ended by the system, and sends the rest when it is back', async (context) => {
  const { id, ada, ben } = await pair(context);
  // Node loads its `fetch` with the first call.
  await until('both', () => ada.chat.state === 'live' && ben.chat.state === 'live', ada.chat, ben.chat);
  hide(context);
  const storage = asyncStorage();
  const { rt, line } = await client(context, ada.user, {
    persist: draftsIn(storage),
    timing: { ...HASTE, backoff: 60_000, backoffMax: 60_000 },
  });
  const chat = rt.conversation(id);
  await until('it to be live', () => chat.state === 'live', chat);
  assert.equal((await chat.send('from the app')).state, 'sent');

  // In the background, the system ends the socket, and timers do not run.
  const state = app();
  const stop = followApp(rt, state);
  state.become('background');
  line.cut();
  await until('the loss', () => rt.state === 'offline');
  const sending = chat.send('later');
  await until('it to be kept', () => storage.kept.size === 2);
  state.become('active');
  assert.equal((await sending).state, 'sent');
  await until('nothing to be kept', () => storage.kept.size === 1);
  await until('both', () => contents(ben.chat).join() === 'from the app,later', ben.chat);

  // The app is killed with an unsent message; the next start sends it.
  line.refusal = 'HTTP/1.1 503 Service Unavailable\r\n\r\n';
  line.cut();
  await until('the loss', () => rt.state === 'offline');
  chat.send('after a restart');
  await until('it to be kept', () => storage.kept.size === 2);
  line.refusal = '';
  await client(context, ada.user, { persist: draftsIn(storage), url: line.url });
  await until('all', () => contents(ben.chat).length === 3, ben.chat);
  assert.equal((await stored(ben.rt, id)).length, 3);
  await until('nothing to be kept', () => storage.kept.size === 1);

  stop();
  assert.equal(state.listeners.size, 0);
  assert.deepEqual([...storage.kept.keys()], ['the app’s own']);
});

test('the classes of the client name nothing that is missing', async (context) => {
  assert.doesNotMatch(await readFile(new URL('../dist/index.js', import.meta.url), 'utf8'), /ReadableStream/);
  hide(context);
  const { connect } = await import('@vyzio/realtime');
  const rt = connect({ url: 'http://127.0.0.1:1', token: 'none', WebSocket, timing: HASTE });
  rt.conversation(1);
  rt.conversations();
  await until('an attempt', () => rt.state === 'offline');
  rt.close();
});
