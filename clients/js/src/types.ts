/** The types of the client. Fields of messages and notifications have the names of the protocol. */

/**
 * Why something was not done. `code` is for programs: a code of the server (`message_too_long`, `rate_limited`,
 * `blocked`, `forbidden`, `unauthorized`, `unavailable`, …), or one of the client's own:
 *
 * - `network`: no answer from the server
 * - `no_websocket`: HTTP reaches the server, WebSockets do not; the client polls
 * - `origin_not_allowed`: the server answers, but not to pages of this origin (`ALLOWED_ORIGINS`)
 * - `token_failed`: the token callback failed
 * - `queue_full`: too many messages wait to be sent
 * - `not_sent`: a message can't be edited or deleted before it is stored
 * - `refused`: the server ended the connection for good
 * - `user_changed`: the token callback gave a token of another user
 * - `closed`: the page called `close()`
 */
export interface Failure {
  code: string;
  /** For people; may change. */
  detail: string;
  /** The time after which a retry may succeed. */
  retry_after_ms?: number;
  /** The close code of the socket, if it was closed. */
  close_code?: number;
  /** The reason that came with the close code. */
  close_reason?: string;
}

/** The result of a call. Calls never reject. */
export type Result<T> = { ok: true; data: T } | { ok: false; error: Failure };

/** A user of a conversation. */
export interface Person {
  user_id: number;
  username: string;
}

interface MessageBase extends Structure {
  /** The same before and after the message is stored: the key for lists. */
  key: string;
  sender_id: number;
  sender_username: string;
  /** Empty if the message is deleted. */
  content: string;
  /** RFC 3339; until the message is stored, by this machine's clock. */
  created_at: string;
  /** Present on the user's own messages. */
  client_id?: string;
  /** Whether the user sent it. */
  mine: boolean;
  /** Whether it was edited. `edited_at` has the time of the last edit. */
  edited: boolean;
  /** Whether it was deleted. It keeps its place, without its text. */
  deleted: boolean;
  /** Present if the marketplace itself sent it. Its sender is no participant. */
  system?: true;
}

/** What a message has beside its text. A plain message has none of these. */
export interface Structure {
  /** The kind of the message, one of `GET /api/kinds`. */
  kind?: string;
  /** Fits the schema of the kind. A deleted message has none. */
  data?: Record<string, any>;
  /** The message of the same conversation to which this one replies. */
  reply_to?: number;
}

/** How a message was changed. A message that never changed has none of these. */
export interface MessageChange {
  /** The number of its last change in the conversation. */
  change?: number;
  /** RFC 3339. */
  edited_at?: string;
  /** RFC 3339. */
  deleted_at?: string;
  /** `sender`, `moderation` or `erasure`. */
  deleted_by?: string;
}

/** A message that is stored: `received` from another user, `sent`, or `read` by every other participant. */
export interface StoredMessage extends MessageBase, MessageChange {
  state: 'received' | 'sent' | 'read';
  conversation_id: number;
  message_id: number;
  /** Its number in the conversation, from 1. */
  seq: number;
}

/** A message that is being sent, or waits for the connection. */
export interface PendingMessage extends MessageBase {
  state: 'sending';
  message_id: null;
  seq: null;
}

/** A message that was not sent. `retry` sends it again; `discard` removes it. */
export interface FailedMessage extends MessageBase {
  state: 'failed';
  message_id: null;
  seq: null;
  error: Failure;
}

/** A message of a conversation. A message that changed is a new object. */
export type Message = StoredMessage | PendingMessage | FailedMessage;

/** The outcome of a send. After `close()` of its conversation, the ids of a sent message are not known. */
export type SentMessage = StoredMessage | FailedMessage | (MessageBase & { state: 'sent'; message_id: null; seq: null });

/** A message as the server sends it. */
export interface WireMessage extends MessageChange, Structure {
  conversation_id: number;
  message_id: number;
  seq: number;
  sender_id: number;
  sender_username: string;
  content: string;
  created_at: string;
  is_read: boolean;
  client_id?: string;
  system?: true;
}

/** A user's own settings of a conversation, which nobody else sees. What is absent is not set. */
export interface OwnSettings {
  /** Until when it is muted: a time (RFC 3339), which may have passed, or `forever`. */
  muted_until?: string | undefined;
  archived?: boolean | undefined;
  pinned?: boolean | undefined;
}

/** A conversation as the server describes it to the user. */
export interface ConversationInfo extends OwnSettings {
  conversation_id: number;
  listing_id: number | null;
  title: string | null;
  created_at: string;
  participants: Person[];
  last_message: WireMessage | null;
  unread_count: number;
}

