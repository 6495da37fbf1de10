/** A conversation: its messages, who has read them, and who is typing. */

import { CLOSED, DONE } from './constants.js';
import type { Core } from './core.js';
import type { Patch } from './edits.js';
import { Feed } from './feed.js';
import type { Outbox } from './outbox.js';
import { Log, type Page } from './pager.js';
import { Typing } from './typing.js';
import type {
  ConversationInfo,
  Failure,
  Message,
  PartState,
  Person,
  Result,
  SentMessage,
  StoredMessage,
  Structure,
  WireMessage,
} from './types.js';

/** The state of a conversation at one moment. */
export interface ConversationSnapshot {
  id: number;
  state: PartState;
  /** Why it is closed. */
  error: Failure | null;
  /** The server's description, once it is loaded. */
  info: ConversationInfo | null;
  /** Oldest first; messages that are being sent come last. */
  messages: readonly Message[];
  /** The other users who are typing. */
  typists: readonly Person[];
  /** The number of messages that the user has not read. */
  unread: number;
  /** Whether there are older messages to load. */
  hasOlder: boolean;
}

/** Events of a conversation. */
export interface ConversationEvents {
  change: void;
  /** Another user's message has just arrived. */
  message: StoredMessage;
  /** Other users' messages that arrived late, after the connection was lost. */
  missed: readonly StoredMessage[];
}

