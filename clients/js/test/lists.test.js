/** Lists: their pages, and that they show what the server has. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ask, client, conversations, messages, pair, someone, until } from './stack.js';

/** All pages of a list, as the server has them. */
async function pages(rt, path) {
  const all = [];
  for (let next = ''; next !== null; ) {
    const { data } = await rt.call('GET', `${path}?limit=50${next && `&before=${next}`}`);
    all.push(...data.items);
    next = data.next;
  }
  return all;
}

describe('lists', { concurrency: true }, () => {
  test('older notifications are reached behind those of busy conversations', async (context) => {
    const [ada, ben] = [someone(), someone()];
    const ids = await conversations([ada, ben], [ada, ben, someone()], [ada, ben, someone()]);
    const { rt } = await client(context, ada);
    const paid = (at) =>
      ask('publish', { subject: 'events.payment_completed', payload: { user_id: ada, data: { payment_id: at } } });
    for (let at = 0; at < 5; at += 1) await paid(at);
    const unread = async () => (await rt.call('GET', '/api/notifications/unread_count')).data.unread_count;
    await until('the payments', async () => (await unread()) >= 5);
    // Each unread notification of a conversation is read, so that the next message makes another one.
    for (let at = 0; at < 60; at += 1) {
      const [{ message_id: last }] = await messages(ids[at % 3], ben, [`${at}`]);
      await until('the message', async () => (await unread()) >= 6);
      await rt.call('POST', `/api/conversations/${ids[at % 3]}/read`, { message_id: last });
      await until('it to be read', async () => (await unread()) <= 5);
    }
    const inbox = rt.notifications();
    await until('it', () => inbox.state === 'live', inbox);
    assert.deepEqual([inbox.items.length, inbox.hasOlder], [3, true], 'one for each conversation');
    assert.ok((await inbox.loadOlder()).ok);
    const payments = inbox.items.filter(({ type }) => type === 'payment_completed').map(({ data }) => data.payment_id);
    assert.deepEqual([payments, inbox.hasOlder], [[4, 3, 2, 1, 0], false]);
  });

  test('the list has no gap after a link to an old conversation, and a reload covers all of it', async (context) => {
    const ada = someone();
    const ids = await conversations(...Array.from({ length: 120 }, () => [ada, someone()]));
    const { rt, line } = await client(context, ada);
    const list = rt.conversations();
    await until('the list', () => list.items.length === 50, list);
    const [old] = ids;
    const chat = rt.conversation(old);
    await until('the old one', () => chat.state === 'live' && list.find(old), chat, list);
    const shown = () => list.items.map(({ conversation_id: id }) => id);
    assert.deepEqual(shown(), ids.slice(-50).reverse(), 'nothing stands where others are missing');
    while (list.hasOlder) assert.ok((await list.loadOlder()).ok);
    assert.deepEqual(list.items, await pages(rt, '/api/conversations'));

    // What changes on the last page while the connection is lost is there after the reconnect.
    const far = ids[5];
    const other = (await rt.call('GET', `/api/conversations/${far}`)).data.participants.find(({ user_id: id }) => id !== ada);
    const [{ message_id: last }] = await messages(far, other.user_id, ['hello']);
    await messages(ids[100], ada, ['newer', 'newest']);
    await until('the badge', () => list.items.some((item) => item.conversation_id === far && item.unread_count === 1), list);
    await Promise.all(ids.slice(6, 90).map((id) => messages(id, ada, ['and newer'])));
    await list.reload();
    assert.ok(shown().indexOf(far) > 50);
    line.refusal = 'HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n';
    line.cut();
    const elsewhere = await client(context, ada);
    await elsewhere.rt.call('POST', `/api/conversations/${far}/read`, { message_id: last });
    line.refusal = '';
    await until('no badge', () => list.items.every((item) => item.unread_count === 0), list);
    assert.deepEqual(list.items, await pages(rt, '/api/conversations'));
  });

  test('a list that cannot be loaded says so', async (context) => {
    let broken = true;
    const { rt } = await client(context, someone(), {
      fetch: (url, options) => (broken ? Promise.reject(new Error('no network')) : fetch(url, options)),
    });
    const list = rt.conversations();
    await until('the error', () => list.error?.code === 'network', list);
    assert.equal(list.loaded, false);
    broken = false;
    await until('the list', () => list.loaded && list.error === null, list);
  });

  test('what the user reads and hears about on another device changes the list here', async (context) => {
    const { id, ada, ben } = await pair(context);
    const list = ben.rt.conversations();
    ben.chat.close();
    await until('the list', () => list.items.length === 1 && ben.rt.notifications().state === 'live', list);
    await until('it to close', () => ben.chat.state === 'closed');
    const phone = await client(context, ben.user);
    const there = phone.rt.conversation(id);
    await ada.chat.send('question');
    await until('the badge', () => list.items[0].unread_count === 1, list);
    await until('it there', () => there.messages.length === 1, there);
    there.read();
    await until('no badge', () => list.items[0].unread_count === 0, list);
    await ada.chat.send('another one');
    await until('the badge', () => list.items[0].unread_count === 1, list);
    await there.send('answer');
    await until('the answer', () => list.items[0].last_message.content === 'answer' && list.items[0].unread_count === 0, list);
    await there.send('and one more, with nothing unread');
    await until('it', () => list.items[0].last_message.content === 'and one more, with nothing unread', list);
  });
});
