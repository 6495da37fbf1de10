/** Unsent messages that survive the page (K4), with a store in memory. e2e/tests/browser has the test with IndexedDB. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import WebSocket from 'ws';
import { client, contents, pair, stored, tokenOf, until } from './stack.js';

// Node 24 has locks, for which this whole process is one tab that lives.
Object.defineProperty(globalThis, 'navigator', { value: undefined, configurable: true });

/** Sockets and calls of a page whose network can go down. */
function network() {
  const state = { down: false };
  state.fetch = (url, options) => (state.down ? Promise.reject(new Error('the network is down')) : fetch(url, options));
  state.WebSocket = class extends WebSocket {
    constructor(url, protocols) {
      super(state.down ? 'ws://127.0.0.1:1/' : url, protocols);
    }
  };
  return state;
}

/** A store that records the order of its changes. */
function memory() {
  const kept = new Map();
  return {
    kept,
    put: async (draft) => void kept.set(draft.client_id, structuredClone(draft)),
    delete: async (id) => void kept.delete(id),
    list: async () => [...kept.values()],
  };
}

describe('the outbox', { concurrency: true }, () => {
  test('what a dead page has not sent is sent by the next one, in order and once', async (context) => {
    const { id, ada, ben } = await pair(context);
    const store = memory();
    const wires = network();
    const dead = await client(context, ada.user, { persist: store, ...wires });
    const chat = dead.rt.conversation(id);
    await until('it', () => chat.state === 'live', chat);
    wires.down = true;
    dead.line.cut();
    await until('the loss', () => dead.rt.state === 'offline');
    const sends = ['one', 'two', 'three'].map((text) => chat.send(text));
    await until('all to be kept', () => store.kept.size === 3);

    // The next page shows nothing of this conversation, and sends all the same.
    await client(context, ada.user, { persist: store, url: dead.line.url });
    await until('all', () => contents(ben.chat).join() === 'one,two,three', ben.chat);
    await until('nothing to be kept', () => store.kept.size === 0);

    // The first page was not dead after all: nothing is stored twice.
    wires.down = false;
    const sent = await Promise.all(sends);
    assert.deepEqual(
      sent.map(({ state, seq }) => [state, seq]),
      [
        ['sent', 1],
        ['sent', 2],
        ['sent', 3],
      ],
    );
    assert.equal((await stored(ada.rt, id)).length, 3);
  });

  test('what failed is shown as failed by the next page, until it is sent or discarded', async (context) => {
    const { id, ada, ben } = await pair(context);
    const store = memory();
    assert.ok((await ben.rt.call('PUT', `/api/blocks/${ada.user}`)).ok);
    const first = await client(context, ada.user, { persist: store });
    const failed = await first.rt.conversation(id).send('hello?');
    assert.equal(failed.error.code, 'blocked');
    await until('it to be kept', () => [...store.kept.values()][0]?.error?.code === 'blocked');
    first.rt.close();
    const next = await client(context, ada.user, { persist: store, url: first.line.url });
    await until('the connection', () => next.rt.state === 'online');
    const chat = next.rt.conversation(id);
    await until('it', () => chat.messages[0]?.state === 'failed', chat);
    assert.equal(chat.messages[0].content, 'hello?');
    assert.equal((await chat.retry(failed.key)).error.code, 'blocked');
    chat.discard(failed.key);
    await until('nothing to be kept', () => store.kept.size === 0);
  });

  test('the messages of another user stay until that user is back; signOut() forgets them', async (context) => {
    const { id, ada, ben } = await pair(context);
    const store = memory();
    const token = await tokenOf(ada.user);
    const wires = network();
    const page = await client(context, ada.user, { persist: store, token: () => token, ...wires });
    const chat = page.rt.conversation(id);
    await until('it', () => chat.state === 'live', chat);
    wires.down = true;
    page.line.cut();
    await until('the loss', () => page.rt.state === 'offline');
    chat.send('of Ada');
    await until('it to be kept', () => store.kept.size === 1);
    const other = await client(context, ben.user, { persist: store, url: page.line.url });
    assert.equal((await other.rt.conversation(id).send('of Ben')).state, 'sent');
    await other.rt.signOut();
    assert.deepEqual(
      [...store.kept.values()].map(({ content }) => content),
      ['of Ada'],
    );
    await page.rt.signOut();
    assert.deepEqual([store.kept.size, page.rt.state, chat.messages], [0, 'closed', []]);
    assert.deepEqual(
      (await stored(ben.rt, id)).map(({ content }) => content),
      ['of Ben'],
    );
  });

  test('a store that fails loses nothing but the memory of it', async (context) => {
    const { id, ada } = await pair(context);
    const broken = () => Promise.reject(new Error('the disk is full'));
    const { rt } = await client(context, ada.user, { persist: { put: broken, delete: broken, list: async () => [] } });
    assert.equal((await rt.conversation(id).send('hello')).state, 'sent');
  });
});
