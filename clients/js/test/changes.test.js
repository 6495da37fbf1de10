/** Messages that their senders, or backends, edit and delete. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { REFUSED, ask, client, contents, messages, pair, pastLine, stored, until } from './stack.js';

const live = (...chats) => until('all to be live', () => chats.every(({ state }) => state === 'live'), ...chats);
/** What a conversation shows of each message: its text, and whether it was edited or deleted. */
const shown = (chat) => chat.messages.map(({ content, edited, deleted }) => [content, edited, deleted]);
const update = (id, message_id, message) =>
  ask('call', { subject: 'chat.messages.update', payloads: [{ conversation_id: id, message_id, message }] });
/** Makes all messages of a conversation too old to be edited, but not to be deleted. */
const age = (id) =>
  ask('query', { sql: `update chat.messages set created_at = created_at - interval '1 hour' where conversation_id = ${id}` });
/** Cuts a client's socket. HTTP still works if its `fetch` is `pastLine`. */
async function away({ line, rt }) {
  line.refusal = REFUSED;
  line.cut();
  await until('the loss', () => rt.state !== 'online');
}

describe('changes', { concurrency: true }, () => {
  test('an edit is shown at once, and to the others', async (context) => {
    const { id, ada, ben } = await pair(context);
    const lists = [ada.rt.conversations(), ben.rt.conversations()];
    const sent = await ada.chat.send('40 €');
    await until('it', () => ben.chat.messages.length === 1, ben.chat);
    const [before] = ada.chat.messages;
    assert.deepEqual(shown(ada.chat), [['40 €', false, false]]);
    const editing = ada.chat.edit(sent.key, ' 45 € ');
    assert.deepEqual(shown(ada.chat), [['45 €', true, false]]);
    assert.notEqual(ada.chat.messages[0], before, 'a new object');
    assert.deepEqual(await editing, { ok: true, data: null });
    await until('it elsewhere', () => contents(ben.chat).join() === '45 €', ben.chat);
    await until('its number', () => ada.chat.messages[0].change === 1, ada.chat);
    assert.equal(ada.chat.messages[0].key, sent.key);
    assert.deepEqual([shown(ada.chat), shown(ben.chat)], [[['45 €', true, false]], [['45 €', true, false]]]);
    assert.equal(ben.chat.unread, 1, 'it notifies nobody');
    const [wire] = await stored(ada.rt, id);
    for (const list of lists) {
      await until('the lists', () => list.items[0]?.last_message?.content === '45 €', list);
      assert.equal(list.items[0].last_message.edited_at, wire.edited_at);
    }
  });

  test('a deleted message stays in its place without its text, and leaves no badge', async (context) => {
    const { ada, ben } = await pair(context);
    const [list, inbox] = [ben.rt.conversations(), ben.rt.notifications()];
    await live(ada.chat, ben.chat, inbox);
    await ben.chat.send('hello');
    const sent = await ada.chat.send('oops');
    await until(
      'the badge',
      () => ben.chat.unread === 1 && inbox.unread === 1 && list.items[0]?.unread_count === 1,
      ben.chat,
      inbox,
    );
    const deleting = ada.chat.delete(sent.key);
    assert.deepEqual(shown(ada.chat).at(-1), ['', false, true]);
    assert.ok((await deleting).ok);
    await until(
      'no badge',
      () => ben.chat.unread === 0 && inbox.unread === 0 && list.items[0].unread_count === 0,
      ben.chat,
      inbox,
      list,
    );
    await until('it', () => ben.chat.messages[1].deleted, ben.chat);
    assert.deepEqual(shown(ben.chat), [
      ['hello', false, false],
      ['', false, true],
    ]);
    assert.equal(ben.chat.messages[1].deleted_by, 'sender');
    await until('the list', () => list.items[0].last_message.deleted_at, list);
    assert.equal(list.items[0].last_message.content, '');

    assert.deepEqual(await ada.chat.delete(sent.key), { ok: true, data: null }, 'a repeat changes nothing');
    assert.equal((await ada.chat.edit(sent.key, 'again')).error.code, 'not_found');
    assert.deepEqual(shown(ada.chat).at(-1), ['', false, true]);
    await ada.chat.send('next');
    await until('the next one', () => contents(ben.chat).join() === 'hello,,next', ben.chat);
  });

  test('what the server refuses is undone', async (context) => {
    const { id, ada, ben } = await pair(context);
    const sent = await ada.chat.send('40 €');
    await until('it', () => ben.chat.messages.length === 1, ben.chat);
    await age(id);
    const edits = [ada.chat.edit(sent.key, '45 €'), ada.chat.edit(sent.key, '50 €')];
    assert.deepEqual(shown(ada.chat), [['50 €', true, false]]);
    assert.deepEqual(
      (await Promise.all(edits)).map(({ error }) => error.code),
      ['too_late', 'too_late'],
    );
    assert.deepEqual(shown(ada.chat), [['40 €', false, false]]);
    assert.deepEqual(shown(ben.chat), [['40 €', false, false]]);
    ben.chat.read();
    await until('the receipt', () => ada.chat.messages[0].state === 'read', ada.chat);

    // The first of two is refused, so only it is undone.
    const changes = [ada.chat.edit(sent.key, '45 €'), ada.chat.delete(sent.key)];
    assert.deepEqual(
      (await Promise.all(changes)).map(({ ok }) => ok),
      [false, true],
    );
    assert.deepEqual(shown(ada.chat), [['', false, true]]);
    await until('it elsewhere', () => ben.chat.messages[0].deleted, ben.chat);
    assert.deepEqual([ada.chat.messages[0].state, ada.chat.messages[0].edited], ['read', false]);
  });

  test('what can’t be changed fails with the reason', async (context) => {
    const { ada, ben } = await pair(context);
    const [own, other] = [await ada.chat.send('of Ada'), await ben.chat.send('of Ben')];
    await until('both', () => ada.chat.messages.length === 2, ada.chat);
    const code = async (changing) => (await changing).error?.code;
    assert.equal(await code(ada.chat.edit(other.key, 'mine now')), 'not_found', 'the key is its sender’s');
    const { key } = ada.chat.messages[1];
    assert.equal(await code(ada.chat.edit(key, 'mine now')), 'forbidden');
    assert.equal(await code(ada.chat.delete(key)), 'forbidden');
    assert.equal(await code(ada.chat.edit(own.key, '  ')), 'invalid_message');
    assert.equal(await code(ada.chat.edit(own.key, 'é'.repeat(4_001))), 'message_too_long');
    assert.equal(await code(ada.chat.edit(own.key, 'a\0b')), 'invalid_message', 'the server’s word');
    assert.equal(await code(ada.chat.edit('nothing', 'text')), 'not_found');
    assert.ok((await ada.chat.edit(own.key, 'of Ada')).ok, 'the same text is no change');
    assert.deepEqual(shown(ada.chat), [
      ['of Ada', false, false],
      ['of Ben', false, false],
    ]);

    const sending = ada.chat.send('on its way');
    assert.equal(await code(ada.chat.edit(ada.chat.messages.at(-1).key, 'text')), 'not_sent');
    await sending;
    const failed = await ada.chat.send('é'.repeat(4_001));
    assert.equal(await code(ada.chat.edit(failed.key, 'text')), 'not_sent');
    assert.equal(ada.chat.messages.length, 4);
    assert.ok((await ada.chat.delete(failed.key)).ok);
    assert.equal(ada.chat.messages.length, 3, 'it is discarded');

    await ben.rt.call('PUT', `/api/blocks/${ada.user}`);
    assert.equal(await code(ada.chat.edit(own.key, 'blocked')), 'blocked');
    assert.equal(await code(ada.chat.delete(own.key)), undefined);
  });

  test('without a connection, changes wait, in their order', async (context) => {
    const { ada, ben } = await pair(context);
    const [one, two] = [await ada.chat.send('one'), await ada.chat.send('two')];
    await until('both', () => ben.chat.messages.length === 2, ben.chat);
    await away(ada);
    const changes = [ada.chat.edit(one.key, 'first'), ada.chat.delete(two.key), ada.chat.edit(one.key, 'the first')];
    const late = ada.chat.send('three');
    assert.deepEqual(contents(ada.chat), ['the first', '', 'three']);
    ada.line.refusal = '';
    assert.ok((await Promise.all(changes)).every(({ ok }) => ok));
    assert.equal((await late).state, 'sent');
    await until('all', () => contents(ben.chat).join() === 'the first,,three', ben.chat);
    await until('the same', () => contents(ada.chat).join() === 'the first,,three', ada.chat);
  });

  test('what waits when the client is closed is undone', async (context) => {
    const { id, ada, ben } = await pair(context);
    const { key } = await ada.chat.send('one');
    await away(ada);
    const changes = [ada.chat.edit(key, 'two'), ada.chat.delete(key)];
    ada.rt.close();
    assert.deepEqual(
      (await Promise.all(changes)).map(({ error }) => error.code),
      ['closed', 'closed'],
    );
    assert.deepEqual(shown(ada.chat), [['one', false, false]]);
    assert.equal((await stored(ben.rt, id))[0].content, 'one');
  });

  test('a conversation that is left still sends its changes', async (context) => {
    const { ada, ben } = await pair(context);
    const { key } = await ada.chat.send('one');
    await away(ada);
    const editing = ada.chat.edit(key, 'two');
    ada.chat.close();
    await until('its end', () => ada.chat.state === 'closed', ada.chat);
    ada.line.refusal = '';
    assert.ok((await editing).ok);
    await until('it', () => contents(ben.chat).join() === 'two', ben.chat);
  });

  test('what changed while away is there afterwards', async (context) => {
    const { ada, ben } = await pair(context);
    const sent = [];
    for (const text of ['one', 'two', 'three']) sent.push(await ada.chat.send(text));
    await until('all', () => ben.chat.messages.length === 3, ben.chat);
    const heard = [];
    ben.chat.on('message', ({ content }) => heard.push(content));
    ben.chat.on('missed', (missed) => heard.push(...missed.map(({ content }) => content)));
    await away(ben);
    await ada.chat.edit(sent[0].key, 'first');
    await ada.chat.delete(sent[1].key);
    await ada.chat.edit(sent[0].key, 'the first');
    const gone = await ada.chat.send('four');
    await ada.chat.delete(gone.key);
    const next = await ada.chat.send('five');
    await ada.chat.edit(next.key, 'fifth');
    ben.line.refusal = '';
    await until('all', () => contents(ben.chat).join() === 'the first,,three,,fifth', ben.chat);
    assert.deepEqual(shown(ben.chat), shown(ada.chat));
    assert.deepEqual(heard, ['fifth'], 'a deleted message is not announced');
    assert.equal(ben.chat.unread, ada.chat.messages.length);
    ada.chat.edit(sent[2].key, 'third');
    await until('later changes', () => contents(ben.chat)[2] === 'third', ben.chat);
  });

  test('a later page does not hide a change that was missed', async (context) => {
    const { id, ada, ben } = await pair(context);
    const old = await messages(
      id,
      ada.user,
      Array.from({ length: 60 }, (_, at) => `${at}`),
    );
    const { rt, line } = await client(context, ben.user, { fetch: pastLine });
    const chat = rt.conversation(id);
    await live(chat);
    assert.equal(chat.messages.length, 50);
    // Changes 1 and 2: of a message on no page yet, and of one that is here.
    await update(id, old[0].message_id, 'on no page');
    await update(id, old[59].message_id, 'live');
    await until('the second', () => contents(chat).at(-1) === 'live', chat);
    await away({ rt, line });
    await update(id, old[58].message_id, 'missed'); // Change 3.
    await update(id, old[1].message_id, 'on the page'); // Change 4.
    assert.ok((await chat.loadOlder()).ok);
    assert.deepEqual(contents(chat).slice(0, 3), ['on no page', 'on the page', '2']);
    assert.equal(contents(chat)[58], '58');
    line.refusal = '';
    await until('the change in between', () => contents(chat)[58] === 'missed', chat);
    assert.deepEqual(
      contents(chat),
      (await stored(rt, id)).map(({ content }) => content),
    );
  });

  test('a change is faster than a page from before it', async (context) => {
    const { id, ada, ben } = await pair(context);
    const old = await messages(
      id,
      ada.user,
      Array.from({ length: 60 }, (_, at) => `${at}`),
    );
    let release;
    const held = new Promise((done) => (release = done));
    let isRead = false;
    const slow = async (url, options) => {
      const answer = await fetch(url, options);
      if (!String(url).includes('before=')) return answer;
      isRead = true;
      await held;
      return answer;
    };
    const { rt } = await client(context, ben.user, { fetch: slow });
    const chat = rt.conversation(id);
    await live(chat);
    const loading = chat.loadOlder();
    await until('the page', () => isRead);
    await update(id, old[3].message_id, 'new');
    await update(id, old[59].message_id, 'newest');
    await until('the second', () => contents(chat).at(-1) === 'newest', chat);
    release();
    assert.ok((await loading).ok);
    assert.equal(contents(chat)[3], 'new');
    assert.deepEqual(
      contents(chat),
      (await stored(rt, id)).map(({ content }) => content),
    );
  });

  test('another device’s changes arrive, and the last one wins everywhere', async (context) => {
    const { id, ada, ben } = await pair(context);
    const other = await client(context, ada.user);
    const chat = other.rt.conversation(id);
    const { key } = await ada.chat.send('one');
    await until('it', () => chat.messages.length === 1 && ben.chat.messages.length === 1, chat, ben.chat);
    assert.equal(chat.messages[0].key, key);
    assert.ok((await chat.edit(key, 'two')).ok);
    await until('it', () => contents(ada.chat).join() === 'two', ada.chat);
    assert.deepEqual([ada.chat.messages[0].key, ada.chat.messages[0].mine], [key, true]);
    await away(ada);
    const editing = ada.chat.edit(key, 'the last');
    assert.ok((await chat.edit(key, 'three')).ok);
    ada.line.refusal = '';
    assert.ok((await editing).ok);
    const all = [ada.chat, chat, ben.chat];
    await until('the last one', () => all.every((one) => contents(one).join() === 'the last'), ...all);

    await away(ada);
    const late = ada.chat.edit(key, 'later still');
    assert.ok((await chat.delete(key)).ok);
    ada.line.refusal = '';
    assert.equal((await late).error.code, 'not_found');
    await until('the deletion', () => all.every((one) => one.messages[0].deleted), ...all);
    assert.deepEqual(shown(ada.chat), shown(ben.chat));
  });

  test('a tab that polls changes messages, and sees changes', async (context) => {
    const { id, ada, ben } = await pair(context);
    const old = await messages(
      id,
      ben.user,
      Array.from({ length: 60 }, (_, at) => `${at}`),
    );
    const { rt } = await client(context, ben.user, { blocked: true });
    const chat = rt.conversation(id);
    await live(chat);
    await until('it to poll', () => rt.error?.code === 'no_websocket');
    const { key } = await ada.chat.send('of Ada');
    await until('it', () => chat.messages.length === 51, chat);
    await ada.chat.edit(key, 'edited');
    await update(id, old[0].message_id, 'on no page');
    await until('it', () => contents(chat).at(-1) === 'edited', chat);
    const sent = await chat.send('of Ben');
    assert.ok((await chat.edit(sent.key, 'edited by Ben')).ok);
    await until('it', () => contents(ada.chat).at(-1) === 'edited by Ben' && chat.messages.at(-1).change, ada.chat, chat);
    assert.ok((await chat.delete(sent.key)).ok);
    await until('it', () => ada.chat.messages.at(-1).deleted && chat.messages.at(-1).deleted_by, ada.chat, chat);
    assert.equal((await chat.edit(chat.messages[0].key, ' ')).error.code, 'invalid_message');
    await age(id);
    assert.equal((await chat.edit(chat.messages[0].key, 'too late')).error.code, 'too_late');
    assert.deepEqual(
      chat.messages.map(({ content }) => content),
      (await stored(rt, id)).slice(-52).map(({ content }) => content),
    );
  });
});
