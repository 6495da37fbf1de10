/** The list that all parts share, with a server of its own. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { build } from 'esbuild';

const {
  outputFiles: [{ text }],
} = await build({ entryPoints: ['src/pager.ts'], bundle: true, format: 'esm', write: false });
const { Pager } = await import(`data:text/javascript,${encodeURIComponent(text)}`);

/** A server with the items `count` to 1. */
function pager(count) {
  const items = Array.from({ length: count }, (_, at) => ({ id: count - at }));
  const loads = [];
  const made = new Pager({
    id: ({ id }) => id,
    compare: (a, b) => b.id - a.id,
    load: async (before, limit) => {
      loads.push(before);
      const page = items.filter(({ id }) => before === null || id < before).slice(0, limit);
      return { ok: true, data: { items: page, next: page.length === limit ? page.at(-1).id : null } };
    },
    onChange: () => {},
  });
  return { made, items, loads, ids: () => made.items.map(({ id }) => id) };
}

const range = (from, to) => Array.from({ length: from - to + 1 }, (_, at) => from - at);

test('history that the page loaded stays, however much arrives below', async () => {
  const { made, ids } = pager(5_000);
  await made.loadOlder(50);
  while (made.items.length < 4_000) await made.loadOlder(200);
  const loaded = made.items.length;
  for (let id = 5_001; id <= 6_000; id += 1) made.put([{ id }]);
  assert.deepEqual(ids(), range(6_000, 5_001 - loaded));
});

test('what arrives is bounded, and what was dropped can be loaded again', async () => {
  const { made, ids, items } = pager(10);
  await made.loadOlder(50);
  assert.equal(made.hasOlder, false);
  for (let id = 11; id <= 5_000; id += 1) {
    items.unshift({ id });
    made.put([{ id }]);
  }
  assert.deepEqual([ids().length, made.hasOlder], [2_000, true]);
  while (made.hasOlder) await made.loadOlder(200);
  assert.deepEqual(ids(), range(5_000, 1));
});

test('an item beyond the loaded pages is known, but shown only when its page is', async () => {
  const { made, ids } = pager(100);
  await made.loadOlder(50);
  made.put([{ id: 7, own: true }]);
  assert.deepEqual([ids(), made.find(7).own], [range(100, 51), true]);
  await made.loadOlder(50);
  assert.deepEqual(ids(), range(100, 1));
});

test('a reload covers what is shown, drops what is gone, and keeps what arrived meanwhile', async () => {
  const { made, ids, items, loads } = pager(300);
  await made.loadOlder(50);
  for (let at = 0; at < 4; at += 1) await made.loadOlder(50);
  items.splice(100, 1); // 200 is gone.
  loads.length = 0;
  const reload = made.reload();
  made.put([{ id: 301 }]);
  assert.ok((await reload).ok);
  assert.deepEqual(ids(), [301, ...range(300, 201), ...range(199, 50)]);
  assert.deepEqual(loads, [null, 100], 'as few pages as possible');
});

test('what was on its way when the list was cleared does not come back', async () => {
  const { made } = pager(100);
  const loads = [made.loadOlder(), made.reload()];
  made.clear();
  await Promise.all(loads);
  assert.deepEqual(made.items, []);
});
