/** The client of Vyzio Realtime for browsers, Node and React Native. README.md has its guide. */

import { CLOSED } from './constants.js';
import { Conversation } from './conversation.js';
import { Conversations } from './conversations.js';
import { Core } from './core.js';
import { Emitter } from './emitter.js';
import { idOf } from './ids.js';
import { Notifications } from './notifications.js';
import type { Failure, Options, Result, State } from './types.js';

export type * from './types.js';
export type { Conversation, ConversationEvents, ConversationSnapshot } from './conversation.js';
export type { Conversations, ConversationsSnapshot } from './conversations.js';
export type { InboxEvents, InboxSnapshot, Notifications } from './notifications.js';

/** The connection of one user. */
export class Realtime extends Emitter<{ state: State; error: Failure }> {
  /** @internal */
  readonly _core: Core;
  #notifications: Notifications | null = null;
  #list: Conversations | null = null;
  readonly #life = new AbortController();

  /** @internal */
  constructor(options: Options) {
    super();
    if (!(options.WebSocket ?? globalThis.WebSocket)) throw new TypeError('no option WebSocket');
    const core = (this._core = new Core(this, options));
    if (options.persist) core._kept = import('./persist.js').then(({ keep }) => keep(core, this.#life.signal));
    this.#watchPage();
  }

  /** `connecting`, `online`, `offline` (it tries again) or `closed` (it does not). */
  get state(): State {
    return this._core._connection.state;
  }

  /** Why it is offline or closed. */
  get error(): Failure | null {
    return this._core._connection.error;
  }

  /** The user, as the server names it; before that, as the token does. `null`: not known yet. */
  get userId(): number | null {
    return this._core.userId;
  }

  /**
   * Opens a conversation, or returns the open one. Each call is a use; end it with `close()`.
   *
   * @throws {RangeError} if this is not an id
   */
  conversation(id: number | string): Conversation {
    const { _conversations: conversations } = this._core;
    const key = idOf(id);
    const conversation = conversations.get(key) ?? new Conversation(this._core, key);
    conversations.set(key, conversation);
    return conversation._retain();
  }

  /** The user's notifications. */
  notifications(): Notifications {
    if (!this.#notifications || this.#notifications.state === 'closed') this.#notifications = new Notifications(this._core);
    return this.#notifications;
  }

  /** The list of the user's conversations. */
  conversations(): Conversations {
    this.notifications(); // They show where something happens.
    return (this.#list ??= new Conversations(this._core));
  }

  /** What is open, without opening anything: for `@vyzio/realtime/react`. @internal */
  get opened() {
    return {
      conversation: (id: number) => this._core._conversations.get(id) ?? null,
      notifications: this.#notifications,
      conversations: this.#list,
    };
  }

  /** Calls the HTTP API, for example `call('GET', '/api/unread')`. Never rejects. */
  call(method: string, path: string, body?: object): Promise<Result<any>> {
    return this._core._http._call(method, path, body);
  }

  /** Tries now rather than later; also after the server refused the connection. */
  reconnect() {
    this._core._connection._wake();
  }

  /** Ends everything, and forgets the unsent messages of this user that the option `persist` has kept. */
  async signOut(): Promise<void> {
    this._end(CLOSED, true);
    await (await this._core._kept)?.forget();
  }

  /** Ends everything. */
  close() {
    this._end(CLOSED);
  }

  /** Ends everything. With `forget`, nothing of the user's is sent or shown any more. @internal */
  _end(error: Failure, forget?: boolean) {
    const { _connection: connection, _conversations: conversations } = this._core;
    if (connection._ended) return;
    this.#life.abort();
    connection.close(error);
    for (const conversation of [...conversations.values()]) conversation._abort(error, forget);
    this.#notifications?._end(error);
    if (!forget) return;
    this.#notifications?._forget();
    this._core._list?.clear();
  }

  /** The server named another user than the token had claimed. @internal */
  _restart() {
    for (const conversation of this._core._conversations.values()) conversation._restart();
    this.#notifications?._restart();
    this._core._list?.clear();
    this.#list?.reload();
  }

  /** Follows the network and the visibility of the page, if there is one. */
  #watchPage() {
    if (!globalThis.document) return;
    const listen = addEventListener;
    const connection = this._core._connection;
    const life = this.#life; // Listeners end with its signal.
    const wake = () => connection.state !== 'closed' && connection._wake();
    listen('online', wake, life);
    listen('offline', () => connection._lose('offline'), life);
    listen('pagehide', () => connection._pause(), life);
    listen('pageshow', wake, life);
    // For the user's presence. And after a sleep of the machine, a socket that seems open may be dead. A page that is hidden
    // opens none: it may be on its way into the cache of the back button.
    listen('visibilitychange', () => (document.hidden ? connection._look() : wake()), life);
  }
}

/** Connects a user. The client reconnects until it is closed, by the page or for good by the server. */
export function connect(options: Options): Realtime {
  return new Realtime(options);
}
