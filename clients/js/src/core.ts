/** What the parts of a client share. */

import { Connection } from './connection.js';
import { NO_ANSWER, TEMPORARY, TIMING, refused } from './constants.js';
import type { Conversation } from './conversation.js';
import { Http } from './http.js';
import type { Realtime } from './index.js';
import type { ConversationList } from './lists.js';
import { Outbox } from './outbox.js';
import type { Kept } from './persist.js';
import { Tokens } from './tokens.js';
import type { Failure, Options, Result, Timing } from './types.js';

/** The gateway's address without a slash at the end, for HTTP. Without `URL`, of which React Native has only a part. */
function baseOf(url: string): string {
  const absolute = /^\w+:/.test(url) ? url : new URL(url, globalThis.location?.href).href;
  return absolute.replace(/\/*([?#].*)?$/, '').replace(/^ws/, 'http');
}

export class Core {
  readonly _client: Realtime;
  readonly _options: Options;
  readonly timing: typeof TIMING & Partial<Timing>;
  /** The gateway's address. Identifies the server in the storage. */
  readonly _base: string;
  readonly _tokens: Tokens;
  readonly _http: Http;
  readonly _connection: Connection;
  readonly _conversations = new Map<number, Conversation>();
  /** The unsent messages of each conversation that has any. */
  readonly _outboxes = new Map<number, Outbox>();
  /** The list of conversations, once it is loaded. */
  _list: ConversationList | null = null;
  /** Keeps unsent messages, if the client has the option `persist`. */
  _kept: Promise<Kept> | null = null;

  constructor(client: Realtime, options: Options) {
    this._client = client;
    this._options = options;
    this._base = baseOf(options.url);
    this.timing = { ...TIMING, ...options.timing };
    this._tokens = new Tokens(this);
    this._http = new Http(this);
    this._connection = new Connection(this);
  }

  get userId(): number | null {
    return this._tokens.userId;
  }

  /** The unsent messages of a conversation. */
  _outbox(id: number): Outbox {
    const outbox = this._outboxes.get(id) ?? new Outbox(this, id);
    this._outboxes.set(id, outbox);
    return outbox;
  }

  get(path: string): Promise<Result<any>> {
    return this._http._call('GET', path);
  }

  /** A page of a list. */
  _page(path: string, before: number | null, limit: number): Promise<Result<any>> {
    return this.get(`${path}?limit=${limit}${before === null ? '' : `&before=${before}`}`);
  }

  /** A module that is loaded when it is needed. */
  _load<Module>(load: () => Promise<Module>): Promise<Result<Module>> {
    return this._repeat<Module>(() =>
      load().then(
        (data) => ({ ok: true, data }),
        () => refused(NO_ANSWER),
      ),
    );
  }

  /** The module of the lists. */
  _lists() {
    return this._load(() => import('./lists.js'));
  }

  /** Repeats a call while that may help and it is wanted. */
  async _repeat<T>(call: () => Promise<Result<T>>, wanted = () => true): Promise<Result<T>> {
    for (let attempt = 0; ; attempt += 1) {
      const answer = await call();
      if (answer.ok || !wanted() || !(await this._again(answer.error, attempt))) return answer;
    }
  }

  /** Waits until a call may be repeated. Returns false if that is no use. */
  async _again({ code, retry_after_ms: wait }: Failure, attempt: number): Promise<boolean> {
    const connection = this._connection;
    const signedOut = code === 'unauthorized'; // `reconnect()` follows once a user has signed in.
    if (connection._ended || !(signedOut || TEMPORARY.has(code))) return false;
    await new Promise<void>((resolve) => {
      const done = () => {
        stop();
        clearTimeout(timer);
        resolve();
      };
      const stop = this._client.on('state', (state) => {
        if (connection._ended || (state === 'online' && (signedOut || code === 'network'))) done();
      });
      const timer = signedOut ? 0 : setTimeout(done, connection._backoff(attempt, wait));
    });
    return !connection._ended;
  }
}
