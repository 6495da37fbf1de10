/** The snippets of README.md, as they stand there, one after the other as one program. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import WebSocket from 'ws';
import { ask, client, someone, tokenOf, until } from './stack.js';

test('the snippets of README.md run', async (context) => {
  const [user, other] = [someone(), 457];
  const [id, token] = [await ask('conversation', { users: [user, other] }), await tokenOf(user)];
  const { rt, line } = await client(context, other);
  const chat = rt.conversation(id);

  // What the snippets expect of a page.
  const shown = {};
  const show = (name) => (globalThis[name] = (...values) => (shown[name] = values));
  [
    'showConnection',
    'showMessages',
    'showTypists',
    'showUnread',
    'showBell',
    'showList',
    'showError',
    'ring',
    'openConversation',
    'showOriginal',
    'showText',
    'showPresence',
    'showPreferences',
  ].forEach(show);
  globalThis.bell = new EventTarget();
  globalThis.WebSocket = WebSocket;
  const { fetch } = globalThis;
  globalThis.fetch = (url, options) => (url === '/realtime-token' ? new Response(token) : fetch(url, options));

  const page = await readFile(new URL('../README.md', import.meta.url), 'utf8');
  const snippets = [...page.matchAll(/^<!-- snippet -->\n```js\n(.*?)^```$/gms)].map(([, snippet]) => snippet);
  assert.equal(snippets.length, page.match(/^```js$/gm).length, 'every block is a snippet');
  const program = snippets.join('\n').replace('https://rt.example.com', line.url).replace('(123)', `(${id})`);
  const file = new URL('./readme.program.js', import.meta.url);
  await writeFile(file, `${program}\nexport { rt, chat, inbox };\n`);
  const ran = await import(file);
  context.after(() => ran.rt.close());

  assert.deepEqual(shown.showError, undefined);
  assert.equal(Number.isInteger(shown.openConversation[0]), true);
  await until('the message', () => chat.messages[0]?.content === 'Bonjour ! 45 €' && chat.messages[0].edited, chat);
  assert.deepEqual(shown.showOriginal, ['Offre : 45 € (en attente)']);
  assert.deepEqual(shown.showText, ['Offer: 45 € (open)']);
  chat.type();
  await until('the page to show it', () => shown.showTypists?.[0][0] === `name-${other}` || void chat.type(), ran.chat);
  await chat.send('Salut');
  await until('the answer', () => shown.showMessages?.[0].length === 4 && shown.showUnread[0] === 1, ran.chat);
  await until('the bell', () => shown.showBell?.[0] === 1 && shown.showList?.[0][0].conversation_id === id, ran.inbox);
  // The conversation is muted, and a payment is not.
  await ask('publish', { subject: 'events.payment_completed', payload: { user_id: user, data: { payment_id: 1 } } });
  await until('the payment', () => shown.ring && shown.showBell[0] === 2, ran.inbox);
  assert.equal(shown.ring[0], 'Paiement confirmé');
  assert.deepEqual(shown.showConnection, ['online', null]);
  globalThis.bell.dispatchEvent(new Event('click'));
  await until('it to be read', () => shown.showBell[0] === 0, ran.inbox);
});
