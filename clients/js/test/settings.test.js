/** A user's own settings: of conversations, notifications and reminders. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { archiveNotification, isMuted, markSeen, preferencesOf, setMine } from '@vyzio/realtime/settings';
import { presenceOf } from '@vyzio/realtime/presence';
import { ask, client, conversations, messages, pair, someone, until } from './stack.js';

describe('settings of conversations', { concurrency: true }, () => {
  test('reach the user’s other devices, and nobody else', async (context) => {
    const { id, ada, ben } = await pair(context);
    const { rt: phone } = await client(context, ada.user);
    const [list, others, bens] = [ada.rt.conversations(), phone.conversations(), ben.rt.conversations()];
    await until('the lists', () => list.loaded && others.loaded && bens.loaded, list, others, bens);
    assert.ok((await setMine(ada.rt, id, { muted_until: 'forever', pinned: true })).ok);
    for (const one of [list, others]) {
      await until('the settings', () => one.find(id)?.pinned && isMuted(one.find(id)), one);
    }
    assert.ok((await setMine(phone, id, { muted_until: null })).ok);
    await until('the end of the mute', () => !isMuted(list.find(id)), list);
    assert.equal(list.find(id).pinned, true, 'what is absent stays');
    assert.equal(bens.find(id).pinned, undefined);
    assert.equal((await setMine(ada.rt, id, { muted_until: 'tomorrow' })).error.code, 'invalid_message');
    assert.equal((await setMine(ada.rt, 2 ** 52, { pinned: true })).error.code, 'forbidden');
  });

  test('an archived conversation comes back with its next message, unless it is muted', async (context) => {
    const { id, ada, ben } = await pair(context);
    const peer = someone();
    const [quiet] = await conversations([ada.user, peer]);
    const list = ada.rt.conversations();
    const shown = () => list.items.map((item) => item.conversation_id);
    await until('both', () => shown().length === 2 && ada.chat.state === 'live', list, ada.chat);
    await setMine(ada.rt, quiet, { archived: true, muted_until: '2999-01-01T00:00:00Z' });
    await setMine(ada.rt, id, { archived: true });
    await until('neither', () => !shown().length, list);
    // One is open, the other one is not.
    await messages(id, ben.user, ['hello']);
    await until('one', () => shown().join() === `${id}`, list);
    await messages(quiet, peer, ['hello']);
    // A reload of the list forgets what is archived; the message makes it known.
    await until('its message', () => list.find(quiet)?.last_message, list);
    assert.deepEqual(shown(), [id]);
    await setMine(ada.rt, quiet, { archived: false });
    await until('both', () => shown().length === 2, list);
  });

  test('pinned ones are first, also from behind the first page', async (context) => {
    const ada = someone();
    const ids = await conversations(...Array.from({ length: 60 }, () => [ada, someone()]));
    const { rt } = await client(context, ada);
    await setMine(rt, ids[3], { pinned: true });
    await setMine(rt, ids[55], { pinned: true });
    const list = rt.conversations();
    const shown = () => list.items.map((item) => item.conversation_id);
    await until('the list', () => list.loaded && shown().length === 51, list);
    assert.deepEqual(shown().slice(0, 4), [ids[55], ids[3], ids[59], ids[58]]);
    await list.loadOlder();
    assert.deepEqual([shown().length, new Set(shown()).size], [60, 60]);
    assert.ok((await list.reload()).ok);
    assert.deepEqual(shown().slice(0, 2), [ids[55], ids[3]]);
  });

  test('work where WebSockets are blocked', async (context) => {
    const { id, ada } = await pair(context);
    const { rt } = await client(context, ada.user, { blocked: true });
    const list = rt.conversations();
    await until('the list', () => list.find(id), list);
    assert.ok((await setMine(rt, id, { archived: true })).ok);
    await until('the archive', () => !list.items.length, list);
  });
});

describe('settings of notifications', { concurrency: true }, () => {
  const publish = (user, at) =>
    ask('publish', { subject: 'events.payment_completed', payload: { user_id: user, data: { payment_id: at } } });

  test('what was seen stays unread, on every device', async (context) => {
    const ada = someone();
    const [{ rt }, { rt: phone }] = [await client(context, ada), await client(context, ada)];
    const [inbox, other] = [rt.notifications(), phone.notifications()];
    await publish(ada, 1);
    const counts = ({ unread, unseen }) => `${unread} ${unseen}`;
    for (const one of [inbox, other]) await until('it', () => counts(one) === '1 1', one);
    assert.ok((await markSeen(rt)).ok);
    for (const one of [inbox, other]) await until('it to be seen', () => counts(one) === '1 0', one);
    await publish(ada, 2);
    for (const one of [inbox, other]) await until('another one', () => counts(one) === '2 1', one);
    const { rt: late } = await client(context, ada);
    const third = late.notifications();
    await until('the counts of a page', () => counts(third) === '2 1', third);
    await inbox.readAll();
    for (const one of [inbox, other, third]) await until('all to be read', () => counts(one) === '0 0', one);
  });

  test('an archived notification is read and gone', async (context) => {
    const ada = someone();
    const { rt } = await client(context, ada);
    const inbox = rt.notifications();
    await publish(ada, 1);
    await publish(ada, 2);
    await until('both', () => inbox.items.length === 2, inbox);
    const [, { notification_id: id }] = inbox.items;
    assert.ok((await archiveNotification(rt, id)).ok);
    await until('one', () => inbox.items.length === 1 && inbox.unread === 1, inbox);
    const { data } = await rt.call('GET', '/api/notifications');
    assert.deepEqual([data.items.length, data.items[0].notification_id === id], [1, false]);
  });

  test('work without the list of notifications', async (context) => {
    const ada = someone();
    const [{ rt }, { rt: phone }] = [await client(context, ada), await client(context, ada)];
    const inbox = phone.notifications();
    assert.ok((await markSeen(rt)).ok, 'there is nothing');
    await publish(ada, 1);
    await publish(ada, 2);
    await until('both', () => inbox.items.length === 2 && inbox.unseen === 2, inbox);
    assert.ok((await markSeen(rt)).ok);
    await until('them to be seen', () => inbox.unseen === 0 && inbox.unread === 2, inbox);
    const [newest, oldest] = inbox.items;
    assert.ok((await archiveNotification(rt, newest.notification_id)).ok);
    const late = rt.notifications();
    assert.ok((await archiveNotification(rt, oldest.notification_id)).ok, 'while it is loaded');
    await until('neither', () => late.state === 'live' && late.items.length === 0, late);
    const { rt: offline } = await client(context, ada, { fetch: () => Promise.reject(new Error('no network')) });
    assert.equal((await markSeen(offline)).error.code, 'network');
  });

  test('preferences are one object for each client, and say what is on', async (context) => {
    const ada = someone();
    const { rt } = await client(context, ada);
    const preferences = preferencesOf(rt);
    assert.equal(preferences, preferencesOf(rt));
    await until('them', () => preferences.snapshot.loaded, preferences);
    const { types, quiet, presence } = preferences.snapshot;
    assert.deepEqual([types, quiet, presence], [{}, null, true]);
    assert.ok((await preferences.set('listing_published', 'mail', false)).ok);
    assert.ok((await preferences.setQuiet({ from: '22:00', to: '08:00', tz: 'Europe/Paris' })).ok);
    assert.deepEqual(preferences.snapshot.types, { listing_published: { mail: false } });
    assert.equal(preferences.snapshot.quiet.from, '22:00');
    assert.deepEqual(
      [preferences.isOn('listing_published', 'mail'), preferences.isOn('listing_published', 'push')],
      [false, true],
    );
    const wrong = await preferences.setQuiet({ from: '25:00', to: '08:00', tz: 'Europe/Paris' });
    assert.deepEqual([wrong.ok, preferences.snapshot.error, preferences.snapshot.quiet.from], [false, wrong.error, '22:00']);
    await preferences.set('listing_published', 'mail', null);
    assert.deepEqual([preferences.snapshot.types, preferences.snapshot.error], [{}, null]);
  });

  test('a type with dots has the default of its text, whose name has dashes', async (context) => {
    const stored = { types: {}, quiet: null, defaults: { 'order-paid': { mail: false } }, mandatory: ['order-late'] };
    const fetched = (url, options) =>
      `${url}`.endsWith('/api/me/preferences') ? Promise.resolve(Response.json(stored)) : fetch(url, options);
    const { rt } = await client(context, someone(), { fetch: fetched });
    const preferences = preferencesOf(rt);
    await until('them', () => preferences.snapshot.loaded, preferences);
    assert.deepEqual([preferences.isOn('order.paid', 'mail'), preferences.isOn('order.paid', 'push')], [false, true]);
    preferences.snapshot.types['order.late'] = { mail: false };
    assert.equal(preferences.isOn('order.late', 'mail'), true, 'mandatory');
  });
});

test('a message in a muted conversation alerts nobody', async (context) => {
  const { id, ada, ben } = await pair(context);
  const [inbox, list] = [ada.rt.notifications(), ada.rt.conversations()];
  const alerts = [];
  inbox.on('notification', ({ data }) => alerts.push(data.message_id ?? data.payment_id));
  await until('the list', () => list.loaded && inbox.state === 'live', list, inbox);
  await setMine(ada.rt, id, { muted_until: 'forever' });
  await messages(id, ben.user, ['hello']);
  await until('its notification', () => inbox.items.length === 1, inbox);
  assert.equal(inbox.items[0].data.muted, true);
  await ask('publish', { subject: 'events.payment_completed', payload: { user_id: ada.user, data: { payment_id: -1 } } });
  await until('an alert', () => alerts.length > 0, inbox);
  assert.deepEqual(alerts, [-1]);
});

describe('preferences', { concurrency: true }, () => {
  test('are read again until that succeeds', async (context) => {
    let refused = 2;
    const fetchLate = (...request) => (refused-- > 0 ? Promise.reject(new Error('no network')) : fetch(...request));
    const { rt } = await client(context, someone(), { fetch: fetchLate });
    const preferences = preferencesOf(rt);
    await until('them', () => preferences.snapshot.loaded, preferences);
    assert.equal(preferences.snapshot.error, null);
  });

  test('of a user are gone after signing out', async (context) => {
    const { rt } = await client(context, someone());
    const preferences = preferencesOf(rt);
    await until('them', () => preferences.snapshot.loaded && rt.state === 'online', preferences);
    await preferences.set('listing_published', 'mail', false);
    const asked = preferences.reload();
    await rt.signOut();
    for (const _ of [1, 2]) {
      assert.deepEqual([preferences.snapshot.loaded, preferences.snapshot.types], [false, {}]);
      await asked; // Its answer came too late.
    }
  });
});

test('who hides sees nobody, and nobody sees them', async (context) => {
  const { id, ada, ben } = await pair(context);
  const presence = presenceOf(ada.rt, id);
  await until('Ben', () => presence.of(ben.user)?.online, presence);
  const preferences = preferencesOf(ben.rt);
  assert.ok((await preferences.showPresence(false)).ok);
  assert.equal(preferences.snapshot.presence, false);
  await until('Ben to be away', () => presence.of(ben.user).online === false, presence);
  const hidden = presenceOf(ben.rt, id);
  await until('Ada', () => hidden.of(ada.user)?.online === false, hidden);
});
