/**
 * How the notifications and the list of conversations follow the server. Loaded when a page first asks for one of them, so
 * that a page with neither does not download it.
 */

import { ARCHIVED, DONE } from './constants.js';
import type { Conversation } from './conversation.js';
import type { Conversations } from './conversations.js';
import type { Core } from './core.js';
import type { Notifications } from './notifications.js';
import { Pager } from './pager.js';
import { isMuted } from './muted.js';
import type { ConversationInfo, Notification, OwnSettings, Result, WireMessage } from './types.js';

/** `timing.settle`, if the page does not set it. */
const SETTLE = 1_000;
/** How often a page is read again because something arrived meanwhile. */
const REPEATS = 3;

/** The notifications of `rt.notifications()`. */
export class InboxLog {
  /** The id after which to resume. */
  _last = 0;
  readonly #core: Core;
  readonly #inbox: Notifications;
  readonly #log: Pager<Notification>;
  #items: readonly Notification[] | null = null;
  /** The announcements so far, one after the other. */
  #announced = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(core: Core, inbox: Notifications) {
    this.#core = core;
    this.#inbox = inbox;
    this.#log = new Pager({
      id: ({ notification_id }) => notification_id,
      compare: (a, b) => b.notification_id - a.notification_id,
      // A notification that was read stays so.
      merge: (known, fresh) => (known.is_read && !fresh.is_read ? { ...fresh, is_read: true } : fresh),
      load: (before, limit) => core._page('/api/notifications', before, limit),
      onChange: () => {
        this.#items = null;
        inbox._changed();
      },
    });
    inbox.on('change', () => inbox.state === 'closed' && clearTimeout(this.#timer));
  }

  get items(): readonly Notification[] {
    return (this.#items ??= Object.freeze(newestOfEach(this.#log.items.filter((item) => !item.archived_at))));
  }

  get hasOlder(): boolean {
    return this.#log.hasOlder;
  }

  /** Loads a page of older notifications, or more, if all of a page are hidden behind newer ones. */
  async loadOlder(limit: number): Promise<Result<null>> {
    if (!this.#log.loaded) return DONE;
    const before = this.items.length;
    for (;;) {
      const page = await this.#log.loadOlder(limit);
      if (!page.ok || !this.hasOlder || this.items.length > before) return page;
    }
  }

  clear() {
    this.#log.clear();
    this._last = 0;
  }

  async _load(): Promise<Result<null>> {
    const page = await this.#read();
    this._last = this.#log.items[0]?.notification_id ?? 0;
    return page;
  }

  /** Reads the loaded part, and the number of unread ones with it. */
  async #read(): Promise<Result<null>> {
    const page = await this.#log.reload();
    if (page.ok) this.#count(this.#log.items[0] ?? { unread_count: 0 });
    return page;
  }

  /** Takes the counts of the latest state. Until some device says what the user has seen, nothing is. */
  #count({ unread_count, unseen_count = unread_count }: { unread_count: number; unseen_count?: number }) {
    this.#inbox.unread = unread_count;
    this.#inbox.unseen = unseen_count;
    this.#inbox._changed();
  }

  /** Hides a notification that is archived, and so read. */
  #archived(id: number) {
    const known = this.#log.find(id);
    if (known) this.#log.put([{ ...known, is_read: true, archived_at: new Date().toISOString() }]);
  }

  /** A reconnect replays notifications, but not what was read meanwhile: once reads arrive again, lists are read again. */
  _settle() {
    clearTimeout(this.#timer);
    const { settle = SETTLE } = this.#core.timing;
    this.#timer = setTimeout(() => this._refresh(), settle * (1 + Math.random()));
  }

  /** Reads the loaded part again, until nothing arrives meanwhile: then the unread count is right. */
  async _refresh() {
    const live = () => this.#inbox.state === 'live';
    if (live()) this.#core._list?.reloadAll();
    let version = -1;
    for (let attempt = 0; attempt < REPEATS && live() && version !== this.#log._version; attempt += 1) {
      version = this.#log._version;
      const page = await this.#core._repeat(() => this.#read(), live);
      if (!page.ok) return;
    }
  }

  _onEvent(frame: any) {
    const { type, notification_id: id } = frame;
    if (type === 'mine') return this.#core._list?._onMine(frame.conversation_id, frame);
    if (type === ARCHIVED) return this.#archived(id);
    if (type === 'seen') return this.#count({ unread_count: this.#inbox.unread, ...frame });
    if (type === 'read') {
      // The user's marker in a conversation moved, on any device. Its count is the conversation's.
      if ('conversation_id' in frame) return this.#moved(frame.conversation_id);
      const read = this.#log.items.filter(
        (item) => !item.is_read && (item.notification_id === id || (frame.all && item.notification_id <= id)),
      );
      this.#log.put(read.map((item) => ({ ...item, is_read: true })));
      for (const item of read) this.#movedBy(item);
    } else if (id) {
      const known = this.#log.find(id);
      // A new notification with an old id: the database was restored to an earlier time.
      if (known ? known.created_at !== frame.created_at : id <= this._last) return this.#inbox._restart();
      this._last = Math.max(this._last, id);
      this.#log.put([frame]);
      this.#movedBy(frame);
      const { is_read: isRead, data } = frame;
      if (!isRead && !known && !data?.muted) this.#inbox._arrived(frame, () => this.#announce(frame));
    } else return;
    this.#count(frame);
  }

  #movedBy({ type, data }: Notification) {
    if (type === 'message_received') this.#moved(data.conversation_id);
  }

  #moved(conversationId: number) {
    if (this.#core._conversations.get(conversationId)?.state !== 'live') this.#core._list?._onMoved(conversationId);
  }

  /** Emits a new notification in one of the user's tabs. */
  #announce(item: Notification) {
    this.#announced = this.#announced.then(async () => {
      if (await isFirst(this.#core, item)) this.#inbox._emit('notification', item);
    });
  }

  /** Those of the late notifications that are still of interest. */
  _missed(late: Notification[]): Notification[] {
    return newestOfEach(late.filter((item) => !this.#log.find(item.notification_id)?.is_read).reverse());
  }
}

/** Without the notifications of messages that a newer one of the same conversation stands for. */
function newestOfEach(items: readonly Notification[]): Notification[] {
  const conversations = new Set();
  return items.filter(({ type, data }) => {
    if (type !== 'message_received') return true;
    const { size } = conversations;
    return conversations.add(data.conversation_id).size > size;
  });
}

/** Time that a hidden tab leaves to a visible one to announce a notification. */
const HIDDEN = 400;

/** Time after which every tab sees what another one stored. */
const STORED = 5_000;

/** Whether no other tab of this browser has announced this notification or a later one. A visible tab comes first. */
async function isFirst(core: Core, { notification_id: id, created_at: at }: Notification): Promise<boolean> {
  const { document } = globalThis;
  if (!document) return true;
  const pause = (time: number) => new Promise((resolve) => setTimeout(resolve, time));
  try {
    const storage = core._options.storage ?? localStorage;
    const key = `vyzio-realtime/${core._base}/${core.userId}`;
    const take = () => {
      // With the time, because ids start anew on a new server.
      const [announced, announcedAt] = JSON.parse(storage.getItem(key) ?? '[0, ""]');
      if (announced >= id && announcedAt >= at) return false;
      storage.setItem(key, JSON.stringify([id, at]));
      return true;
    };
    if (document.visibilityState !== 'visible') await pause(HIDDEN);
    if (!navigator.locks) return take(); // Only secure pages have locks.
    // Tabs may be processes, which see late what others stored. So the lock of the notification stays until they do.
    return await new Promise((resolve, reject) => {
      const hold = (lock: unknown) => {
        resolve(!!lock && take());
        return pause(STORED);
      };
      navigator.locks.request(key + id, { ifAvailable: true }, hold).catch(reject);
    });
  } catch {
    return true; // The storage is full or forbidden. Twice is better than never.
  }
}

/** If more conversations than this changed at once, the whole list is read again. */
const MANY = 10;

const at = (item: ConversationInfo) => item.last_message?.created_at ?? item.created_at;
const lastSeq = (item: ConversationInfo) => item.last_message?.seq ?? 0;
const changeOf = (item: ConversationInfo) => item.last_message?.change ?? 0;

/** Newest activity first. */
function compare(a: ConversationInfo, b: ConversationInfo): number {
  return at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : b.conversation_id - a.conversation_id;
}

/** The user's own settings of a conversation. */
const ownOf = ({ muted_until, archived, pinned }: OwnSettings) => ({ muted_until, archived, pinned });

/** Answers may overtake each other: the later state has more messages, a later change, or fewer unread ones. */
function later(known: ConversationInfo, fresh: ConversationInfo): ConversationInfo {
  if (lastSeq(known) > lastSeq(fresh)) return { ...known, ...ownOf(fresh) };
  if (lastSeq(known) < lastSeq(fresh)) return fresh;
  const unread = Math.min(known.unread_count, fresh.unread_count);
  const last = changeOf(known) > changeOf(fresh) ? known.last_message : fresh.last_message;
  const isRead = known.last_message?.is_read || fresh.last_message?.is_read;
  return { ...fresh, unread_count: unread, last_message: last && isRead ? { ...last, is_read: true } : last };
}

/** The list of `rt.conversations()`. */
export class ConversationList extends Pager<ConversationInfo> {
  readonly #core: Core;
  readonly #shown: Conversations;
  /** Conversations to read again in a moment. */
  readonly #moved = new Set<number>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #loading: Promise<Result<null>> | null = null;
  /** Made of the items by activity. */
  #arranged: { _of: readonly ConversationInfo[]; _items: readonly ConversationInfo[] } | null = null;

  constructor(core: Core, shown: Conversations) {
    super({
      id: ({ conversation_id }) => conversation_id,
      compare,
      merge: later,
      load: (before, limit) => this.#page(before, limit),
      onChange: () => shown._changed(),
    });
    this.#core = core;
    this.#shown = shown;
    core._list = this;
  }

  /** Those that are not archived: the pinned ones, then the others, each by activity. */
  override get items(): readonly ConversationInfo[] {
    const of = super.items;
    if (this.#arranged?._of !== of) {
      const pinned = [...this._all.values()].filter((item) => item.pinned).sort(compare);
      const shown = [...pinned, ...of.filter((item) => !item.pinned)].filter((item) => !item.archived);
      this.#arranged = { _of: of, _items: Object.freeze(shown) };
    }
    return this.#arranged!._items;
  }

  /** A page. Behind the first one may be pinned conversations, which are shown all the same. */
  async #page(before: number | null, limit: number): Promise<Result<any>> {
    const path = '/api/conversations';
    const page = await this.#core._page(path, before, limit);
    if (before !== null || !page.ok || page.data.next === null) return page;
    const pinned = await this.#core.get(`${path}?pinned=true&limit=200`);
    // An earlier release lists others, too.
    if (pinned.ok) this.put(pinned.data.items.filter((item: ConversationInfo) => item.pinned));
    return pinned.ok ? page : pinned;
  }

  /** Takes all of the user's settings of a conversation. */
  _onMine(id: number, settings: OwnSettings) {
    const item = this.find(id);
    if (item) this.put([{ ...item, ...ownOf(settings) }]);
    else this._onMoved(id);
  }

  /** Reads everything that is shown again. */
  reloadAll(): Promise<Result<null>> {
    return (this.#loading ??= this.#core._repeat(() => this._track(this.reload())).finally(() => (this.#loading = null)));
  }

  /** Shows whether a page could be loaded. */
  async _track(loading: Promise<Result<null>>): Promise<Result<null>> {
    const page = await loading;
    this.#shown.error = page.ok ? null : page.error;
    this.#shown._changed();
    return page;
  }

  override clear() {
    clearTimeout(this.#timer);
    this.#moved.clear();
    super.clear();
  }

  /** Something happened in a conversation that is not open here. */
  _onMoved(id: number) {
    this.#moved.add(id);
    this.#timer ??= setTimeout(() => this.#refresh(), 200 + Math.random() * 200);
  }

  /** An open conversation changed. */
  _follow(chat: Conversation) {
    const item = this.find(chat.id);
    if (!item) return void (this.loaded && this._onMoved(chat.id));
    const change = { last_message: lastOf(chat), unread_count: chat.unread };
    const text = ({ unread_count: unread, last_message: last }: typeof change) =>
      [unread, last?.message_id, last?.is_read, last?.change, last?.content].join();
    if (text(item) === text(change)) return;
    // A message ends an archive, unless it is muted.
    const archived = item.archived && (isMuted(item) || change.last_message?.seq === lastSeq(item));
    this.put([{ ...item, ...change, ...(item.archived && { archived }) }]);
  }

  /** Reads the conversations in which something happened. */
  #refresh() {
    this.#timer = undefined;
    const ids = [...this.#moved];
    this.#moved.clear();
    if (ids.length > MANY) return void this.reloadAll();
    for (const id of ids) this.#read(id);
  }

  async #read(id: number) {
    const info = await this.#core._repeat(
      () => this.#core.get(`/api/conversations/${id}`),
      () => !this.#moved.has(id),
    );
    if (info.ok) this.put([info.data]);
  }
}

/** The last message of a conversation, as the server describes it. */
function lastOf(chat: Conversation): WireMessage | null {
  const [last] = chat._log.items;
  if (!last) return null;
  const { key: _, mine, state, edited: __, deleted: ___, ...message } = last;
  const isRead = mine ? state === 'read' : message.seq <= chat._readByOthers(message.sender_id);
  return { ...message, is_read: isRead };
}
