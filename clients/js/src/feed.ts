/** What conversations and notifications share: a page, then a subscription (a `Channel`) from there on. */

import type { Core } from './core.js';
import { Observable } from './emitter.js';
import type { Failure, PartState, Result } from './types.js';

/** An entry this much older than the subscription is late: clocks of servers differ a little. */
const LATE = 1_000;

interface FeedEvents<Item> {
  change: void;
  missed: readonly Item[];
}

export abstract class Feed<
  Events extends FeedEvents<Item>,
  Snapshot extends object,
  Item extends { created_at: string },
> extends Observable<Events, Snapshot> {
  /** `loading` until the first items are here, `live`, `waiting` for the connection, or `closed` for good. */
  state: PartState = 'loading';
  /** Why it is closed. */
  error: Failure | null = null;
  /** @internal */
  readonly _name: string;
  /** Entries that arrived late, for the event `missed`. @internal */
  protected _late: Item[] = [];
  /** The server's time of the subscription. */
  #joinedAt = 0;

  /** `fields`: those of its snapshot that not every feed has. @internal */
  constructor(core: Core, name: string, fields: readonly string[]) {
    super(core, [...fields, 'state', 'error', 'unread', 'hasOlder'] as (keyof Snapshot)[]);
    this._name = name;
  }

  /** @internal */
  abstract _after(): number;
  /** @internal */
  abstract _onEvent(frame: any): void;
  /** Loads what a subscription continues. @internal */
  protected abstract _load(): Promise<Result<unknown>>;
  /** Shows nothing more. @internal */
  abstract _forget(): void;

  /** @internal */
  _onJoined() {
    this.#joinedAt = this._core._tokens._serverTime();
    this._become('live');
  }

  /** @internal */
  _onLost() {
    if (this.state === 'live') this._become('waiting');
  }

  /** Loads, then subscribes from there on: nothing is lost in between. @internal */
  protected async _start() {
    const { _connection: connection, _tokens: tokens } = this._core;
    if (connection._ended) return this._end(connection.error!);
    await tokens._known; // It decides which messages are the user's own.
    const loaded = await this._core._repeat(
      () => this._load(),
      () => this.state === 'loading',
    );
    if (this.state !== 'loading') return;
    if (!loaded.ok) return this._end(loaded.error);
    this._become('waiting');
    connection._join(this);
  }

  /** Loads everything again: the log went back, or the user is another one. @internal */
  _restart() {
    const { state } = this;
    if (state === 'closed') return;
    this._core._connection._leave(this);
    this._forget();
    if (state === 'loading') return;
    this._become('loading');
    this._start();
  }

  /** Ends it. @internal */
  _end(error: Failure) {
    if (this.state === 'closed') return;
    this._core._connection._leave(this);
    this._become('closed', error);
  }

  /** Announces a new entry; one from before the subscription later, together with others. @internal */
  _arrived(entry: Item, announce: () => void) {
    if (Date.parse(entry.created_at) < this.#joinedAt - LATE) this._late.push(entry);
    else announce();
  }

  /** @internal */
  protected _emitLate(entries: Item[]) {
    this._late = [];
    if (entries.length) this._emit('missed', Object.freeze(entries) as Events['missed']);
  }

  /** @internal */
  protected _become(state: PartState, error: Failure | null = null) {
    this.state = state;
    this.error = error;
    this._changed();
  }
}