/** A notification. */
export interface Notification {
  type: string;
  notification_id: number;
  seq: number;
  title: string;
  message: string;
  data: any;
  created_at: string;
  is_read: boolean;
  unread_count: number;
  /** The number of those that are later than the last one that was seen. Absent if nothing was ever seen. */
  unseen_count?: number;
  /** The notification that this one replaces. */
  replaces?: number;
  /** RFC 3339. The list of notifications leaves archived ones out. */
  archived_at?: string;
}

/** `offline`: it tries again; `closed`: it does not. `rt.error` has the reason for both. */
export type State = 'connecting' | 'online' | 'offline' | 'closed';

/** `loading` until the first items are here, `live`, `waiting` for the connection, or `closed` for good. */
export type PartState = 'loading' | 'live' | 'waiting' | 'closed';

/** A token, or a response of the page's backend that contains one. */
export type TokenAnswer = string | Response | null | undefined;

/** Receives what the client does, for developers. `console` is one. */
export interface Logger {
  debug(text: string, ...details: unknown[]): void;
  warn(text: string, ...details: unknown[]): void;
}

/** The part of `localStorage` that the client uses. */
export interface KeyValueStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** An unsent message, as it is kept. */
export interface StoredDraft {
  client_id: string;
  /** The gateway's address. */
  base: string;
  user_id: number;
  conversation_id: number;
  content: string;
  /** What it has beside its text. */
  more?: Structure | undefined;
  created_at: string;
  /** Grows with each message that is sent. */
  order: number;
  /** The tab that sends it. */
  tab: string;
  /** Why it failed, if it did. */
  error?: Failure;
}

/** Keeps unsent messages. A `put` resolves once the message would survive a crash. */
export interface DraftStore {
  put(draft: StoredDraft): Promise<void>;
  delete(clientId: string): Promise<void>;
  list(): Promise<StoredDraft[]>;
}

/** Options of `connect`. */
export interface Options {
  /** The gateway's address, such as `https://rt.example.com`. A path before `/ws/` and `/api/` is kept. */
  url: string;
  /**
   * Gives the user's JWT: a string, or a `Response` with the token as text or as `token` or `access` in JSON. With
   * `refresh`, the last token has ended, ends soon or was refused, so a cached one won't do.
   *
   * `null`, or a response with 401 or 403, means that nobody is signed in: the client closes. If the callback throws,
   * or the response has any other error, the client tries again.
   */
  token: string | ((why: { refresh: boolean }) => TokenAnswer | Promise<TokenAnswer>);
  /** The user that the page is for. By default, the user of the first token. */
  userId?: number;
  /** In Node before 22: the class from the package `ws`. */
  WebSocket?: any;
  /** In place of the platform's `fetch`. */
  fetch?: typeof fetch;
  /**
   * Keeps unsent messages, so that they are sent although the page is closed or crashes: later, or by another tab.
   * `indexeddb`: in the browser.
   */
  persist?: 'indexeddb' | DraftStore;
  /** In place of `localStorage`, in which tabs agree which one shows a notification. */
  storage?: KeyValueStorage;
  /** Receives what the client does. */
  logger?: Logger;
  /** Times other than the default ones, in milliseconds. */
  timing?: Partial<Timing>;
}

/** Times, in milliseconds. */
export interface Timing {
  /** The first pause before a reconnect; each next one is twice as long. */
  backoff: number;
  /** The longest pause. */
  backoffMax: number;
  /** After this time, a connection counts as good, and pauses start anew. */
  stable: number;
  /** The longest pause after a restart of the server, so that not all clients return at once. */
  spread: number;
  /** The shortest pause after the server closed with 4429. */
  limited: number;
  /** The timeout of a handshake. */
  open: number;
  /** Silence after which the client pings the server. */
  idle: number;
  /** The timeout of an answer on the socket. The server answers within 5 s. */
  answer: number;
  /** The same, after a page came back into view. */
  probe: number;
  /** Once to twice this time after a subscription, read states are loaded again. */
  settle: number;
  /** The shortest time between two signs of typing; the server forgets a user 6 s after the last one. */
  typing: number;
  /** The timeout of an HTTP call. */
  http: number;
  /** Where WebSockets are blocked: the time between two polls. */
  poll: number;
  /** How long the client then polls before it tries a WebSocket again. */
  blocked: number;
  /** How long a conversation stays open after its last use ended. */
  linger: number;
  /** The shortest time between two `change` events. */
  frame: number;
}
