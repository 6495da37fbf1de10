/** Tokens without `user_id`: the gateway reads the user from another claim. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { preferencesOf } from '@vyzio/realtime/settings';
import { HASTE, ask, client, someone, tokenOf, until } from './stack.js';

const tokenFor = (user) => tokenOf(user, 3600, { user_id: undefined, sub: String(user) });

test('the client learns its user from the server', async (context) => {
  const [ada, ben] = [someone(), someone()];
  const [a, b] = await Promise.all(
    [ada, ben].map(async (user) => {
      const token = await tokenFor(user);
      return client(context, user, { token: () => token });
    }),
  );
  assert.equal(a.rt.userId, null);
  const [made] = await ask('call', {
    subject: 'chat.conversations.create',
    payloads: [{ participants: [{ user_id: ada }, { user_id: ben }] }],
  });
  const [chat, other] = [a, b].map(({ rt }) => rt.conversation(made.conversation_id));
  const sent = await chat.send('hello');
  assert.deepEqual([sent.state, sent.mine, sent.sender_id, a.rt.userId], ['sent', true, ada, ada]);
  assert.deepEqual(chat.messages, [sent], 'once');
  await until('it', () => other.messages.length === 1, other);
  assert.deepEqual([other.messages[0].mine, other.unread, b.rt.userId], [false, 1, ben]);
});

test('a token of another user ends the client', async (context) => {
  const [ada, ben] = [someone(), someone()];
  const tokens = [await tokenFor(ada), await tokenFor(ben)];
  const { rt } = await client(context, ada, { token: ({ refresh }) => tokens[refresh ? 1 : 0] });
  await until('it', () => rt.state === 'online');
  await ask('call', { subject: 'sessions.revoke', payloads: [{ user_id: ada }] });
  await until('the end', () => rt.state === 'closed');
  assert.equal(rt.error.code, 'user_changed');
});

test('preferences are loaded again if the server names another user than the token', async (context) => {
  const [ada, ben] = [someone(), someone()];
  const token = await tokenOf(ben, 3600, { sub: String(ada) });
  const timing = { ...HASTE, backoff: 300 };
  const { rt, line } = await client(context, ada, { token: () => token, blocked: true, timing });
  const preferences = preferencesOf(rt);
  const seen = [];
  preferences.on('change', () => seen.push(preferences.snapshot.loaded));
  await until('them', () => preferences.snapshot.loaded, preferences);
  assert.equal(rt.userId, ben);
  line.refusal = '';
  await until('them again', () => seen.length > 2, preferences);
  assert.deepEqual([seen, rt.userId], [[true, false, true], ada]);
});
