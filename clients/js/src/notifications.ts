/** The user's notifications. */

import { CLOSED, DONE } from './constants.js';
import type { Core } from './core.js';
import { Feed } from './feed.js';
import { Pager } from './pager.js';
import type { Failure, KeyValueStorage, Notification, PartState, Result } from './types.js';

/** The state of the notifications at one moment. */
export interface InboxSnapshot {
  state: PartState;
  /** Why it is closed. */
  error: Failure | null;
  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  items: readonly Notification[];
  /** The number of unread notifications, loaded or not. */
  unread: number;
  /** Whether there are older notifications to load. */
  hasOlder: boolean;
}

/** Events of the notifications. */
export interface InboxEvents {
  change: void;
  /** A new notification, in only one of the user's tabs in this browser: for sounds and banners. */
  notification: Notification;
  /** Unread notifications that arrived late, after the connection was lost. */
  missed: readonly Notification[];
}

/** How often a page is read again because something arrived meanwhile. */
const REPEATS = 3;

export class Notifications extends Feed<InboxEvents, InboxSnapshot, Notification> {
  /** The number of unread notifications, loaded or not. */
  unread = 0;
  readonly #log: Pager<Notification>;
  #items: readonly Notification[] | null = null;
  /** The id after which to resume. */
  #last = 0;
  /** The announcements so far, one after the other. */
  #announced = Promise.resolve();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(core: Core) {
    super(core, 'notifications');
    this.#log = new Pager({
      id: ({ notification_id }) => notification_id,
      compare: (a, b) => b.notification_id - a.notification_id,
      // A notification that was read stays so.
      merge: (known, fresh) => (known.is_read && !fresh.is_read ? { ...fresh, is_read: true } : fresh),
      load: (before, limit) =>
        core.call('GET', `/api/notifications?limit=${limit}${before === null ? '' : `&before=${before}`}`),
      onChange: () => this.changed(),
    });
    this.start();
  }

  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  get items(): readonly Notification[] {
    return (this.#items ??= Object.freeze(newestOfEach(this.#log.items)));
  }

  /** Whether there are older notifications to load. */
  get hasOlder(): boolean {
    return this.#log.hasOlder;
  }

  /** Marks a notification as read. */
  read(id: number): Promise<Result<null>> {
    return this.#request({ type: 'read', notification_id: id });
  }

  /** Marks all notifications as read. */
  readAll(): Promise<Result<null>> {
    return this.#request({ type: 'read_all' });
  }

  /** Loads a page of older notifications, or more, if all of a page are hidden behind newer ones. */
  async loadOlder(limit = 50): Promise<Result<null>> {
    if (!this.#log.loaded) return DONE;
    const before = this.items.length;
    for (;;) {
      const page = await this.#log.loadOlder(limit);
      if (!page.ok || !this.hasOlder || this.items.length > before) return page;
    }
  }

  /** Ends the subscription. `rt.notifications()` begins a new one. */
  close() {
    this.end(CLOSED);
  }

  /** @internal */
  override end(error: Failure) {
    clearTimeout(this.#timer);
    super.end(error);
  }

  /** Ends it; nothing stays to be shown. @internal */
  forget() {
    this.#log.clear();
    this.unread = this.#last = 0;
    this.late = [];
  }

  /** @internal */
  protected last() {
    return this.#last;
  }

  /** @internal */
  protected async load(): Promise<Result<null>> {
    const page = await this.#log.reload();
    const [newest] = this.#log.items;
    this.#last = newest?.notification_id ?? 0;
    this.unread = newest?.unread_count ?? 0;
    return page;
  }

  #request(data: object): Promise<Result<null>> {
    return this.core.connection.request({ op: 'send', channel: this.channel.name, data });
  }

  /** A reconnect replays notifications, but not what was read meanwhile: once reads arrive again, lists are read again. @internal */
  protected onJoined() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.state === 'live' && this.onRefresh(), this.core.timing.settle * (1 + Math.random()));
  }

  /** @internal */
  protected onRefresh() {
    this.#reload();
    this.core.list?.onSettled();
  }

  /** Reads the loaded part again, until nothing arrives meanwhile: then the unread count is right. */
  async #reload() {
    for (let attempt = 0; attempt < REPEATS; attempt += 1) {
      const { version } = this.#log;
      const page = await this.core.repeat(() => this.#log.reload(), () => this.state === 'live');
      if (!page.ok || this.state !== 'live') return;
      this.unread = this.#log.items[0]?.unread_count ?? 0;
      this.changed();
      if (version === this.#log.version) return;
    }
  }

  /** @internal */
  protected onEvent(frame: any) {
    // The user's marker in a conversation moved, on any device. Its count is the conversation's.
    if (frame.type === 'read' && 'conversation_id' in frame) return this.#moved(frame.conversation_id);
    if (frame.type === 'read') {
      const { notification_id: id, all } = frame;
      const read = this.#log.items.filter((item) =>
        !item.is_read && (item.notification_id === id || (all && item.notification_id <= id)));
      this.#log.put(read.map((item) => ({ ...item, is_read: true })));
      for (const item of read) this.#movedBy(item);
    } else if ('notification_id' in frame) {
      const id = frame.notification_id;
      const known = this.#log.find(id);
      // A new notification with an old id: the database was restored to an earlier time.
      if (known ? known.created_at !== frame.created_at : id <= this.#last) return this.restart();
      this.#last = Math.max(this.#last, id);
      this.#log.put([frame]);
      this.#movedBy(frame);
      if (!frame.is_read && !known) {
        if (this.isLate(frame.created_at)) this.late.push(frame);
        else this.#announce(frame);
      }
    } else return;
    this.unread = frame.unread_count;
    this.changed();
  }

  #movedBy({ type, data }: Notification) {
    if (type === 'message_received') this.#moved(data.conversation_id);
  }

  #moved(conversationId: number) {
    if (this.core.conversations.get(conversationId)?.state !== 'live') this.core.list?.onMoved(conversationId);
  }

  /** Emits a new notification in one of the user's tabs. */
  #announce(item: Notification) {
    const { base, storage, userId } = this.core;
    this.#announced = this.#announced.then(async () => {
      if (await isFirst(`vyzio-realtime/${base}/${userId}`, storage, item)) this.emit('notification', item);
    });
  }

  /** @internal */
  protected describe(): InboxSnapshot {
    const { state, error, items, unread, hasOlder } = this;
    return { state, error, items, unread, hasOlder };
  }

  /** @internal */
  protected override changed() {
    this.#items = null;
    super.changed();
  }

  /** @internal */
  protected override beforeChange() {
    const missed = this.late.splice(0).filter((item) => !this.#log.find(item.notification_id)?.is_read);
    if (missed.length) this.emit('missed', Object.freeze(newestOfEach(missed.reverse())));
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

/** Whether no other tab of this browser has announced this notification or a later one. A visible tab comes first. */
async function isFirst(
  key: string,
  storage: KeyValueStorage | undefined,
  { notification_id: id, created_at: at }: Notification,
): Promise<boolean> {
  const { document } = globalThis;
  if (!document || !storage) return true;
  const take = () => {
    // With the time, because ids start anew on a new server.
    const [announced, announcedAt] = JSON.parse(storage.getItem(key) ?? '[0, ""]');
    if (announced >= id && announcedAt >= at) return false;
    storage.setItem(key, JSON.stringify([id, at]));
    return true;
  };
  try {
    if (document.visibilityState !== 'visible') await new Promise((resolve) => setTimeout(resolve, 400));
    return navigator.locks ? await navigator.locks.request(key, take) : take(); // Only secure pages have locks.
  } catch {
    return true; // The storage is full or forbidden. Twice is better than never.
  }
}
