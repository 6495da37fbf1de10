/** What the parts of a client share. */

import type { Connection } from './connection.js';
import { TEMPORARY } from './constants.js';
import type { Conversation } from './conversation.js';
import type { Http } from './http.js';
import { Outbox } from './outbox.js';
import type { Tokens } from './tokens.js';
import { Emitter } from './emitter.js';
import { randomId } from './ids.js';
import type { ConversationInfo, DraftStore, Failure, KeyValueStorage, Result, State, Timing } from './types.js';

/** Changes that the list of conversations follows. */
export interface ListFollower {
  /** Something happened in a conversation that is not open here. */
  onMoved(id: number): void;
  /** An open conversation changed. */
  onChange(id: number, change: Pick<ConversationInfo, 'last_message' | 'unread_count'>): void;
  /** Read states may have changed while the connection was lost. */
  onSettled(): void;
}

export class Core extends Emitter<{ state: State; error: Failure }> {
  readonly timing: Timing;
  readonly tokens: Tokens;
  readonly http: Http;
  readonly storage: KeyValueStorage | undefined;
  /** Identifies the server in the storage. */
  readonly base: string;
  connection!: Connection;
  readonly conversations = new Map<number, Conversation>();
  /** The unsent messages of each conversation that has any. */
  readonly outboxes = new Map<number, Outbox>();
  list: ListFollower | null = null;
  /** Where unsent messages are kept, if they are. */
  drafts: Promise<DraftStore> | null = null;
  /** The order of the last message that is kept. */
  order = Date.now();
  /** Identifies this client among the tabs of a browser. */
  readonly tab = randomId();

  constructor(base: string, timing: Timing, tokens: Tokens, http: Http, storage: KeyValueStorage | undefined) {
    super();
    this.base = base;
    this.timing = timing;
    this.tokens = tokens;
    this.http = http;
    this.storage = storage;
  }

  get userId(): number | null {
    return this.tokens.userId;
  }

  /** The unsent messages of a conversation. */
  outbox(id: number): Outbox {
    const outbox = this.outboxes.get(id) ?? new Outbox(this, id);
    this.outboxes.set(id, outbox);
    return outbox;
  }

  call(method: string, path: string, body?: object): Promise<Result<any>> {
    return this.http.call(method, path, body);
  }

  /** Repeats a call while that may help and it is wanted. */
  async repeat<T>(call: () => Promise<Result<T>>, wanted = () => true): Promise<Result<T>> {
    for (let attempt = 0; ; attempt += 1) {
      const answer = await call();
      if (answer.ok || !wanted() || !(await this.again(answer.error, attempt))) return answer;
    }
  }

  /** Waits until a call may be repeated. Returns false if that is no use. */
  async again(error: Failure, attempt: number): Promise<boolean> {
    const { connection } = this;
    if (connection.ended) return false;
    if (error.code === 'unauthorized') {
      // Nobody is signed in. `reconnect()` follows once a user is.
      await this.#nextState((state) => state === 'online');
      return !connection.ended;
    }
    if (!TEMPORARY.has(error.code)) return false;
    const wait = Math.max(error.retry_after_ms ?? 0, connection.backoff(attempt));
    let timer: ReturnType<typeof setTimeout>;
    const pause = new Promise<void>((resolve) => (timer = setTimeout(resolve, wait)));
    const woken = error.code === 'network' ? this.#nextState((state) => state === 'online') : this.#nextState(() => false);
    await Promise.race([pause, woken]);
    clearTimeout(timer!);
    return !connection.ended;
  }

  /** Resolves at the next state that is accepted, and at the end. */
  #nextState(accept: (state: State) => boolean): Promise<void> {
    return new Promise((resolve) => {
      const stop = this.on('state', (state) => {
        if (!accept(state) && !this.connection.ended) return;
        stop();
        resolve();
      });
    });
  }
}
