/** The list of the user's conversations. */

import type { Core } from './core.js';
import { Observable } from './emitter.js';
import { Pager } from './pager.js';
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

/** If more conversations than this changed at once, the whole list is read again. */
const MANY = 10;

const at = (item: ConversationInfo) => item.last_message?.created_at ?? item.created_at;
const lastSeq = (item: ConversationInfo) => item.last_message?.seq ?? 0;

/** Newest activity first. */
function compare(a: ConversationInfo, b: ConversationInfo): number {
  return at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : b.conversation_id - a.conversation_id;
}

/** Answers may overtake each other: the later state has more messages, or fewer unread ones. */
function later(known: ConversationInfo, fresh: ConversationInfo): ConversationInfo {
  if (lastSeq(known) !== lastSeq(fresh)) return lastSeq(known) > lastSeq(fresh) ? known : fresh;
  const unread = Math.min(known.unread_count, fresh.unread_count);
  const last = fresh.last_message && known.last_message?.is_read ? { ...fresh.last_message, is_read: true } : fresh.last_message;
  return { ...fresh, unread_count: unread, last_message: last };
}

/** The conversations, newest activity first. They follow the notifications and the open conversations. */
export class Conversations extends Observable<{ change: void }, ConversationsSnapshot> {
  /** Why the last page could not be loaded; null after the next success. */
  error: Failure | null = null;
  readonly #core: Core;
  readonly #list: Pager<ConversationInfo>;
  /** Conversations to read again in a moment. */
  readonly #moved = new Set<number>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #loading: Promise<Result<null>> | null = null;

  /** @internal */
  constructor(core: Core) {
    super(core.timing.frame);
    this.#core = core;
    this.#list = new Pager({
      id: ({ conversation_id }) => conversation_id,
      compare,
      merge: later,
      load: (before, limit) =>
        core.call('GET', `/api/conversations?limit=${limit}${before === null ? '' : `&before=${before}`}`),
      onChange: () => this.changed(),
    });
    this.reload();
  }

  /** Newest activity first. The same array until it changes. */
  get items(): readonly ConversationInfo[] {
    return this.#list.items;
  }

  /** Whether the first page is loaded. */
  get loaded(): boolean {
    return this.#list.loaded;
  }

  /** Whether there are older conversations to load. */
  get hasOlder(): boolean {
    return this.#list.hasOlder;
  }

  /** A conversation that is known here, even if it is older than the list. */
  find(id: number): ConversationInfo | undefined {
    return this.#list.find(id);
  }

  /** Reads everything that is shown again. */
  reload(): Promise<Result<null>> {
    return (this.#loading ??= this.#core.repeat(() => this.#result(this.#list.reload())).finally(() => (this.#loading = null)));
  }


  /** Loads a page of older conversations. */
  loadOlder(limit = 50): Promise<Result<null>> {
    return this.loaded ? this.#result(this.#list.loadOlder(limit)) : this.reload();
  }

  async #result(loading: Promise<Result<null>>): Promise<Result<null>> {
    const page = await loading;
    this.error = page.ok ? null : page.error;
    this.changed();
    return page;
  }

  /** Shows nothing more. @internal */
  forget() {
    clearTimeout(this.#timer);
    this.#moved.clear();
    this.#list.clear();
  }

  /** @internal */
  onMoved(id: number) {
    this.#moved.add(id);
    this.#timer ??= setTimeout(() => this.#refresh(), 200 + Math.random() * 200);
  }

  /** @internal */
  onChange(id: number, change: Pick<ConversationInfo, 'last_message' | 'unread_count'>) {
    const item = this.#list.find(id);
    if (!item) return void (this.loaded && this.onMoved(id));
    const text = ({ unread_count: unread, last_message: last }: typeof change) => [unread, last?.message_id, last?.is_read].join();
    if (text(item) !== text(change)) this.#list.put([{ ...item, ...change }]);
  }

  /** @internal */
  onSettled() {
    this.reload();
  }

  /** Reads the conversations in which something happened. */
  #refresh() {
    this.#timer = undefined;
    const ids = [...this.#moved];
    this.#moved.clear();
    if (ids.length > MANY) return void this.reload();
    for (const id of ids) this.#read(id);
  }

  async #read(id: number) {
    const info = await this.#core.repeat(() => this.#core.call('GET', `/api/conversations/${id}`), () => !this.#moved.has(id));
    if (info.ok) this.#list.put([info.data]);
  }

  /** @internal */
  protected describe(): ConversationsSnapshot {
    const { items, loaded, error, hasOlder } = this;
    return { items, loaded, error, hasOlder };
  }
}
