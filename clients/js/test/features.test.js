/** What the client does while all is well. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connect } from '@vyzio/realtime';
import { ask, client, contents, pair, someone, stored, tokenOf, until } from './stack.js';

describe('features', { concurrency: true }, () => {
  test('two people chat, and see what was read', async (context) => {
    const { ada, ben } = await pair(context);
    await until('both', () => ada.chat.state === 'live' && ben.chat.state === 'live', ada.chat, ben.chat);
    const heard = [];
    ben.chat.on('message', (message) => heard.push(message.content));

    const sending = ada.chat.send('  Bonjour <b>Ben</b>  ');
    const [echo] = ada.chat.messages;
    assert.deepEqual([echo.content, echo.state, echo.mine, echo.seq], ['Bonjour <b>Ben</b>', 'sending', true, null]);
    const sent = await sending;
    assert.deepEqual([sent.state, sent.seq, sent.key], ['sent', 1, echo.key]);
    assert.deepEqual(ada.chat.messages, [sent], 'it took its draft’s place');

    await until('the message', () => ben.chat.messages.length, ben.chat);
    assert.deepEqual([ben.chat.messages[0].state, ben.chat.messages[0].mine], ['received', false]);
    assert.equal('client_id' in ben.chat.messages[0], false);
    assert.deepEqual([ben.chat.unread, ada.chat.unread], [1, 0]);
    ben.chat.read();
    assert.equal(ben.chat.unread, 0);
    await until('the receipt', () => ada.chat.messages[0].state === 'read', ada.chat);

    await ben.chat.send('Salut');
    await until('the answer', () => ada.chat.messages.length === 2, ada.chat);
    assert.deepEqual(contents(ada.chat), contents(ben.chat));
    assert.deepEqual([heard, ada.chat.unread, ben.chat.unread], [['Bonjour <b>Ben</b>'], 1, 0]);
  });

  test('messages keep the order in which they were sent', async (context) => {
    const { ada, ben } = await pair(context);
    const said = Array.from({ length: 30 }, (_, at) => `${at}`);
    const sent = await Promise.all(said.map((text) => ada.chat.send(text)));
    assert.deepEqual(
      sent.map(({ seq }) => seq),
      said.map((_, at) => at + 1),
    );
    await until('all', () => ben.chat.messages.length === said.length, ben.chat);
    assert.deepEqual(contents(ben.chat), said);
  });

  test('older messages are loaded page by page, up to the first', async (context) => {
    const { id, ada, ben } = await pair(context);
    ben.rt.close();
    for (let at = 1; at <= 120; at += 1) await ada.rt.call('POST', `/api/conversations/${id}/messages`, { message: `${at}` });
    ada.chat.close();
    await until('it to close', () => ada.chat.state === 'closed', ada.chat);
    const chat = ada.rt.conversation(id);
    await until('the last page', () => chat.state === 'live', chat);
    assert.deepEqual([chat.messages.length, chat.messages[0].seq, chat.hasOlder], [50, 71, true]);
    const [once, twice] = await Promise.all([chat.loadOlder(40), chat.loadOlder(40)]);
    assert.ok(once.ok && twice.ok);
    assert.deepEqual([chat.messages.length, chat.messages[0].seq], [90, 31], 'asked twice, loaded once');
    while (chat.hasOlder) await chat.loadOlder();
    assert.deepEqual(
      contents(chat),
      Array.from({ length: 120 }, (_, at) => `${at + 1}`),
    );
    assert.deepEqual(await chat.loadOlder(), { ok: true, data: null });
  });

  test('typing is passed on sparingly and ends', async (context) => {
    const { ada, ben } = await pair(context);
    await until('both', () => ada.chat.state === 'live' && ben.chat.state === 'live', ada.chat, ben.chat);
    const names = () => ben.chat.typists.map(({ username }) => username);
    await until('Ben to be told', () => (ada.chat.type(), names().length), ben.chat);
    assert.deepEqual(names(), [`name-${ada.user}`]);
    assert.deepEqual(ada.chat.typists, [], 'nobody is told of themselves');
    ada.chat.type(false);
    await until('the end', () => !names().length, ben.chat);
    await until('Ben to be told again', () => (ada.chat.type(), names().length), ben.chat);
    await ada.chat.send('done');
    await until('the message to end it', () => ben.chat.messages.length && !names().length, ben.chat);
  });

  test('what can’t be sent fails with the reason, and nothing else does', async (context) => {
    const { ada, ben } = await pair(context);
    const code = async (text) => (await ada.chat.send(text)).error?.code;
    assert.equal(await code('   '), 'invalid_message');
    assert.equal(await code('é'.repeat(4001)), 'message_too_long');
    assert.equal(await code('\0'), 'invalid_message', 'the server’s word');
    assert.equal(await code('👋'.repeat(4000)), undefined, 'characters, not UTF-16 units');
    await ben.rt.call('PUT', `/api/blocks/${ada.user}`);
    assert.equal(await code('hello?'), 'blocked');
    const failed = ada.chat.messages.at(-1);
    assert.deepEqual([failed.state, failed.content], ['failed', 'hello?']);
    await ben.rt.call('DELETE', `/api/blocks/${ada.user}`);
    assert.equal((await ada.chat.retry(failed.key)).state, 'sent');
    assert.equal(ada.chat.retry(failed.key), null);
    for (const { key, state } of ada.chat.messages) if (state === 'failed') ada.chat.discard(key);
    assert.deepEqual(contents(ada.chat), ['👋'.repeat(4000), 'hello?']);
  });

  test('a conversation that is someone else’s is closed for good, and the rest goes on', async (context) => {
    const { id } = await pair(context);
    const { rt } = await client(context, someone());
    const chat = rt.conversation(id);
    await until('the refusal', () => chat.state === 'closed', chat);
    assert.equal(chat.error.code, 'forbidden');
    await until('the rest', () => rt.state === 'online');
  });

  test('notifications come once, are counted and read', async (context) => {
    const user = someone();
    const { rt } = await client(context, user);
    const publish = (type, data) => ask('publish', { subject: `events.${type}`, payload: { user_id: user, data } });
    await publish('payment_completed', { payment_id: 1 });
    await until('it to be stored', async () => (await rt.call('GET', '/api/notifications')).data?.items.length);
    const inbox = rt.notifications();
    await until('the first', () => inbox.state === 'live' && inbox.unread === 1, inbox);
    const told = [];
    inbox.on('notification', ({ data }) => told.push(data));
    await publish('listing_published', { listing_id: 2 });
    await until('the second', () => inbox.unread === 2 && told.length, inbox);
    assert.deepEqual(
      inbox.items.map(({ type }) => type),
      ['listing_published', 'payment_completed'],
    );
    assert.deepEqual(told, [{ listing_id: 2 }], 'not what was there before');

    const other = await client(context, user);
    const elsewhere = other.rt.notifications();
    await until('the same elsewhere', () => elsewhere.unread === 2, elsewhere);
    assert.ok((await inbox.read(inbox.items[0].notification_id)).ok);
    await until('one less', () => inbox.unread === 1 && elsewhere.unread === 1, inbox, elsewhere);
    assert.deepEqual(
      elsewhere.items.map((item) => item.is_read),
      [true, false],
    );
    assert.ok((await elsewhere.readAll()).ok);
    await until('none', () => inbox.unread === 0 && inbox.items.every((item) => item.is_read), inbox);
    assert.equal((await inbox.read(2 ** 50)).error.code, 'not_found');
  });

  test('the list shows what is new, wherever it is read', async (context) => {
    const { id, ada, ben } = await pair(context);
    const third = await ask('conversation', { users: [ben.user, someone()] });
    ben.chat.close();
    const list = ben.rt.conversations();
    await until('the list', () => list.items.length === 2, list);
    assert.deepEqual(
      list.items.map((item) => item.conversation_id),
      [third, id],
    );
    await ada.chat.send('one');
    await until('the badge', () => list.items[0].unread_count === 1 && list.items[0].conversation_id === id, list);
    assert.equal(list.items[0].last_message.content, 'one');
    await ada.chat.send('two');
    await until('two', () => list.items[0].unread_count === 2 && list.items[0].last_message.content === 'two', list);

    const chat = ben.rt.conversation(id);
    await until('it to open', () => chat.state === 'live', chat);
    assert.equal(chat.unread, 2);
    chat.read();
    await until('no badge', () => list.items[0].unread_count === 0, list);
    await chat.send('three');
    await until('one’s own', () => list.items[0].last_message.content === 'three', list);
    const { data } = await ben.rt.call('GET', '/api/unread');
    assert.equal(data.messages, 0);
  });

  test('what is read on another device loses its badge, though no notification is left to be read', async (context) => {
    const { id, ada, ben } = await pair(context);
    ben.chat.close();
    const [list, inbox] = [ben.rt.conversations(), ben.rt.notifications()];
    await until('the list', () => list.items.length === 1 && inbox.state === 'live', list, inbox);
    await ada.chat.send('one');
    await until('the badge', () => list.items[0].unread_count === 1 && inbox.unread === 1, list, inbox);
    assert.ok((await inbox.readAll()).ok);
    await until('no notification', () => inbox.unread === 0, inbox);
    const other = await client(context, ben.user);
    const { message_id: last } = list.items[0].last_message;
    assert.ok((await other.rt.call('POST', `/api/conversations/${id}/read`, { message_id: last })).ok);
    await until('no badge', () => list.items[0].unread_count === 0, list);
    assert.equal(inbox.unread, 0, 'which counts notifications');
  });

  test('a new conversation comes into the list with its first message', async (context) => {
    const [user, other] = [someone(), someone()];
    const { rt } = await client(context, user);
    const list = rt.conversations();
    await until('an empty list', () => list.loaded && rt.notifications().state === 'live', list);
    const ada = await client(context, other);
    const id = await ask('conversation', { users: [other, user] });
    await ada.rt.call('POST', `/api/conversations/${id}/messages`, { message: 'hello' });
    await until('it', () => list.items[0]?.conversation_id === id && list.items[0].unread_count === 1, list);
  });

  test('a token that is refused is asked for again; one that stays refused closes', async (context) => {
    const user = someone();
    const good = await tokenOf(user);
    const ended = await tokenOf(user, -60);
    const asked = [];
    const first = await client(context, user, { token: ({ refresh }) => (asked.push(refresh), refresh ? good : ended) });
    await until('the good one', () => first.rt.state === 'online');
    assert.deepEqual(asked, [false, true]);

    let token = ended;
    const { rt } = await client(context, user, { token: () => token });
    await until('the end', () => rt.state === 'closed');
    assert.equal(rt.error.code, 'unauthorized');
    assert.equal((await rt.call('GET', '/api/unread')).error.code, 'unauthorized');
    token = good;
    rt.reconnect();
    await until('it to be online', () => rt.state === 'online');
  });

  test('a token callback that fails is tried again; none at all closes', async (context) => {
    const user = someone();
    const good = await tokenOf(user);
    let failures = 2;
    const token = async () => {
      if ((failures -= 1) >= 0) throw new Error('no session service');
      return good;
    };
    const { rt } = await client(context, user, { token });
    const errors = [];
    rt.on('error', (error) => errors.push(error));
    await until('it to be online', () => rt.state === 'online');
    assert.deepEqual(
      errors.map(({ code }) => code),
      ['token_failed', 'token_failed'],
    );
    assert.match(errors[0].detail, /no session service/);

    const nobody = await client(context, user, { token: () => null });
    await until('the end', () => nobody.rt.state === 'closed');
    assert.equal(nobody.rt.error.code, 'unauthorized');
  });

  test('what is sent while offline waits, within bounds, and goes out once', async (context) => {
    const { id, ada } = await pair(context);
    await until('it', () => ada.chat.state === 'live', ada.chat);
    ada.line.refusal = 'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\r\n';
    ada.line.cut();
    await until('the loss', () => ada.rt.state === 'offline');
    const sends = Array.from({ length: 101 }, (_, at) => ada.chat.send(`${at}`));
    assert.equal(ada.chat.messages.length, 101);
    assert.equal((await sends[100]).error.code, 'queue_full');
    ada.line.refusal = '';
    const sent = await Promise.all(sends.slice(0, 100));
    assert.deepEqual(
      sent.map(({ seq }) => seq),
      sent.map((_, at) => at + 1),
    );
    assert.deepEqual(
      (await stored(ada.rt, id)).map(({ content }) => content),
      sent.map((_, at) => `${at}`),
    );
  });

  test('close ends it; what waits fails, and nothing throws', async (context) => {
    const { ada } = await pair(context);
    ada.line.refusal = 'HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n';
    ada.line.cut();
    const waiting = ada.chat.send('too late');
    ada.rt.close();
    assert.equal((await waiting).error.code, 'closed');
    assert.deepEqual([ada.rt.state, ada.rt.error.code], ['closed', 'closed']);
    ada.rt.reconnect();
    assert.equal(ada.rt.state, 'closed');
    assert.equal((await ada.rt.notifications().readAll()).error.code, 'network');
  });

  test('a conversation that is left still sends what waits', async (context) => {
    const { ada, ben } = await pair(context);
    const sends = ['one', 'two', 'three'].map((text) => ada.chat.send(text));
    ada.chat.close();
    assert.deepEqual(
      (await Promise.all(sends)).map(({ state }) => state),
      ['sent', 'sent', 'sent'],
    );
    await until('them', () => ben.chat.messages.length === 3, ben.chat);
    assert.deepEqual(contents(ben.chat), ['one', 'two', 'three']);
  });

  test('without a WebSocket it says so at once', () => {
    const there = globalThis.WebSocket;
    delete globalThis.WebSocket;
    try {
      assert.throws(() => connect({ url: 'http://127.0.0.1:1', token: '' }), /WebSocket/);
    } finally {
      if (there) globalThis.WebSocket = there;
    }
  });
});
