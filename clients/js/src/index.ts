/** The client of Vyzio Realtime for browsers, Node and React Native. README.md has its guide. */

import { Connection } from './connection.js';
import { CLOSED, TIMING, USER_CHANGED } from './constants.js';
import { Conversation } from './conversation.js';
import { Conversations } from './conversations.js';
import { Core } from './core.js';
import { Emitter } from './emitter.js';
import { Http } from './http.js';
import { idOf } from './ids.js';
import { Notifications } from './notifications.js';
import { Tokens } from './tokens.js';
import type { Failure, Options, Result, State, StoredDraft } from './types.js';

export type * from './types.js';
export type { Conversation, ConversationEvents, ConversationSnapshot } from './conversation.js';
export type { Conversations, ConversationsSnapshot } from './conversations.js';
export type { InboxEvents, InboxSnapshot, Notifications } from './notifications.js';

/** The gateway's address without a slash at the end, for HTTP. Without `URL`, of which React Native has only a part. */
function baseOf(url: string): string {
  const absolute = /^(http|ws)s?:\/\//.test(url) ? url : new URL(url, globalThis.location?.href).href;
  return absolute.replace(/[?#].*$/, '').replace(/^ws/, 'http').replace(/\/+$/, '');
}

/** The storage of the browser, unless it is forbidden. */
function browserStorage(): Storage | undefined {
  try {
    return globalThis.document && globalThis.localStorage;
  } catch {
    return undefined;
  }
}

/** The connection of one user. */
export class Realtime extends Emitter<{ state: State; error: Failure }> {
  readonly #core: Core;
  #notifications: Notifications | null = null;
  #list: Conversations | null = null;
  #stops: (() => void)[] = [];

  /** @internal */
  constructor(options: Options) {
    super();
    const { WebSocket = globalThis.WebSocket, logger } = options;
    if (!WebSocket) throw new TypeError('this platform has no WebSocket: pass one as an option');
    const fetch = options.fetch ?? ((...request: Parameters<typeof globalThis.fetch>) => globalThis.fetch(...request));
    const timing = { ...TIMING, ...options.timing };
    const base = baseOf(options.url);
    const tokens = new Tokens(options, timing.http, () => this.#userChanged());
    const http = new Http(base, tokens, fetch, timing.http);
    const core = (this.#core = new Core(base, timing, tokens, http, options.storage ?? browserStorage()));
    core.connection = new Connection({
      url: `${base.replace(/^http/, 'ws')}/ws/`, tokens, WebSocket, timing, ...(logger && { logger }),
      onState: (state) => {
        core.emit('state', state);
        this.emit('state', state);
      },
      onError: (error) => this.emit('error', error),
      onIdentity: (corrected) => corrected && this.#restart(),
      diagnose: () => http.diagnose(),
      poll: async () => (await import('./poll.js')).pollSocket(http, timing),
    });
    this.#watchPage();
    if (options.persist) this.#persist(options.persist);
  }

  /** `connecting`, `online`, `offline` (it tries again) or `closed` (it does not). */
  get state(): State {
    return this.#core.connection.state;
  }

  /** Why it is offline or closed. */
  get error(): Failure | null {
    return this.#core.connection.error;
  }

  /** The user, as the server names it; before that, as the token does. `null`: not known yet. */
  get userId(): number | null {
    return this.#core.userId;
  }

  /**
   * Opens a conversation, or returns the open one. Each call is a use; end it with `close()`.
   *
   * @throws {RangeError} if this is not an id
   */
  conversation(id: number | string): Conversation {
    const { conversations } = this.#core;
    const known = conversations.get(idOf(id));
    if (known && known.state !== 'closed') return known.retain();
    const opened = new Conversation(this.#core, idOf(id));
    conversations.set(opened.id, opened);
    return opened.retain();
  }

  /** The user's notifications. */
  notifications(): Notifications {
    if (!this.#notifications || this.#notifications.state === 'closed') this.#notifications = new Notifications(this.#core);
    return this.#notifications;
  }

  /** The list of the user's conversations. */
  conversations(): Conversations {
    this.notifications(); // They show where something happens.
    if (!this.#list) this.#core.list = this.#list = new Conversations(this.#core);
    return this.#list;
  }

  /** What is open, without opening anything: for `@vyzio/realtime/react`. @internal */
  get opened() {
    return {
      conversation: (id: number) => this.#core.conversations.get(id) ?? null,
      notifications: this.#notifications,
      conversations: this.#list,
    };
  }

  /** Calls the HTTP API, for example `call('GET', '/api/unread')`. Never rejects. */
  call(method: string, path: string, body?: object): Promise<Result<any>> {
    return this.#core.call(method, path, body);
  }

  /** Tries now rather than later; also after the server refused the connection. */
  reconnect() {
    this.#core.connection.wake();
  }

  /** Ends everything, and forgets the unsent messages of this user that the option `persist` has kept. */
  async signOut(): Promise<void> {
    const { drafts, userId, base } = this.#core;
    this.#end(CLOSED, true);
    const store = await drafts;
    const kept = (await store?.list()) ?? [];
    const own = kept.filter((draft) => draft.base === base && draft.user_id === userId);
    await Promise.all(own.map((draft) => store!.delete(draft.client_id)));
  }

  /** Keeps unsent messages, and sends those of tabs that are gone. */
  async #persist(option: NonNullable<Options['persist']>) {
    const core = this.#core;
    const loading = import('./persist.js');
    core.drafts = loading.then(({ storeOf }) => storeOf(option));
    const ended = new Promise<void>((resolve) => this.#stops.push(resolve));
    await core.tokens.known();
    const restore = (drafts: StoredDraft[]) => {
      for (const draft of drafts) core.outbox(draft.conversation_id).restore([draft]);
    };
    const { adopt } = await loading;
    await adopt(await core.drafts, core.tab, { base: core.base, userId: core.userId!, restore, ended });
  }

  /** Ends everything. */
  close() {
    this.#end(CLOSED, false);
  }

  /** The token callback gave a token of another user: nothing of the first user's may be sent or shown. */
  #userChanged() {
    this.#end(USER_CHANGED, true);
  }

  #end(error: Failure, forget: boolean) {
    const { connection, conversations } = this.#core;
    if (connection.ended) return;
    for (const stop of this.#stops.splice(0)) stop();
    connection.close(error);
    for (const conversation of [...conversations.values()]) conversation.abort(error, forget);
    this.#notifications?.end(error);
    if (!forget) return;
    this.#notifications?.forget();
    this.#list?.forget();
  }

  /** The server named another user than the token had claimed. */
  #restart() {
    for (const conversation of [...this.#core.conversations.values()]) conversation.restart();
    this.#notifications?.restart();
    this.#list?.forget();
    this.#list?.reload();
  }

  /** Follows the network and the visibility of the page, if there is one. */
  #watchPage() {
    const { document, window } = globalThis;
    if (!document || !window?.addEventListener) return;
    const watch = (target: EventTarget, type: string, listener: () => void) => {
      target.addEventListener(type, listener);
      this.#stops.push(() => target.removeEventListener(type, listener));
    };
    const { connection } = this.#core;
    const wake = () => connection.state !== 'closed' && connection.wake();
    watch(window, 'online', wake);
    watch(window, 'offline', () => connection.offline());
    watch(window, 'pagehide', () => connection.pause());
    watch(window, 'pageshow', () => connection.paused && wake());
    // After a sleep of the machine, a socket that seems open may be dead.
    watch(document, 'visibilitychange', () => document.visibilityState === 'visible' && wake());
  }
}

/** Connects a user. The client reconnects until it is closed, by the page or for good by the server. */
export function connect(options: Options): Realtime {
  return new Realtime(options);
}