/** An unbroken part of a conversation's log up to its end, and the messages that are being sent. */
export class Conversation extends Feed<ConversationEvents, ConversationSnapshot, StoredMessage> {
  readonly id: number;
  /** The server's description, once it is loaded. */
  info: ConversationInfo | null = null;
  readonly #path: string;
  readonly #typing: Typing;
  /** @internal */
  readonly _log: Log<StoredMessage>;
  /** The number of the last change: that of the first page, and then of the frames. @internal */
  _changes: number | undefined;
  readonly #outbox: Outbox;
  /** How far each user has read, by `seq`. */
  readonly #markers = new Map<number, number>();
  /** How far every other participant has read, by `seq`. */
  #readByAll = 0;
  /** The end of the log, which may be empty. */
  #last = { seq: 0, id: 0 };
  /** The message up to which the user has read, and up to which the server knows it. */
  #read = { id: 0, reported: 0, sending: false };
  #messages: readonly Message[] | null = null;
  #uses = 0;
  #linger: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(core: Core, id: number) {
    super(core, `chat/${id}`, ['id', 'info', 'messages', 'typists']);
    this.id = id;
    this.#path = `/api/conversations/${id}`;
    const changed = () => this._changed();
    this._log = new Log({
      id: ({ seq }) => seq,
      compare: (a, b) => b.seq - a.seq,
      cursor: ({ message_id }) => message_id,
      load: (before, limit) => this._loadPage(before, limit),
      onChange: changed,
    });
    this.#typing = new Typing(core, id, changed);
    this.#outbox = core._outbox(id);
    this.#outbox._follow(changed);
    this._start();
  }

  /** Oldest first; messages that are being sent come last. The same array until it changes. */
  get messages(): readonly Message[] {
    return (this.#messages ??= Object.freeze(this.#merge()));
  }

  #merge(): Message[] {
    // Without `info`, the markers are unknown, so a page would be shown with a wrong unread count.
    const stored = this.info ? [...this._log.items].reverse() : [];
    const keys = new Set(stored.map(({ key }) => key));
    return [...stored, ...this.#outbox.messages.filter(({ key }) => !keys.has(key))];
  }

  /** The other users who are typing. */
  get typists(): readonly Person[] {
    return this.#typing.typists;
  }

  /** The number of messages that the user has not read. */
  get unread(): number {
    return Math.max(0, this.#last.seq - this.#markerOf(this._core.userId));
  }

  /** Whether there are older messages to load. */
  get hasOlder(): boolean {
    return this._log.hasOlder;
  }

  /**
   * Sends a message. It is in `messages` at once; without a connection, it is sent once there is one.
   *
   * `more`: its kind with data, and the message to which it replies. The text of some kinds is made from the data; it may
   * then be empty.
   *
   * Resolves to the message once it is `sent` or `failed`; never rejects.
   */
  send(text: string, more?: Structure): Promise<SentMessage> {
    this.type(false);
    return this.#outbox.send(text, more);
  }

  /** Sends a failed message again; it can't be stored twice. `null`: no such message has failed. */
  retry(key: string): Promise<SentMessage> | null {
    return this.#outbox.retry(key);
  }

  /** Removes a message that failed. */
  discard(key: string) {
    this.#outbox.discard(key);
  }

  /**
   * Replaces the text of one of the user's messages. It is shown at once; without a connection, it is sent once there is
   * one. If it fails, for example with `too_late`, the message is shown as before.
   */
  edit(key: string, text: string): Promise<Result<null>> {
    return this.#change(key, { content: text.trim(), edited: true });
  }

  /** Deletes one of the user's messages, like `edit`: it keeps its place, without its text. A failed one is discarded. */
  delete(key: string): Promise<Result<null>> {
    return this.#change(key, { content: '', deleted: true });
  }

  async #change(key: string, patch: Patch): Promise<Result<null>> {
    const known = this._log.items.find((message) => message.key === key);
    if (known?.mine && !known.deleted) this._log.put([{ ...known, ...patch }]);
    const edits = await this._core._load(() => import('./edits.js'));
    if (edits.ok) return edits.data.carry(this, key, known, patch);
    if (known) this._log.put([known]);
    return edits;
  }

  /** The user has read all messages, or those up to `messageId`. */
  read(messageId = this.#last.id) {
    const upTo = this._log.items.find((message) => message.message_id <= messageId)?.seq ?? 0;
    if (upTo <= this.#markerOf(this._core.userId)) return;
    this.#mark(this._core.userId, upTo);
    this.#read.id = Math.max(this.#read.id, messageId);
    this.#sendRead();
    this._changed();
  }

  /** The user types, or has stopped. Call it on every key: it sends only what is needed, and ends by itself. */
  type(isTyping = true) {
    this.#typing.type(isTyping);
  }

  /** Loads a page of older messages. */
  async loadOlder(limit = 50): Promise<Result<null>> {
    return this._log.loaded ? this._log.loadOlder(limit) : DONE;
  }

  /**
   * Ends one use: one call of `rt.conversation(id)`. After the last one, the conversation stays open for 5 s, so that
   * a page which comes back at once finds it. Messages that wait are still sent.
   */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.type(false);
    this.#linger = setTimeout(() => this._end(CLOSED), this._core.timing.linger);
  }

  /** Begins a use. @internal */
  _retain(): this {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }

  /** Fails what waits to be sent. With `forget`, nothing is shown any more. @internal */
  _abort(error: Failure, forget?: boolean) {
    this.#outbox._end(error, forget);
    if (forget) this._forget();
    this._end(error);
  }

  /** @internal */
  override _end(error: Failure) {
    if (this.state === 'closed') return;
    clearTimeout(this.#linger);
    this.#typing._leave();
    super._end(error);
    this.#outbox._follow(null);
    const { _conversations: open } = this._core;
    if (open.get(this.id) === this) open.delete(this.id);
  }

  /** @internal */
  _forget() {
    this._log.clear();
    this.#markers.clear();
    this.#readByAll = 0;
    this.#last = { seq: 0, id: 0 };
    this.#read = { id: 0, reported: 0, sending: false };
    this._late = [];
    this.info = null;
  }

  /** @internal */
  _after() {
    return this.#last.id;
  }

  /** @internal */
  protected async _load(): Promise<Result<unknown>> {
    const [info, page] = await Promise.all([this._loadInfo(), this._log.loaded ? DONE : this._log.loadOlder()]);
    if (!info.ok || !page.ok) return info.ok ? page : info;
    if (!this._log.loaded) return this._load(); // It was cleared meanwhile.
    this.info = info.data;
    const [newest] = this._log.items;
    if (newest) this.#last = { seq: newest.seq, id: newest.message_id };
    for (const message of this._log.items) this.#outbox._settle(message);
    this._showRead();
    this._core._connection._join(this.#typing);
    return info;
  }

  /** @internal */
  async _loadPage(before: number | null, limit: number): Promise<Result<Page<StoredMessage>>> {
    const page: Result<Page<WireMessage> & { changes?: number }> = await this._core._page(
      `${this.#path}/messages`,
      before,
      limit,
    );
    if (!page.ok) return page;
    const { items, next, changes } = page.data;
    if (!this._log.loaded) this._changes = changes;
    const stored = items.map((wire) => {
      this.#mark(wire.sender_id, wire.seq); // Sending moves the sender's marker, and no frame says so.
      return this.#storedOf(wire);
    });
    return { ok: true, data: { items: stored, next } };
  }

  /** @internal */
  _onEvent(frame: any) {
    if (frame.type === 'message') this.#onMessage(frame);
    else if (frame.type === 'read') {
      this.#mark(frame.user_id, frame.seq);
      this._showRead();
    } else if (frame.type === 'changed') {
      const { change, message } = frame;
      this._changes = change;
      // One that is not here comes with its page, which may be on its way from before the change.
      if (this._log._older || this._log.find(message.seq)) this._log.put([this.#storedOf(message)]);
    }
    this._changed();
  }

  #onMessage(wire: WireMessage) {
    const { seq, message_id: id, sender_id: sender } = wire;
    if (seq <= this.#last.seq) return this.#onRepeat(wire);
    // The server leaves no gap, but messages may have become too old to be kept while the client was away.
    if (seq > this.#last.seq + 1 && this.#last.seq > 0) return this._restart();
    const message = this.#storedOf(wire);
    this.#last = { seq, id };
    this.#mark(sender, seq);
    this._log.put([message]);
    this._showRead();
    if (message.mine) return this.#outbox._settle(message);
    this.#typing._stopped(sender);
    if (!message.deleted) this._arrived(message, () => this._emit('message', message));
  }

  /** A message with a known number: a repeated send, or the database was restored to an earlier time. */
  #onRepeat(wire: WireMessage) {
    const known = this._log.find(wire.seq);
    const own = wire.sender_id === this._core.userId && !!this.#outbox._find(wire.client_id);
    if (known ? known.message_id !== wire.message_id || known.created_at !== wire.created_at : !own) this._restart();
    else if (own) this.#outbox._settle(known ?? this.#storedOf(wire));
  }

  /** The message as it is now: that of the server, unless a later change of it is known. */
  #storedOf(wire: WireMessage & { type?: string }): StoredMessage {
    const { type: _, is_read: isRead, client_id, ...message } = wire;
    const mine = message.sender_id === this._core.userId;
    const known = this._log.find(message.seq);
    return {
      key: (mine && client_id) || `message-${message.message_id}`,
      ...message,
      ...(mine && client_id && { client_id }),
      mine,
      edited: !!message.edited_at,
      deleted: !!message.deleted_at,
      ...((known?.change ?? 0) > (message.change ?? 0) && known),
      state: !mine ? 'received' : isRead || message.seq <= this.#readByAll ? 'read' : 'sent',
    };
  }

  #markerOf(user: number | null): number {
    return this.#markers.get(user!) ?? 0;
  }

  /** Moves a marker, which only moves forward. */
  #mark(user: number | null, seq: number) {
    this.#markers.set(user!, Math.max(seq, this.#markerOf(user)));
  }

  /** How far all participants but one have read; Infinity: there are no others, or they are not known. @internal */
  _readByOthers(user: number | null): number {
    const others = this.info?.participants.filter((person) => person.user_id !== user) ?? [];
    return Math.min(...others.map((person) => this.#markerOf(person.user_id)));
  }

  /** Shows as read what every other participant has read. @internal */
  _showRead(upTo = this._readByOthers(this._core.userId)) {
    if (upTo <= this.#readByAll || upTo === Infinity) return;
    this.#readByAll = upTo;
    const sent = this._log.items.filter(({ state, seq }) => state === 'sent' && seq <= upTo);
    this._log.put(sent.map((message) => ({ ...message, state: 'read' })));
  }

  /** Reads the server's description, and the user's marker with it. @internal */
  async _loadInfo(): Promise<Result<ConversationInfo>> {
    const info: Result<ConversationInfo> = await this._core.get(this.#path);
    if (info.ok) this.#mark(this._core.userId, (info.data.last_message?.seq ?? 0) - info.data.unread_count);
    return info;
  }

  /** @internal */
  override _onJoined() {
    super._onJoined();
    this.#sendRead();
  }

  /** Sends the user's marker; again if the answer was lost. */
  async #sendRead() {
    const read = this.#read;
    if (read.sending || read.reported >= read.id || this.state !== 'live') return;
    read.sending = true;
    const upTo = read.id;
    const answer = await this._core._connection._publish(this._name, { type: 'read', message_id: upTo });
    read.sending = false;
    if (!answer.ok && answer.error.code === 'network') return; // Sent again after the next subscription.
    if (answer.ok || !(await this._core._again(answer.error, 1))) read.reported = upTo;
    this.#sendRead();
  }

  /** @internal */
  override _changed() {
    this.#messages = null;
    super._changed();
  }

  /** @internal */
  protected override _beforeChange() {
    this._emitLate(this._late);
    if (this.state === 'live') this._core._list?._follow(this);
  }
}
