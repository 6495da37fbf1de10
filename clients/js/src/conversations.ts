/** The list of the user's conversations. */

import type { Core } from './core.js';
import { Observable } from './emitter.js';
import type { ConversationList } from './lists.js';
import type { ConversationInfo, Failure, Result } from './types.js';

/** The state of the list at one moment. */
export interface ConversationsSnapshot {
  /** Newest activity first. */
  items: readonly ConversationInfo[];
  /** Whether the first page is loaded. */
  loaded: boolean;
  /** Why the last page could not be loaded; null after the next success. */
  error: Failure | null;
  /** Whether there are older conversations to load. */
  hasOlder: boolean;
}

const NONE: readonly ConversationInfo[] = Object.freeze([]);

/** The conversations, newest activity first. They follow the notifications and the open conversations. */
export class Conversations extends Observable<{ change: void }, ConversationsSnapshot> {
  /** Why the last page could not be loaded; null after the next success. */
  error: Failure | null = null;
  #list: ConversationList | null = null;

  /** @internal */
  constructor(core: Core) {
    super(core, ['items', 'loaded', 'error', 'hasOlder']);
    this.reload();
  }

  /** Newest activity first. The same array until it changes. */
  get items(): readonly ConversationInfo[] {
    return this.#list?.items ?? NONE;
  }

  /** Whether the first page is loaded. */
  get loaded(): boolean {
    return !!this.#list?.loaded;
  }

  /** Whether there are older conversations to load. */
  get hasOlder(): boolean {
    return !!this.#list?.hasOlder;
  }

  /** A conversation that is known here, even if it is older than the list. */
  find(id: number): ConversationInfo | undefined {
    return this.#list?.find(id);
  }

  /** Reads everything that is shown again. */
  async reload(): Promise<Result<null>> {
    const lists = await this._core._lists();
    if (!lists.ok) return lists;
    this.#list ??= new lists.data.ConversationList(this._core, this);
    return this.#list.reloadAll();
  }

  /** Loads a page of older conversations. */
  async loadOlder(limit = 50): Promise<Result<null>> {
    return this.#list?.loaded ? this.#list._track(this.#list.loadOlder(limit)) : this.reload();
  }
}
