/** A conversation: its messages, who has read them, and who is typing. */

import { CLOSED, DONE } from './constants.js';
import type { Core } from './core.js';
import { Feed } from './feed.js';
import type { Outbox } from './outbox.js';
import { Pager } from './pager.js';
import { Typing } from './typing.js';
import type {
  ConversationInfo, Failure, Message, PartState, Person, Result, SentMessage, StoredMessage, WireMessage,
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
  readonly #typing: Typing;
  readonly #log: Pager<StoredMessage>;
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
    super(core, `chat/${id}`);
    this.id = id;
    const changed = () => this.changed();
    this.#log = new Pager({
      id: ({ seq }) => seq,
      compare: (a, b) => b.seq - a.seq,
      cursor: ({ message_id }) => message_id,
      load: (before, limit) => this.#loadPage(before, limit),
      onChange: changed,
    });
    this.#typing = new Typing(core.connection, id, core.timing.typing, changed);
    this.#outbox = core.outbox(id);
    this.#outbox.follow(changed);
    this.start();
  }

  /** Oldest first; messages that are being sent come last. The same array until it changes. */
  get messages(): readonly Message[] {
    return (this.#messages ??= Object.freeze(this.#merge()));
  }

  #merge(): Message[] {
    // Without `info`, the markers are unknown, so a page would be shown with a wrong unread count.
    const stored = this.info ? [...this.#log.items].reverse() : [];
    const unsent = this.#outbox.messages;
    if (!unsent.length) return stored;
    const keys = new Set(stored.map(({ key }) => key));
    return [...stored, ...unsent.filter(({ key }) => !keys.has(key))];
  }

  /** The other users who are typing. */
  get typists(): readonly Person[] {
    return this.#typing.typists;
  }

  /** The number of messages that the user has not read. */
  get unread(): number {
    return Math.max(0, this.#last.seq - this.#markerOf(this.core.userId));
  }

  /** Whether there are older messages to load. */
  get hasOlder(): boolean {
    return this.#log.hasOlder;
  }

  /**
   * Sends a message. It is in `messages` at once; without a connection, it is sent once there is one.
   *
   * Resolves to the message once it is `sent` or `failed`; never rejects.
   */
  send(text: string): Promise<SentMessage> {
    this.type(false);
    return this.#outbox.send(text);
  }

  /** Sends a failed message again; it can't be stored twice. `null`: no such message has failed. */
  retry(key: string): Promise<SentMessage> | null {
    return this.#outbox.retry(key);
  }

  /** Removes a message that failed. */
  discard(key: string) {
    this.#outbox.discard(key);
  }

  /** The user has read all messages, or those up to `messageId`. */
  read(messageId = this.#last.id) {
    const upTo = this.#log.items.find((message) => message.message_id <= messageId)?.seq ?? 0;
    if (upTo <= this.#markerOf(this.core.userId)) return;
    this.#mark(this.core.userId, upTo);
    this.#read.id = Math.max(this.#read.id, messageId);
    this.#sendRead();
    this.changed();
  }

  /** The user types, or has stopped. Call it on every key: it sends only what is needed, and ends by itself. */
  type(isTyping = true) {
    this.#typing.type(isTyping);
  }

  /** Loads a page of older messages. */
  async loadOlder(limit = 50): Promise<Result<null>> {
    return this.#log.loaded ? this.#log.loadOlder(limit) : DONE;
  }

  /**
   * Ends one use: one call of `rt.conversation(id)`. After the last one, the conversation stays open for 5 s, so that
   * a page which comes back at once finds it. Messages that wait are still sent.
   */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.type(false);
    this.#linger = setTimeout(() => this.end(CLOSED), this.core.timing.linger);
  }

  /** Begins a use. @internal */
  retain(): this {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }

  /** Fails what waits to be sent. With `forget`, nothing is shown any more. @internal */
  abort(error: Failure, forget: boolean) {
    this.#outbox.end(error, forget);
    if (forget) this.forget();
    this.end(error);
  }

  /** @internal */
  override end(error: Failure) {
    if (this.state === 'closed') return;
    clearTimeout(this.#linger);
    this.#typing.leave();
    super.end(error);
    this.#outbox.follow(null);
    if (this.core.conversations.get(this.id) === this) this.core.conversations.delete(this.id);
  }

  /** @internal */
  protected forget() {
    this.#log.clear();
    this.#markers.clear();
    this.#readByAll = 0;
    this.#last = { seq: 0, id: 0 };
    this.#read = { id: 0, reported: 0, sending: false };
    this.late = [];
    this.info = null;
  }

  /** @internal */
  protected last() {
    return this.#last.id;
  }

  /** @internal */
  protected async load(): Promise<Result<unknown>> {
    const [info, page] = await Promise.all([
      this.#loadInfo(),
      this.#log.loaded ? DONE : this.#log.loadOlder(),
    ]);
    if (!info.ok || !page.ok) return info.ok ? page : info;
    if (!this.#log.loaded) return this.load(); // It was cleared meanwhile.
    this.info = info.data;
    const [newest] = this.#log.items;
    if (newest) this.#last = { seq: newest.seq, id: newest.message_id };
    for (const message of this.#log.items) this.#outbox.settle(message);
    this.#showRead();
    this.#typing.join();
    return info;
  }

  async #loadPage(before: number | null, limit: number) {
    const cursor = before === null ? '' : `&before=${before}`;
    const page = await this.core.call('GET', `/api/conversations/${this.id}/messages?limit=${limit}${cursor}`);
    if (!page.ok) return page;
    // Sending moves the sender's marker, and no frame says so.
    for (const { sender_id: sender, seq } of page.data.items) this.#mark(sender, seq);
    const items = page.data.items.map((wire: WireMessage) => this.#storedOf(wire));
    return { ok: true as const, data: { items, next: page.data.next } };
  }

  /** @internal */
  protected onEvent(frame: any) {
    if (frame.type === 'message') this.#onMessage(frame);
    else if (frame.type === 'read') {
      this.#mark(frame.user_id, frame.seq);
      this.#showRead();
    }
    this.changed();
  }

  #onMessage(wire: WireMessage) {
    const { seq, message_id: id, sender_id: sender } = wire;
    if (seq <= this.#last.seq) return this.#onRepeat(wire);
    if (seq > this.#last.seq + 1 && this.#last.seq > 0) {
      // The server leaves no gap. If it did, a new subscription would close it.
      this.core.connection.leave(this.channel);
      return this.core.connection.join(this.channel);
    }
    const message = this.#storedOf(wire);
    this.#last = { seq, id };
    this.#mark(sender, seq);
    this.#log.put([message]);
    this.#showRead();
    if (message.mine) return this.#outbox.settle(message);
    this.#typing.ended(sender);
    if (this.isLate(wire.created_at)) this.late.push(message);
    else this.emit('message', message);
  }

  /** A message with a known number: a repeated send, or the database was restored to an earlier time. */
  #onRepeat(wire: WireMessage) {
    const known = this.#log.find(wire.seq);
    const own = this.#isMine(wire) && this.#outbox.has(wire.client_id);
    if (known ? known.message_id !== wire.message_id || known.created_at !== wire.created_at : !own) this.restart();
    else if (own) this.#outbox.settle(known ?? this.#storedOf(wire));
  }

  #isMine(wire: WireMessage): boolean {
    return wire.sender_id === this.core.userId;
  }

  #storedOf(wire: WireMessage): StoredMessage {
    const { message_id, seq, sender_id, sender_username, content, created_at, client_id } = wire;
    const mine = this.#isMine(wire);
    if (mine && wire.is_read) this.#readByAll = Math.max(this.#readByAll, seq);
    return {
      key: (mine && client_id) || `message-${message_id}`, message_id, seq, sender_id, sender_username, content,
      created_at, ...(mine && client_id && { client_id }), mine,
      state: !mine ? 'received' : seq <= this.#readByAll ? 'read' : 'sent',
    };
  }

  #wireOf({ key: _, mine, state, ...message }: StoredMessage): WireMessage {
    const others = this.info?.participants.filter((person) => person.user_id !== message.sender_id) ?? [];
    const isRead = mine ? state === 'read' : others.every((person) => this.#markerOf(person.user_id) >= message.seq);
    return { conversation_id: this.id, ...message, is_read: isRead };
  }

  #markerOf(user: number | null): number {
    return this.#markers.get(user!) ?? 0;
  }

  /** Moves a marker, which only moves forward. */
  #mark(user: number | null, seq: number) {
    this.#markers.set(user!, Math.max(seq, this.#markerOf(user)));
  }

  /** Shows as read what every other participant has read. */
  #showRead() {
    const others = this.info?.participants.filter((person) => person.user_id !== this.core.userId) ?? [];
    if (!others.length) return;
    const read = Math.min(...others.map((person) => this.#markerOf(person.user_id)));
    if (read <= this.#readByAll) return;
    this.#readByAll = read;
    this.#showReadByAll();
  }

  #showReadByAll() {
    this.#log.update((message) =>
      message.state === 'sent' && message.seq <= this.#readByAll ? { ...message, state: 'read' } : message);
  }

  /** @internal */
  protected async onRefresh() {
    const [info, page] = await Promise.all([this.#loadInfo(), this.#loadPage(null, 50)]);
    if (!info.ok || !page.ok || this.state !== 'live') return;
    this.#showReadByAll();
    this.changed();
  }

  /** Reads the server's description, and the user's marker with it. */
  async #loadInfo(): Promise<Result<ConversationInfo>> {
    const info: Result<ConversationInfo> = await this.core.call('GET', `/api/conversations/${this.id}`);
    if (info.ok) this.#mark(this.core.userId, (info.data.last_message?.seq ?? 0) - info.data.unread_count);
    return info;
  }

  /** @internal */
  protected onJoined() {
    this.#sendRead();
  }

  /** Sends the user's marker; again if the answer was lost. */
  async #sendRead() {
    const read = this.#read;
    if (read.sending || read.reported >= read.id || this.state !== 'live') return;
    read.sending = true;
    const upTo = read.id;
    const data = { type: 'read', message_id: upTo };
    const answer = await this.core.connection.request({ op: 'send', channel: this.channel.name, data });
    read.sending = false;
    if (answer.ok) read.reported = upTo;
    else if (answer.error.code === 'network') return; // Sent again after the next subscription.
    else if (!(await this.core.again(answer.error, 1))) read.reported = upTo;
    this.#sendRead();
  }

  /** @internal */
  protected describe(): ConversationSnapshot {
    const { id, state, error, info, messages, typists, unread, hasOlder } = this;
    return { id, state, error, info, messages, typists, unread, hasOlder };
  }

  /** @internal */
  protected override changed() {
    this.#messages = null;
    super.changed();
  }

  /** @internal */
  protected override beforeChange() {
    const late = this.late.splice(0);
    if (late.length) this.emit('missed', Object.freeze(late));
    if (this.state !== 'live') return;
    const [last] = this.#log.items;
    this.core.list?.onChange(this.id, { last_message: last ? this.#wireOf(last) : null, unread_count: this.unread });
  }
}
