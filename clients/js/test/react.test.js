/** The hooks, with React's own test renderer. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import React, { StrictMode, act as reactAct, createElement as h } from 'react';
import { renderToString } from 'react-dom/server';
import { create } from 'react-test-renderer';
import WebSocket from 'ws';
import {
  RealtimeProvider,
  useConnection,
  useConversation,
  useConversations,
  useInbox,
  usePreferences,
  usePresence,
} from '@vyzio/realtime/react';
import { HASTE, ask, client, messages, pair, someone, until } from './stack.js';

/** React wants `act` around what a test does, but what the server sends comes when it comes. */
async function act(what) {
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  try {
    await reactAct(what);
  } finally {
    globalThis.IS_REACT_ACT_ENVIRONMENT = false;
  }
}

/** Sockets that are opened, and the frames that they send. */
function counted() {
  const seen = { sockets: 0, frames: [] };
  seen.WebSocket = class extends WebSocket {
    constructor(...options) {
      super(...options);
      seen.sockets += 1;
    }

    send(data) {
      seen.frames.push(JSON.parse(data));
      super.send(data);
    }
  };
  seen.subscriptions = (channel) => seen.frames.filter((frame) => frame.op === 'subscribe' && frame.channel === channel).length;
  return seen;
}

/** Renders in StrictMode below a provider. */
async function render(context, rt, ...children) {
  let root;
  const tree = (...now) => h(StrictMode, null, h(RealtimeProvider, { client: rt }, ...now));
  await act(async () => (root = create(tree(...children), { unstable_strictMode: true })));
  const unmount = () => act(async () => root.unmount());
  context.after(unmount);
  return { update: (...now) => act(async () => root.update(tree(...now))), unmount };
}

test('components share one socket and one channel, in StrictMode too (K1, K2)', async (context) => {
  const errors = context.mock.method(console, 'error', (...words) => {
    if (!String(words[0]).includes('react-test-renderer is deprecated')) throw new Error(words.join(' '));
  });
  const seen = counted();
  const { id, ada, ben } = await pair(context);
  const { rt } = await client(context, ben.user, { WebSocket: seen.WebSocket, timing: { ...HASTE, linger: 5_000 } });
  const shown = {};
  const Thread = ({ name }) => {
    const chat = useConversation(name === 'second' ? String(id) : id);
    shown[name] = chat;
    return h('ul', null, ...chat.messages.map(({ key, content }) => h('li', { key }, content)));
  };
  const Status = () => ((shown.status = useConnection()), shown.status.state);
  const page = await render(
    context,
    rt,
    h(Status, { key: 's' }),
    h(Thread, { key: 1, name: 'first' }),
    h(Thread, { key: 2, name: 'second' }),
  );
  await until('both', () => shown.first.state === 'live' && shown.second.state === 'live' && shown.status.state === 'online');
  assert.deepEqual([shown.status.userId, shown.status.error], [ben.user, null]);
  assert.equal((await shown.first.send('hello')).state, 'sent');
  await until('it', () => shown.second.messages.length === 1);
  assert.equal(shown.first.messages, shown.second.messages, 'the snapshot as it is');
  await ada.chat.send('hi');
  await until('it', () => shown.first.messages.length === 2 && shown.first.unread === 1);
  shown.second.read();
  await until('the badge', () => shown.first.unread === 0);
  const { key } = shown.first.messages[0];
  assert.ok((await shown.first.edit(key, 'hello!')).ok);
  await until('the edit', () => shown.second.messages[0].content === 'hello!');
  assert.ok((await shown.second.delete(key)).ok);
  await until('the deletion', () => shown.first.messages[0].deleted && ada.chat.messages[0].deleted);
  assert.deepEqual([seen.sockets, seen.subscriptions(`chat/${id}`)], [1, 1]);

  await page.update(h(Status, { key: 's' }), h(Thread, { key: 2, name: 'second' }));
  await ada.chat.send('still?');
  await until('it', () => shown.second.messages.length === 3);
  const first = shown.first;
  assert.equal(first.messages.length, 2, 'no update after unmount');
  await page.update(h(Status, { key: 's' }));
  await page.update(h(Status, { key: 's' }), h(Thread, { key: 3, name: 'third' }));
  assert.equal(shown.third.messages.length, 3, 'back at once: nothing is loaded again');
  assert.equal(seen.subscriptions(`chat/${id}`), 1);

  await page.unmount();
  await until('the channel to close', () =>
    seen.frames.some((frame) => frame.op === 'unsubscribe' && frame.channel === `chat/${id}`),
  );
  const calls = errors.mock.callCount();
  await ada.chat.send('to nobody');
  assert.equal(errors.mock.callCount(), calls);
  assert.equal(rt.state, 'online');
});

