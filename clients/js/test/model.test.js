/**
 * Random actions of three users in several tabs, on lines that break; at the end, every tab shows what the server has.
 * `MODEL_SECONDS` sets the duration, `SEED` repeats a run.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HASTE, ask, client, conversations, messages, someone, stored, tokenOf, until } from './stack.js';

const SECONDS = Number(process.env.MODEL_SECONDS ?? 10);

/** Messages that are there at the start. */
const OLD = 80;

/** Numbers that look random, the same for the same seed. */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** The first `count` items of a list, as the server has them. */
async function pages(rt, path, count) {
  const all = [];
  for (let next = ''; next !== null && all.length < count; ) {
    const { data } = await rt.call('GET', `${path}?limit=${Math.min(200, count - all.length)}${next && `&before=${next}`}`);
    all.push(...data.items);
    next = data.next;
  }
  return all;
}

/** What a tab shows, and what the server has: equal in the end. */
async function both(tab) {
  const { rt, list, inbox, chats } = tab;
  const shown = {
    list: list.items,
    inbox: inbox.items.map(({ notification_id: id, is_read: isRead }) => [id, isRead]),
    unread: inbox.unread,
    chats: chats.map((chat) => [
      chat.messages.map((message) => [message.message_id, message.content, message.mine, message.edited, message.deleted]),
      chat.unread,
    ]),
    markers: chats.map((chat) =>
      chat.messages.filter(({ mine }) => mine).map(({ message_id: id, state }) => [id, state === 'read']),
    ),
  };
  const server = { list: await pages(rt, '/api/conversations', list.items.length) };
  const items = await pages(rt, '/api/notifications', Infinity);
  const seen = new Set();
  const visible = items.filter(
    ({ type, data }) => type !== 'message_received' || (!seen.has(data.conversation_id) && seen.add(data.conversation_id)),
  );
  server.inbox = visible.map(({ notification_id: id, is_read: isRead }) => [id, isRead]);
  shown.inbox = shown.inbox.slice(0, server.inbox.length);
  server.inbox = server.inbox.slice(0, shown.inbox.length);
  server.unread = (await rt.call('GET', '/api/notifications/unread_count')).data.unread_count;
  const logs = await Promise.all(chats.map(({ id }) => stored(rt, id)));
  const infos = await Promise.all(chats.map(({ id }) => rt.call('GET', `/api/conversations/${id}`)));
  const part = (log, at) => log.slice(log.length - chats[at].messages.length);
  server.chats = logs.map((log, at) => [
    part(log, at).map((wire) => [
      wire.message_id,
      wire.content,
      wire.sender_id === tab.user,
      !!wire.edited_at,
      !!wire.deleted_at,
    ]),
    infos[at].data.unread_count,
  ]);
  server.markers = logs.map((log, at) =>
    part(log, at)
      .filter((wire) => wire.sender_id === tab.user)
      .map((wire) => [wire.message_id, wire.is_read]),
  );
  return [shown, server];
}

