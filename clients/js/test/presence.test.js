/** Presence: who is online, and that a hidden page is not. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { presenceOf } from '@vyzio/realtime/presence';
import { client, conversations, pair, someone, until } from './stack.js';

/** A page that may be hidden; undone with the test. */
function page(context) {
  const events = new EventTarget();
  const before = { document: globalThis.document, addEventListener: globalThis.addEventListener };
  globalThis.document = { hidden: false };
  globalThis.addEventListener = events.addEventListener.bind(events);
  context.after(() => Object.assign(globalThis, before));
  return (hidden, type = 'visibilitychange') => {
    globalThis.document.hidden = hidden;
    events.dispatchEvent(new Event(type));
  };
}

describe('presence', () => {
  test('shows who is online, with one subscription for all who ask', async (context) => {
    const { id, ada, ben } = await pair(context);
    await until('both', () => ada.chat.state === 'live' && ben.chat.state === 'live', ada.chat, ben.chat);
    const [one, same] = [presenceOf(ada.rt, id), presenceOf(ada.rt, String(id))];
    assert.equal(one, same);
    await until('Ben', () => one.of(ben.user)?.online, one);
    assert.deepEqual(one.snapshot, { people: [{ user_id: ben.user, online: true }], error: null });
    assert.equal(one.snapshot, one.snapshot, 'the same object until something changes');
    assert.throws(() => presenceOf(ada.rt, 'x'), RangeError);

    ada.line.cut();
    await until('nothing to be known', () => !one.people.length, one);
    await until('Ben again', () => one.of(ben.user)?.online, one);
    same.close();
    assert.equal(one.of(ben.user).online, true, 'still in use');
    one.close();
    await until('the end', () => one.error?.code === 'closed', one);
    const again = presenceOf(ada.rt, id);
    assert.notEqual(again, one);
    await until('Ben', () => again.of(ben.user)?.online, again);
  });

  test('says why there is none', async (context) => {
    const ada = someone();
    const [many] = await conversations([ada, ...Array.from({ length: 11 }, someone)]);
    const { rt } = await client(context, ada);
    const presence = presenceOf(rt, many);
    await until('the reason', () => presence.error, presence);
    assert.deepEqual([presence.error.code, presence.people], ['invalid_request', []]);
  });

  test('a user whose pages are all hidden is not online', async (context) => {
    const ada = someone();
    const ben = someone();
    const [id] = await conversations([ada, ben]);
    const { rt } = await client(context, ada);
    const presence = presenceOf(rt, id);
    await until('Ben to be away', () => presence.of(ben)?.online === false, presence);
    assert.equal(presence.of(ben).last_seen, undefined, 'never seen');
    const hide = page(context);
    const { rt: other, line } = await client(context, ben);
    await until('Ben', () => presence.of(ben).online, presence);
    hide(true);
    await until('Ben to be away', () => !presence.of(ben).online, presence);
    line.cut(); // A new socket says so, too.
    await until('a new socket', () => line.count > 1 && other.state === 'online', other);
    hide(false);
    await until('Ben', () => presence.of(ben).online, presence);
    // A page that is left closes its socket, and then becomes hidden.
    const { count } = line;
    hide(false, 'pagehide');
    hide(true);
    await until('Ben to be away', () => !presence.of(ben).online, presence);
    assert.deepEqual([other.state, line.count], ['offline', count]);
    hide(false, 'pageshow');
    await until('Ben', () => presence.of(ben).online, presence);
  });
});
