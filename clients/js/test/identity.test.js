/** Whose connection it is. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { connect } from '@vyzio/realtime';
import { HASTE, REFUSED, ask, client, pair, revoke, someone, stored, tokenOf, until } from './stack.js';

describe('identity', { concurrency: true }, () => {
  test('a token of another user ends the client; nothing of the first user is sent or shown', async (context) => {
    const [ada, ben] = [someone(), someone()];
    const id = await ask('conversation', { users: [ada, ben] });
    let token = await tokenOf(ada);
    const { rt, line } = await client(context, ada, { token: () => token });
    const [chat, inbox, list] = [rt.conversation(id), rt.notifications(), rt.conversations()];
    await until('it', () => chat.state === 'live' && inbox.state === 'live' && list.items.length === 1, chat, inbox, list);
    await ask('publish', { subject: 'events.payment_completed', payload: { user_id: ada, data: {} } });
    await chat.send('before');
    await until('the notification', () => inbox.items.length === 1, inbox);
    line.refusal = REFUSED;
    line.cut();
    const sending = chat.send('secret');
    token = await tokenOf(ben); // In another tab, Ben signs in.
    await revoke(ada);
    line.refusal = '';
    rt.reconnect();
    await until('the end', () => rt.state === 'closed');
    assert.equal(rt.error.code, 'user_changed');
    const sent = await sending;
    assert.deepEqual([sent.state, sent.error.code], ['failed', 'user_changed']);
    assert.deepEqual([chat.messages, inbox.items, list.items, inbox.unread], [[], [], [], 0]);
    assert.deepEqual([chat.state, inbox.state], ['closed', 'closed']);
    assert.equal((await chat.send('too late')).error.code, 'user_changed');
    assert.equal((await rt.call('GET', '/api/unread')).error.code, 'user_changed');
    const other = await client(context, ben);
    assert.deepEqual(
      (await stored(other.rt, id)).map(({ content }) => content),
      ['before'],
    );
    rt.reconnect();
    assert.equal(rt.state, 'closed');
  });

  test('a renewed token of another user ends the client too', async (context) => {
    const [ada, ben] = [someone(), someone()];
    const tokens = [await tokenOf(ada, 8), await tokenOf(ben)];
    let at = 0;
    const { rt } = await client(context, ada, { token: () => tokens[Math.min(at++, 1)] });
    await until('it', () => rt.state === 'online');
    await until('the end', () => rt.state === 'closed');
    assert.equal(rt.error.code, 'user_changed');
  });

  test('the page can name the user', async (context) => {
    const { rt } = await client(context, someone(), { userId: someone() });
    await until('the end', () => rt.state === 'closed');
    assert.equal(rt.error.code, 'user_changed');
  });

  test('who signs in later finds everything after reconnect()', async (context) => {
    const [ada, ben] = [someone(), someone()];
    const id = await ask('conversation', { users: [ada, ben] });
    const good = await tokenOf(ada);
    let token = null;
    const { rt } = await client(context, ada, { token: () => token });
    const [inbox, list, chat] = [rt.notifications(), rt.conversations(), rt.conversation(id)];
    await until('the end', () => rt.state === 'closed');
    assert.equal(rt.error.code, 'unauthorized');
    const sending = chat.send('waits for nothing');
    assert.equal((await sending).error.code, 'unauthorized');
    token = good;
    rt.reconnect();
    const live = () => inbox.state === 'live' && chat.state === 'live' && list.items.length === 1;
    await until('everything', live, inbox, list, chat);
    assert.equal((await chat.retry(chat.messages[0].key)).state, 'sent');
  });

  test('a subscription that is refused says so', async (context) => {
    const ada = someone();
    const { rt } = await client(context, ada);
    await until('it', () => rt.state === 'online');
    // A socket has at most 128 channels, of which a conversation needs two.
    const ids = await Promise.all(Array.from({ length: 65 }, () => ask('conversation', { users: [ada, someone()] })));
    const chats = ids.slice(0, 64).map((id) => rt.conversation(id));
    await until('64 conversations', () => chats.every(({ state }) => state === 'live'));
    const inbox = rt.notifications();
    await until('the refusal', () => inbox.state === 'closed', inbox);
    assert.equal(inbox.error.code, 'invalid_request');
    const one = rt.conversation(ids[64]);
    await until('another one', () => one.state === 'closed', one);
    assert.equal(one.error.code, 'invalid_request');
  });

  test('a response with an error of the backend is temporary; 401 and 403 are not', async (context) => {
    const user = someone();
    const good = await tokenOf(user);
    const answers = [new Response('down', { status: 503 }), new Response('', { status: 502 }), new Response(`${good}\n`)];
    const { rt } = await client(context, user, { token: () => answers.shift() });
    const errors = [];
    rt.on('error', ({ code }) => errors.push(code));
    await until('it to be online', () => rt.state === 'online');
    assert.deepEqual(errors, ['token_failed', 'token_failed']);

    const json = await client(context, user, { token: () => Response.json({ access: good }) });
    await until('JSON', () => json.rt.state === 'online');
    for (const status of [401, 403]) {
      const nobody = await client(context, user, { token: () => new Response('', { status }) });
      await until('the end', () => nobody.rt.state === 'closed');
      assert.equal(nobody.rt.error.code, 'unauthorized');
    }
  });

  test('ids are whole numbers that JavaScript has', async (context) => {
    const { id, ada } = await pair(context);
    assert.equal(ada.rt.conversation(String(id)), ada.chat);
    for (const wrong of [0, -1, 1.5, NaN, '', ' 8', '8.0', 'x', null, undefined, 2 ** 53, '9007199254740993']) {
      assert.throws(() => ada.rt.conversation(wrong), /RangeError: .* is not an id/, `${wrong}`);
    }
    assert.equal(ada.rt.conversation(2 ** 53 - 1).id, 2 ** 53 - 1);
  });

  test('a user whose id JavaScript would round is refused', async (context) => {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
    server.on('connection', (socket) => {
      socket.send(
        '{"op":"hello","user_id":9007199254740993,"server_time":"2026-01-01T00:00:00Z","expires_at":"2026-01-01T01:00:00Z"}',
      );
    });
    await once(server, 'listening');
    const rt = connect({ url: `ws://127.0.0.1:${server.address().port}`, token: 'x', WebSocket, timing: HASTE });
    context.after(() => (rt.close(), server.close()));
    await until('the end', () => rt.state === 'closed');
    assert.match(rt.error.detail, /2\^53/);
  });
});
