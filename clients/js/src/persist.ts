/** Unsent messages that survive the page. Loaded only for clients with the option `persist`. */

import type { Core } from './core.js';
import { randomId } from './ids.js';
import type { Draft } from './outbox.js';
import type { DraftStore, StoredDraft } from './types.js';

/** Pause between two looks for messages of tabs that are gone. */
const INTERVAL = 5_000;

/** What keeps the messages of a client. */
export interface Kept {
  /** Keeps a message as it is now. Resolves once it would survive a crash. */
  save(draft: Draft, conversationId: number): Promise<void>;
  drop(draft: Draft): Promise<void>;
  /** Drops all messages of this user. */
  forget(): Promise<void>;
}

/** Runs a request of IndexedDB. */
function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** The messages in IndexedDB, of all users of this browser. */
function indexedDbStore(): DraftStore {
  const opening = indexedDB.open('vyzio-realtime', 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore('drafts', { keyPath: 'client_id' });
  const database = done(opening);
  const run = async <T>(mode: IDBTransactionMode, act: (drafts: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    // Resolves with the commit, after which not even a crash of the browser loses it.
    const transaction = (await database).transaction('drafts', mode, { durability: 'strict' });
    const committed = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
    const [result] = await Promise.all([done(act(transaction.objectStore('drafts'))), committed]);
    return result;
  };
  return {
    put: async (draft) => void (await run('readwrite', (drafts) => drafts.put(draft))),
    delete: async (clientId) => void (await run('readwrite', (drafts) => drafts.delete(clientId))),
    list: () => run('readonly', (drafts) => drafts.getAll() as IDBRequest<StoredDraft[]>),
  };
}

/** Keeps the messages of a client, and sends those of tabs that are gone. `life` ends with the client. */
export function keep(core: Core, life: AbortSignal): Kept {
  const { _base: base, _tokens: tokens } = core;
  const persist = core._options.persist!;
  const store = persist === 'indexeddb' ? indexedDbStore() : persist;
  const tab = randomId();
  const own = async () => (await store.list()).filter((draft) => draft.base === base && draft.user_id === core.userId);
  let order = Date.now();
  const ended = new Promise<void>((resolve) => {
    life.onabort = () => resolve();
    if (life.aborted) resolve();
  });
  tokens._known.then(() => adopt(core, own, tab, ended));
  return {
    async save({ _shown: shown, _more: more }, conversation_id) {
      const { key: client_id, content, created_at } = shown;
      const draft = { client_id, base, conversation_id, content, more, created_at, order: (order += 1), tab };
      await tokens._known;
      await store.put({ ...draft, user_id: tokens.userId!, ...(shown.state === 'failed' && { error: shown.error }) });
    },
    drop: ({ _shown: shown }) => store.delete(shown.key),
    forget: async () => void (await Promise.all((await own()).map((draft) => store.delete(draft.client_id)))),
  };
}

/**
 * Takes over the messages of tabs that are gone: of one that crashed, or of this one before a reload.
 *
 * Each tab holds a lock for its life, and the messages name their tab. If two tabs should send one message, the server
 * stores it once, because its `client_id` is the same.
 */
async function adopt(core: Core, own: () => Promise<StoredDraft[]>, tab: string, ended: Promise<void>) {
  const locks = globalThis.navigator?.locks;
  const name = (owner: string) => `vyzio-realtime/tab/${owner}`;
  const seen = new Set<string>();
  const look = async () => {
    const held = new Set((await locks?.query())?.held?.map((lock) => lock.name));
    const orphans = (await own())
      .filter((draft) => draft.tab !== tab && !held.has(name(draft.tab)) && !seen.has(draft.client_id))
      .sort((a, b) => a.order - b.order);
    for (const draft of orphans) {
      seen.add(draft.client_id);
      const outbox = core._outbox(draft.conversation_id);
      if (!outbox._find(draft.client_id)) outbox._add(draft, draft.error, true);
    }
  };
  if (!locks) return look(); // Not a secure page, or no browser: there is no telling which tabs live.
  await new Promise<void>((resolve) => {
    locks.request(name(tab), () => (resolve(), ended));
  });
  // One tab at a time looks for orphans.
  await locks.request(`vyzio-realtime/outbox/${core._base}/${core.userId}`, async () => {
    let over = false;
    void ended.then(() => (over = true));
    while (!over) {
      await look();
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, INTERVAL))]);
    }
  });
}