test('every tab ends with what the server has', { timeout: (SECONDS + 120) * 1000 }, async (context) => {
  const seed = Number(process.env.SEED ?? Date.now() % 100_000);
  context.diagnostic(`SEED=${seed}`);
  const next = random(seed);
  const users = [someone(), someone(), someone()];
  const [ada, ben, eve] = users;
  const ids = await conversations(
    [ada, ben],
    [ada, eve],
    [ben, eve],
    [ada, ben, eve],
    ...Array.from({ length: 60 }, () => [ada, someone()]),
  );
  // More than a page, so that messages change that some tabs have not loaded.
  const old = await messages(
    ids[0],
    ada,
    Array.from({ length: OLD }, (_, at) => `old ${at}`),
  );
  const tabs = [];
  const timing = { ...HASTE, idle: 500, answer: 1_500, linger: 100, poll: 1_000, blocked: 5_000 };
  // The last tab polls, because WebSockets do not reach the server.
  for (const [at, user] of [ada, ada, ben, eve, eve].entries()) {
    const { rt, line } = await client(context, user, { timing, token: () => tokenOf(user, 8), blocked: at === 4 });
    tabs.push({ user, rt, line, list: rt.conversations(), inbox: rt.notifications(), chats: [] });
  }
  const own = (tab) => ids.slice(0, 4).filter((_, at) => [[ada, ben], [ada, eve], [ben, eve], users][at].includes(tab.user));
  let round = 0;
  const sends = [];
  const changes = [];
  const backend = [];
  /** One of the user's messages that a tab shows: often one of the last ones. */
  const mine = (chat) => {
    const all = chat.messages.filter((message) => message.mine && message.seq !== null);
    return all.at(-1 - next(next(3) ? Math.min(5, all.length) : all.length));
  };
  const change = (tab, make) => {
    const chat = tab.chats[next(tab.chats.length)];
    const message = chat && mine(chat);
    if (message) changes.push(make(chat, message));
  };
  const actions = [
    (tab) => change(tab, (chat, { key }) => chat.edit(key, `edit ${changes.length}`)),
    (tab) => change(tab, (chat, { key }) => chat.edit(key, `edit ${changes.length}`)),
    (tab) => change(tab, (chat, { key }) => chat.delete(key)),
    () => {
      const { conversation_id, message_id } = old[next(OLD)];
      const payloads = [{ conversation_id, message_id, message: `by a backend ${round}` }];
      backend.push(ask('call', { subject: 'chat.messages.update', payloads }));
    },
    (tab) => tab.chats.length && sends.push(tab.chats[next(tab.chats.length)].send(`${sends.length}`)),
    (tab) => tab.chats.length && sends.push(tab.chats[next(tab.chats.length)].send(`${sends.length}`)),
    (tab) => tab.chats[0]?.read(),
    (tab) => {
      const free = own(tab).filter((id) => tab.chats.every((chat) => chat.id !== id));
      if (free.length) tab.chats.push(tab.rt.conversation(free[next(free.length)]));
    },
    (tab) => tab.chats.length && tab.chats.splice(next(tab.chats.length), 1)[0].close(),
    (tab) => tab.line.cut(),
    (tab) => (tab.line.gateway = next(2)),
    ({ line }) => {
      line.frozen = !line.frozen;
      if (!line.frozen) line.cut(); // What was dropped meanwhile has torn the stream.
    },
    (tab) => tab.list.loadOlder(),
    (tab) => tab.inbox.loadOlder(),
    (tab) => next(4) === 0 && tab.inbox.readAll(),
    (tab) => tab.inbox.items.length && tab.inbox.read(tab.inbox.items[next(tab.inbox.items.length)].notification_id),
    (tab) => tab.chats[0]?.loadOlder(10),
    (tab) => ask('publish', { subject: 'events.payment_completed', payload: { user_id: tab.user, data: {} } }),
    (tab) => tab.rt.reconnect(),
    (tab) => tab.chats[0]?.type(),
  ];
  const end = performance.now() + SECONDS * 1_000;
  for (; performance.now() < end; round += 1) {
    actions[next(actions.length)](tabs[next(tabs.length)]);
    await new Promise((done) => setTimeout(done, next(30)));
  }
  for (const { line } of tabs) {
    line.frozen = false;
    line.cut(); // What was dropped while it was frozen has torn the streams.
  }
  const sent = await Promise.all(sends);
  assert.deepEqual(
    sent.filter(({ state }) => state === 'failed'),
    [],
  );
  const changed = await Promise.all(changes);
  await Promise.all(backend);
  const failed = changed.filter(({ ok }) => !ok);
  const codes = new Set(failed.map(({ error }) => error.code));
  // Another tab had deleted the message.
  assert.deepEqual(
    [...codes].filter((code) => code !== 'not_found'),
    [],
  );
  context.diagnostic(`${round} actions, ${sent.length} messages, ${changed.length} changes, of which ${failed.length} failed`);
  // A change in a conversation that is not open notifies nobody.
  for (const { list } of tabs) await list.reload();
  for (const [at, tab] of tabs.entries()) {
    await until(
      'all to be live',
      () => tab.rt.state === 'online' && tab.inbox.state === 'live' && tab.chats.every(({ state }) => state === 'live'),
    );
    let last;
    const deadline = performance.now() + 20_000;
    for (;;) {
      last = await both(tab);
      try {
        assert.deepEqual(...last);
        break;
      } catch (error) {
        if (performance.now() > deadline) {
          error.message = `tab ${at}, SEED=${seed}: ${error.message}`;
          throw error;
        }
      }
      await new Promise((done) => setTimeout(done, 50));
    }
  }
  const logs = await Promise.all(
    ids
      .slice(0, 4)
      .map((id, at) => stored(tabs.find(({ user }) => [[ada, ben], [ada, eve], [ben, eve], users][at].includes(user)).rt, id)),
  );
  const texts = logs.flat().map(({ content }) => content);
  assert.equal(texts.length, OLD + sends.length, 'each stored once');
});
