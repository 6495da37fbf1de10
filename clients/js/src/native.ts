/** Adapters for React Native: what a browser's page does by itself. */

import type { Realtime } from './index.js';
import type { DraftStore } from './types.js';

/** `AppState` of `react-native`. */
export interface AppStateLike {
  addEventListener(type: 'change', listener: (state: string) => void): { remove(): void };
}

/** `AsyncStorage` of `@react-native-async-storage/async-storage`, or a store with the same calls. */
export interface AsyncStorageLike {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, value: string): Promise<void>;
  removeItem(key: string): Promise<void>;
  getAllKeys(): Promise<readonly string[]>;
}

const PREFIX = 'vyzio-realtime/draft/';

/**
 * Checks the connection whenever the app comes to the front: the system may have ended the socket without a sign.
 *
 * Returns a function that stops it.
 */
export function followApp(rt: Realtime, appState: AppStateLike): () => void {
  const subscription = appState.addEventListener('change', (state) => {
    if (state === 'active' && rt.state !== 'closed') rt.reconnect();
  });
  return () => subscription.remove();
}

/** Keeps unsent messages in the storage, for the option `persist`. */
export function draftsIn(storage: AsyncStorageLike): DraftStore {
  return {
    put: (draft) => storage.setItem(PREFIX + draft.client_id, JSON.stringify(draft)),
    delete: (clientId) => storage.removeItem(PREFIX + clientId),
    async list() {
      const keys = (await storage.getAllKeys()).filter((key) => key.startsWith(PREFIX));
      const texts = await Promise.all(keys.map((key) => storage.getItem(key)));
      return texts.flatMap((text) => (text ? [JSON.parse(text)] : []));
    },
  };
}
