/** Messages of a kind, replies and system messages. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { kindsOf, original, originalHere, textOf } from '@vyzio/realtime/kinds';
import { HASTE, ask, client, messages, pair, tokenOf, until } from './stack.js';

const run = promisify(execFile);
const OFFER = { kind: 'offer', data: { amount: 4550, currency: 'EUR', state: 'open' } };

const live = (...chats) => until('all to be live', () => chats.every(({ state }) => state === 'live'), ...chats);
const update = (id, message_id, data) =>
  ask('call', { subject: 'chat.messages.update', payloads: [{ conversation_id: id, message_id, data }] });

describe('kinds', { concurrency: true }, () => {
  test('a message of a kind is sent, and changed by a backend', async (context) => {
    const { id, ada, ben } = await pair(context);
    const sending = ada.chat.send('', OFFER);
    assert.deepEqual([ada.chat.messages[0].kind, ada.chat.messages[0].data], [OFFER.kind, OFFER.data]);
    const sent = await sending;
    assert.deepEqual([sent.state, sent.content, sent.data], ['sent', 'Offre : 45,50 € (en attente)', OFFER.data]);
    await until('it', () => ben.chat.messages.length === 1, ben.chat);
    const accepted = { ...OFFER.data, state: 'accepted' };
    await update(id, sent.message_id, accepted);
    for (const { chat } of [ada, ben]) {
      await until('the change', () => chat.messages[0].data.state === 'accepted', chat);
      assert.equal(chat.messages[0].content, 'Offre : 45,50 € (acceptée)');
    }
    // What the server refuses fails, as any message does.
    const failed = await ada.chat.send('', { ...OFFER, data: accepted });
    assert.deepEqual([failed.state, failed.error.code], ['failed', 'invalid_message']);
    const empty = await ada.chat.send('');
    assert.equal(empty.error.code, 'invalid_message');
  });

  test('a reply shows its original: from here, or with one call', async (context) => {
    const { id, ada, ben } = await pair(context);
    const first = await ada.chat.send('45 €?');
    const reply = await ada.chat.send('?', { reply_to: first.message_id });
    assert.equal(originalHere(ada.chat, reply), ada.chat.messages[0]);
    assert.equal((await original(ada.rt, ada.chat, reply)).data.content, '45 €?');
    assert.deepEqual(await original(ada.rt, ada.chat, first), { ok: true, data: null });
    // With more than a page of messages after it, the original is not here.
    await messages(
      id,
      ben.rt.userId,
      Array.from({ length: 60 }, (_, number) => `${number}`),
    );
    const other = await client(context, ben.rt.userId);
    const chat = other.rt.conversation(id);
    await live(chat);
    const late = await ada.chat.send('!', { reply_to: first.message_id });
    await until('it', () => chat.messages.at(-1)?.message_id === late.message_id, chat);
    const shown = chat.messages.at(-1);
    assert.equal(originalHere(chat, shown), undefined);
    const [one, two] = [original(other.rt, chat, shown), original(other.rt, chat, shown)];
    assert.equal(one, two, 'one call');
    assert.equal((await one).data.content, '45 €?');
    // A deleted original is read again.
    await ada.chat.delete(first.key);
    let found;
    do {
      const changed = new Promise((resolve) => {
        const stop = chat.on('change', () => (stop(), resolve()));
      });
      found = await original(other.rt, chat, shown);
      if (!found.data.deleted) await changed;
    } while (!found.data.deleted);
    assert.equal(found.data.content, '');
  });

  test('an original that cannot be read costs one call, however often it is shown', async (context) => {
    const { id, ada } = await pair(context);
    const calls = []; // Their times.
    let broken = false;
    const counted = (url, options) => {
      if (/\/messages\/\d+$/.test(url)) calls.push(performance.now());
      return broken ? Promise.reject(new Error('no network')) : fetch(url, options);
    };
    const { rt } = await client(context, ada.user, { fetch: counted });
    const chat = rt.conversation(id);
    await live(chat, ada.chat);
    const failureOf = async (reply_to) => (await original(rt, chat, { reply_to })).error?.code;
    const show = async (reply_to, code) => {
      for (let render = 0; render < 20; render += 1) assert.equal(await failureOf(reply_to), code);
    };
    const [removed, other] = [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER - 1]; // No such messages.
    await show(removed, 'not_found');
    assert.equal(calls.length, 1);
    const sent = await ada.chat.send('45 €?');
    await ada.chat.edit(sent.key, '40 €?');
    await until('the change', () => chat.messages[0]?.edited, chat);
    await show(removed, 'not_found');
    assert.equal(calls.length, 2, 'after a change, the answer may be another one');
    // What a retry may fix is tried again, after pauses that grow.
    broken = true;
    while (calls.length < 6) {
      assert.equal(await failureOf(other), 'network');
      await sleep(1);
    }
    const pauses = [3, 4, 5].map((call) => calls[call] - calls[call - 1]);
    const least = [1, 2, 4].map((times) => (times * HASTE.backoff) / 2 - 2); // Timers may be early by a millisecond.
    assert.ok(
      pauses.every((pause, index) => pause >= least[index]),
      `${pauses}`,
    );
    broken = false;
    while ((await failureOf(other)) === 'network') await sleep(1);
    await show(other, 'not_found');
    assert.equal(calls.length, 7);
  });

  test('the texts of kinds are made in every language', async (context) => {
    const { ada } = await pair(context);
    const kinds = await kindsOf(ada.rt);
    assert.equal(kinds, await kindsOf(ada.rt), 'one call');
    const text = (kind, data, lang) => textOf(kinds.data.get(kind), data, lang);
    assert.equal(text('offer', OFFER.data, 'en'), 'Offer: 45.50 € (open)');
    assert.equal(text('offer', { ...OFFER.data, amount: 4500 }, 'fr'), 'Offre : 45 € (en attente)');
    const appointment = { starts_at: '2026-12-01T14:30:00+01:00', place: 'Gare', state: 'proposed' };
    assert.equal(text('appointment', appointment, 'fr'), 'Rendez-vous : 01/12/2026 à 14:30, Gare (proposé)');
    assert.equal(text('location', { latitude: 48.85, longitude: 2 }, 'en'), 'Location: 48.85, 2');
    assert.equal(text('offer', OFFER.data, 'de'), null);
  });

  test('labels are words for the values that the schema lists', () => {
    const schema = {
      required: ['state', 'currency', 'place'],
      properties: {
        state: { enum: ['accepted', 'constructor', '__proto__'] },
        currency: { const: 'EUR' },
        place: { type: 'string' },
      },
      'x-vyzio': {
        text: { fr: '{state}, {currency}, {place}' },
        labels: { fr: { accepted: 'acceptée', EUR: '€' } },
      },
    };
    const text = (state, place, lang = 'fr') => textOf(schema, { state, currency: 'EUR', place }, lang);
    assert.equal(text('accepted', 'accepted'), 'acceptée, €, accepted');
    for (const value of ['constructor', '__proto__']) {
      assert.equal(text(value, 'Gare'), `${value}, €, Gare`);
      assert.equal(text('accepted', 'Gare', value), null, 'no such language');
    }
  });

  test('hundredths are shown as the server shows them', () => {
    const schema = {
      required: ['price'],
      properties: {},
      'x-vyzio': { text: { en: 'for {price/100}', fr: 'pour {price/100}' } },
    };
    const shown = [
      [4500, '45'],
      [4550, '45.50'],
      [5, '0.05'],
      [-5, '-0.05'],
      [-4500, '-45'],
      [0, '0'],
      // The server divides all integers of 64 bits.
      [2 ** 60, '11529215046068469.76'],
      [-(2 ** 63), '-92233720368547758.08'],
      // Others stay as they are.
      [45.5, '45.5'],
      [-0.5, '-0.5'],
      [1e300, '1e+300'],
      [true, 'true'],
      ['45', '45'],
      [null, ''],
      [[4500], ''],
    ];
    for (const [price, text] of shown) assert.equal(textOf(schema, { price }, 'en'), `for ${text}`.trim());
    assert.equal(textOf(schema, { price: 4550 }, 'fr'), 'pour 45,50');
    assert.equal(textOf(schema, { price: 45.5 }, 'fr'), 'pour 45.5');
  });

  test('vyzio-kinds writes the types of a gateway', async (context) => {
    const { ada } = await pair(context);
    const url = new URL((await client(context, ada.rt.userId)).line.url);
    const program = new URL('../bin/kinds.js', import.meta.url).pathname;
    const env = { ...process.env, VYZIO_TOKEN: await tokenOf(ada.rt.userId) };
    const { stdout } = await run(process.execPath, [program, url.href], { env });
    for (const line of ['  "amount": number;', '  "ends_at"?: string;', '  "order": Order;'])
      assert.ok(stdout.includes(line), stdout);
    await assert.rejects(
      run(process.execPath, [program, url.href], { env: { ...env, VYZIO_TOKEN: '' } }),
      /answers 401; VYZIO_TOKEN/,
    );
    await assert.rejects(run(process.execPath, [program]), /usage/);
  });

  test('vyzio-kinds gives each kind its own type', async (context) => {
    const folder = await mkdtemp(join(tmpdir(), 'kinds-'));
    context.after(() => rm(folder, { recursive: true }));
    for (const kind of ['a.b', 'a_b', 'ab', 'message'])
      await writeFile(join(folder, `${kind}.json`), JSON.stringify({ const: kind }));
    const program = new URL('../bin/kinds.js', import.meta.url).pathname;
    const { stdout } = await run(process.execPath, [program, folder]);
    const types = [
      ['a.b', 'AB'],
      ['a_b', 'AB_'],
      ['ab', 'Ab'],
      ['message', 'Message_'],
    ];
    for (const [kind, type] of types) {
      assert.ok(stdout.includes(`export type ${type} = "${kind}";\n`), stdout);
      assert.ok(stdout.includes(`  "${kind}": ${type};\n`), stdout);
    }
  });
});
