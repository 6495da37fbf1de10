/** What is closed is not kept. Needs `--expose-gc`. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HASTE, client, conversations, someone, until } from './stack.js';

const COUNT = 1_000;

test('closed conversations are collected while the socket stays open', { timeout: 200_000 }, async (context) => {
  const ada = someone();
  const others = Array.from({ length: 20 }, someone);
  const { rt, line } = await client(context, ada, { timing: { ...HASTE, linger: 0 } });
  await until('it', () => rt.state === 'online');
  const ids = await conversations(...others.map((other) => [ada, other]));
  const opened = [];
  for (let round = 0; round < COUNT / ids.length; round += 1) {
    const chats = ids.map((id) => rt.conversation(id));
    await until('all', () => chats.every(({ state }) => state === 'live'));
    opened.push(...chats.map((chat) => new WeakRef(chat)));
    for (const chat of chats) chat.close();
    await until('their end', () => chats.every(({ state }) => state === 'closed'));
  }
  assert.equal(opened.length, COUNT);
  const reachable = () => opened.filter((chat) => chat.deref()).length;
  await until('all to be collected', () => (global.gc(), reachable() <= ids.length)); // The last ones are on the stack.
  assert.equal(rt.state, 'online');
  assert.ok(line.count > 0);
});
