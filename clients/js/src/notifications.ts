/** The user's notifications. */

import { CLOSED, DONE } from './constants.js';
import type { Core } from './core.js';
import { Feed } from './feed.js';
import type { InboxLog } from './lists.js';
import type { Failure, Notification, PartState, Result } from './types.js';

/** The state of the notifications at one moment. */
export interface InboxSnapshot {
  state: PartState;
  /** Why it is closed. */
  error: Failure | null;
  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  items: readonly Notification[];
  /** The number of unread notifications, loaded or not. */
  unread: number;
  /** The number of those that are later than the last one that was seen; `unread` before anything was seen. */
  unseen: number;
  /** Whether there are older notifications to load. */
  hasOlder: boolean;
}

/** Events of the notifications. */
export interface InboxEvents {
  change: void;
  /** A new notification, in only one of the user's tabs in this browser: for sounds and banners. Not of a muted conversation. */
  notification: Notification;
  /** Unread notifications that arrived late, after the connection was lost. */
  missed: readonly Notification[];
}

const NONE: readonly Notification[] = Object.freeze([]);

export class Notifications extends Feed<InboxEvents, InboxSnapshot, Notification> {
  /** The number of unread notifications, loaded or not. */
  unread = 0;
  /** The number of unread notifications that are later than the last one that was seen. */
  unseen = 0;
  #log: InboxLog | null = null;

  /** @internal */
  constructor(core: Core) {
    super(core, 'notifications', ['items', 'unseen']);
    core._lists(); // While the token is requested.
    this._start();
  }

  /** Newest first. The newest notification of a conversation's messages stands for the earlier ones. */
  get items(): readonly Notification[] {
    return this.#log?.items ?? NONE;
  }

  /** Whether there are older notifications to load. */
  get hasOlder(): boolean {
    return !!this.#log?.hasOlder;
  }

  /** Marks a notification as read. */
  read(id: number): Promise<Result<null>> {
    return this._core._connection._publish(this._name, { type: 'read', notification_id: id });
  }

  /** Marks all notifications as read. */
  readAll(): Promise<Result<null>> {
    return this._core._connection._publish(this._name, { type: 'read_all' });
  }

  /** Loads older notifications: a page, or more, if all of a page are hidden behind newer ones. */
  async loadOlder(limit = 50): Promise<Result<null>> {
    return this.#log?.loadOlder(limit) ?? DONE;
  }

  /** Ends the subscription. `rt.notifications()` begins a new one. */
  close() {
    this._end(CLOSED);
  }

  /** Nothing stays to be shown. @internal */
  _forget() {
    this.#log?.clear();
    this.unread = this.unseen = 0;
    this._late = [];
  }

  /** @internal */
  _after() {
    return this.#log!._last;
  }

  /** @internal */
  protected async _load(): Promise<Result<null>> {
    const lists = await this._core._lists();
    if (!lists.ok) return lists;
    this.#log ??= new lists.data.InboxLog(this._core, this);
    return this.#log._load();
  }

  /** @internal */
  override _onJoined() {
    super._onJoined();
    this.#log!._settle();
  }

  /** Reads again what events report. @internal */
  _refresh() {
    this.#log!._refresh();
  }

  /** @internal */
  _onEvent(frame: any) {
    this.#log?._onEvent(frame);
  }

  /** @internal */
  protected override _beforeChange() {
    this._emitLate(this.#log?._missed(this._late) ?? []);
  }
}
