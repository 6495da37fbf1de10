/** Conversations: their uses, bounds and events. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { HASTE, REFUSED, ask, client, contents, conversations, messages, pair, someone, stored, until } from './stack.js';

const live = (chat) => until('it to be live', () => chat.state === 'live', chat);

describe('conversations', { concurrency: true }, () => {
  test('components share a conversation, which closes after the last one', async (context) => {
    const { id, ada } = await pair(context);
    await live(ada.chat);
    const again = ada.rt.conversation(String(id));
    assert.equal(again, ada.chat);
    again.close();
    assert.equal((await ada.chat.send('still there')).state, 'sent');
    ada.chat.close();
    assert.equal(ada.rt.conversation(id), ada.chat, 'a component that mounts again at once finds it');
    await new Promise((done) => setTimeout(done, 3 * HASTE.linger));
    assert.equal(ada.chat.state, 'live');
    ada.chat.close();
    await until('its end', () => ada.chat.state === 'closed', ada.chat);
    assert.equal(ada.chat.error.code, 'closed');
    const opened = ada.rt.conversation(id);
    assert.notEqual(opened, ada.chat);
    await until('the message', () => contents(opened).join() === 'still there', opened);
  });

  test('no message is shown before the unread count is known', async (context) => {
    const { ada } = await pair(context);
    const reader = someone();
    const [shared] = await conversations([ada.user, reader]);
    await messages(shared, ada.user, ['hello']);
    let release;
    const held = new Promise((done) => (release = done));
    const slow = async (url, options) => {
      const answer = await fetch(url, options);
      if (String(url).endsWith(`/api/conversations/${shared}`)) await held;
      return answer;
    };
    const { rt } = await client(context, reader, { fetch: slow });
    const chat = rt.conversation(shared);
    await new Promise((done) => chat.on('change', done)); // The page has arrived.
    assert.deepEqual([contents(chat), chat.unread], [[], 0]);
    release();
    await until('the message', () => chat.messages.length === 1, chat);
    assert.equal(chat.unread, 1);
  });

  test('of many messages that can’t be sent, a bounded number is kept', async (context) => {
    const { ada } = await pair(context);
    await live(ada.chat);
    ada.line.refusal = REFUSED;
    ada.line.cut();
    await until('the loss', () => ada.rt.state === 'offline');
    const sends = Array.from({ length: 3_000 }, (_, at) => ada.chat.send(`${at}`));
    assert.equal(ada.chat.messages.length, 200);
    ada.rt.close();
    assert.ok((await Promise.all(sends)).every(({ state }) => state === 'failed'));
  });

  test('many messages at once are one change', async (context) => {
    const { id, ada, ben } = await pair(context, { timing: { ...HASTE, frame: 60_000 } });
    await until('it', () => ben.chat.state === 'live');
    ben.line.refusal = REFUSED;
    ben.line.cut();
    await until('the loss', () => ben.rt.state === 'offline');
    await messages(
      id,
      ada.user,
      Array.from({ length: 300 }, (_, at) => `${at}`),
    );
    let changes = 0;
    ben.chat.on('change', () => (changes += 1));
    ben.line.refusal = '';
    await until('all', () => ben.chat.messages.length === 300);
    assert.ok(changes <= 1, `${changes}`);
    assert.equal(ben.chat.snapshot.messages, ben.chat.messages);
  });

  test('what arrives late is not announced like what arrives now', async (context) => {
    const { id, ada, ben } = await pair(context);
    const inbox = ben.rt.notifications();
    await until('all', () => ben.chat.state === 'live' && inbox.state === 'live', ben.chat, inbox);
    const heard = [];
    ben.chat.on('message', ({ content }) => heard.push(content));
    ben.chat.on('missed', (missed) => heard.push(missed.map(({ content }) => content)));
    inbox.on('notification', ({ type }) => heard.push(type));
    inbox.on('missed', (missed) => heard.push(missed.map(({ type }) => type)));
    await ada.chat.send('now');
    await until('both', () => heard.length === 2);
    assert.deepEqual(heard.splice(0).sort(), ['message_received', 'now']);
    ben.chat.read();
    await until('it to be read', () => inbox.unread === 0, inbox);

    ben.line.refusal = REFUSED;
    ben.line.cut();
    await until('the loss', () => ben.rt.state === 'offline');
    await messages(id, ada.user, ['one', 'two', 'three']);
    await ask('publish', { subject: 'events.payment_completed', payload: { user_id: ben.user, data: {} } });
    // Made older, as if the connection had been lost for long.
    await ask('query', {
      sql: `update chat.messages set created_at = created_at - interval '1 minute' where conversation_id = ${id}`,
    });
    const elsewhere = await client(context, ben.user);
    // The last of the three messages supersedes the notification of the first one a second later.
    const unread = async () => (await elsewhere.rt.call('GET', '/api/notifications?unread=true')).data.items;
    await until('both notifications', async () => {
      const items = await unread();
      return items.length >= 2 && items.some(({ data }) => data.count === 3);
    });
    await ask('query', {
      sql: `update notify.notifications set created_at = created_at - interval '1 minute' where user_id = ${ben.user}`,
    });
    ben.line.refusal = '';
    await until('all', () => ben.chat.messages.length === 4 && inbox.unread === 2 && heard.flat().length >= 5, ben.chat, inbox);
    assert.ok(heard.every(Array.isArray), `${JSON.stringify(heard)}`);
    assert.deepEqual(heard.flat().sort(), ['message_received', 'one', 'payment_completed', 'three', 'two']);
    heard.length = 0;
    await ada.chat.send('now again');
    await until('it', () => heard.includes('now again'));
  });

  test('a listener that throws stops nothing', async (context) => {
    const reported = context.mock.method(console, 'error', () => {});
    const { ada } = await pair(context);
    await live(ada.chat);
    const error = new Error('a bug of the page');
    ada.chat.on('change', () => {
      throw error;
    });
    let changes = 0;
    ada.chat.on('change', () => (changes += 1));
    assert.equal((await ada.chat.send('hello')).state, 'sent');
    await until('the change', () => changes);
    assert.equal(reported.mock.calls[0].arguments[0], error);
  });
});

// Alone, because it kills services.
test('after a restore of the database to an earlier time, new messages are shown', async (context) => {
  const { id, ada, ben } = await pair(context);
  const inbox = ben.rt.notifications();
  await until(
    'all',
    () => ada.chat.state === 'live' && ben.chat.state === 'live' && inbox.state === 'live',
    ada.chat,
    ben.chat,
    inbox,
  );
  for (const text of ['one', 'two', 'three', 'four']) await ada.chat.send(text);
  await until('all', () => ben.chat.messages.length === 4, ben.chat);
  for (const { line } of [ada, ben]) {
    line.refusal = REFUSED;
    line.cut();
  }
  await ask('kill', { part: 'gateway', index: 0 });
  await ask('kill', { part: 'gateway', index: 1 });
  await ask('kill', { part: 'chat-service', index: 0 });
  await ask('query', {
    sql: `
    delete from chat.messages where conversation_id = ${id} and seq > 1;
    update chat.participants set read_seq = least(read_seq, 1), read_message_id = least(read_message_id,
      (select message_id from chat.messages where conversation_id = ${id}));
    update chat.conversations set last_seq = 1, last_message_id =
      (select message_id from chat.messages where conversation_id = ${id}) where conversation_id = ${id}`,
  });
  for (const [part, index] of [
    ['gateway', 0],
    ['gateway', 1],
    ['chat-service', 0],
  ])
    await ask('restart', { part, index });
  await messages(id, ada.user, ['after the restore', 'and another one']);
  for (const { line } of [ada, ben]) line.refusal = '';
  await ada.rt.call('POST', `/api/conversations/${id}/messages`, { message: 'and a third' });
  const log = (await stored(ada.rt, id)).map(({ content }) => content);
  assert.deepEqual(log, ['one', 'after the restore', 'and another one', 'and a third']);
  await until(
    'what the server has',
    () => [ada, ben].every(({ chat }) => contents(chat).join() === log.join()),
    ada.chat,
    ben.chat,
  );
  await ada.chat.send('and again');
  await until('it', () => contents(ben.chat).at(-1) === 'and again', ben.chat);
});
