/** Unsent messages that survive the page. Loaded only for clients with the option `persist`. */

import type { DraftStore, Options, StoredDraft } from './types.js';

/** Pause between two looks for messages of tabs that are gone. */
const INTERVAL = 5_000;

/** What `persist` needs from the client. */
export interface Persisted {
  /** The gateway's address. */
  base: string;
  userId: number;
  /** Sends these messages, or shows those that failed. */
  restore(drafts: StoredDraft[]): void;
  /** Resolves when the client ends. */
  ended: Promise<void>;
}

/** Runs a request of IndexedDB. */
function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** The messages in IndexedDB, of all users of this browser. */
export function indexedDbStore(): DraftStore {
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

/** The store of the option. */
export function storeOf(persist: NonNullable<Options['persist']>): DraftStore {
  return persist === 'indexeddb' ? indexedDbStore() : persist;
}

/**
 * Takes over the messages of tabs that are gone: of one that crashed, or of this one before a reload.
 *
 * Each tab holds a lock for its life, and the messages name their tab. If two tabs should send one message, the server
 * stores it once, because its `client_id` is the same.
 */
export async function adopt(store: DraftStore, tab: string, { base, userId, restore, ended }: Persisted) {
  const locks = globalThis.navigator?.locks;
  const name = (owner: string) => `vyzio-realtime/tab/${owner}`;
  const seen = new Set<string>();
  const look = async () => {
    const held = new Set((await locks?.query())?.held?.map((lock) => lock.name));
    const orphans = (await store.list())
      .filter((draft) => draft.base === base && draft.user_id === userId && draft.tab !== tab)
      .filter((draft) => !held.has(name(draft.tab)) && !seen.has(draft.client_id));
    for (const draft of orphans) seen.add(draft.client_id);
    if (orphans.length) restore(orphans.sort((a, b) => a.order - b.order));
  };
  if (!locks) return look(); // Not a secure page, or no browser: there is no telling which tabs live.
  await new Promise<void>((resolve) => {
    locks.request(name(tab), () => (resolve(), ended));
  });
  // One tab at a time looks for orphans.
  await locks.request(`vyzio-realtime/outbox/${base}/${userId}`, async () => {
    let over = false;
    void ended.then(() => (over = true));
    while (!over) {
      await look();
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, INTERVAL))]);
    }
  });
}