test('lists and notifications are followed', async (context) => {
  const { id, ada, ben } = await pair(context);
  ben.rt.close();
  const { rt } = await client(context, ben.user);
  const shown = {};
  const Page = () => {
    Object.assign(shown, { list: useConversations(), inbox: useInbox() });
    return null;
  };
  await render(context, rt, h(Page));
  await until('both', () => shown.list.loaded && shown.inbox.state === 'live');
  assert.equal(shown.list.items[0].conversation_id, id);
  const before = shown.inbox;
  await ada.chat.send('hello');
  await until('it', () => shown.inbox.unread === 1 && shown.list.items[0].unread_count === 1);
  assert.notEqual(shown.inbox, before);
  assert.ok((await shown.inbox.readAll()).ok);
  await until('none', () => shown.inbox.unread === 0);
});

test('another conversation replaces the first one; one that is refused says so', async (context) => {
  const { id, ada } = await pair(context);
  await ada.chat.send('hello');
  const shown = [];
  const Thread = ({ of }) => ((shown[0] = useConversation(of)), null);
  const page = await render(context, ada.rt, h(Thread, { of: id }));
  await until('it', () => shown[0].messages.length === 1);
  const foreign = await ask('conversation', { users: [someone(), someone()] });
  await page.update(h(Thread, { of: foreign }));
  assert.deepEqual([shown[0].id, shown[0].messages], [foreign, []]);
  await until('the refusal', () => shown[0].state === 'closed');
  assert.equal(shown[0].error.code, 'forbidden');
});

test('an effect of a child can send before its parent has subscribed', async (context) => {
  const { id, ada, ben } = await pair(context);
  const Child = ({ send }) => (React.useEffect(() => void send('from an effect'), []), null);
  const Parent = () => h(Child, { send: useConversation(id).send });
  let root;
  await act(async () => (root = create(h(RealtimeProvider, { client: ada.rt }, h(Parent)))));
  context.after(() => act(async () => root.unmount()));
  await until('it', () => ben.chat.messages[0]?.content === 'from an effect');
});

describe('on the server (K3)', () => {
  const Page = () => {
    const [connection, chat, list, inbox] = [useConnection(), useConversation(8), useConversations(), useInbox()];
    return [connection.state, chat.state, chat.messages.length, list.loaded, inbox.state].join();
  };

  test('everything is loading, with a client and without one, and nothing is opened', async (context) => {
    const { rt } = await client(context, someone());
    for (const one of [null, rt]) {
      assert.equal(renderToString(h(RealtimeProvider, { client: one }, h(Page))), 'connecting,loading,0,false,loading');
    }
    assert.deepEqual([rt.opened.conversation(8), rt.opened.notifications, rt.opened.conversations], [null, null, null]);
  });
});

test('presence, and a user’s own settings', async (context) => {
  const { id, ada, ben } = await pair(context);
  await until('both', () => ada.chat.state === 'live' && ben.chat.state === 'live', ada.chat, ben.chat);
  const shown = {};
  const Page = () => {
    Object.assign(shown, {
      presence: usePresence(id),
      list: useConversations(),
      inbox: useInbox(),
      preferences: usePreferences(),
    });
    return null;
  };
  const { unmount } = await render(context, ada.rt, h(Page));
  await act(() => until('Ben', () => shown.presence.people[0]?.online && shown.list.loaded));
  assert.deepEqual(shown.presence, { people: [{ user_id: ben.user, online: true }], error: null });
  await act(async () => assert.ok((await shown.list.setMine(id, { pinned: true })).ok));
  await act(() => until('it', () => shown.list.items[0].pinned));
  const { setMine } = shown.list;
  await messages(id, ben.user, ['hello']);
  await act(() => until('a notification', () => shown.inbox.unseen === 1));
  await act(async () => assert.ok((await shown.inbox.markSeen()).ok));
  await act(() => until('it to be seen', () => shown.inbox.unseen === 0 && shown.inbox.unread === 1));
  await act(async () => assert.ok((await shown.inbox.archive(shown.inbox.items[0].notification_id)).ok));
  await act(() => until('nothing', () => !shown.inbox.items.length && !shown.inbox.unread));
  await act(() => until('the preferences', () => shown.preferences.loaded));
  await act(async () => assert.ok((await shown.preferences.set('*', 'mail', false)).ok));
  assert.deepEqual([shown.preferences.types, shown.preferences.isOn('other', 'mail')], [{ '*': { mail: false } }, false]);
  assert.equal(shown.list.setMine, setMine, 'the actions stay the same');
  await unmount();
  const html = renderToString(h(RealtimeProvider, { client: null }, h(Page)));
  assert.deepEqual([html, shown.presence.people, shown.preferences.loaded, shown.inbox.unseen], ['', [], false, 0]);
});
