/** What conversations and notifications share: a page, then a subscription from there on. */

import type { Channel } from './connection.js';
import type { Core } from './core.js';
import { Observable } from './emitter.js';
import type { Failure, PartState, Result } from './types.js';

/** An entry this much older than the subscription is late: clocks of servers differ a little. */
const LATE = 1_000;

export abstract class Feed<Events extends { change: void }, Snapshot extends object, Item> extends Observable<Events, Snapshot> {
  /** `loading` until the first items are here, `live`, `waiting` for the connection, or `closed` for good. */
  state: PartState = 'loading';
  /** Why it is closed. */
  error: Failure | null = null;
  /** @internal */
  protected readonly core: Core;
  /** @internal */
  protected readonly channel: Channel;
  /** Entries that arrived late, for the event `missed`. @internal */
  protected late: Item[] = [];
  /** The server's time of the subscription. */
  #joinedAt = 0;

  /** @internal */
  constructor(core: Core, name: string) {
    super(core.timing.frame);
    this.core = core;
    this.channel = {
      name,
      after: () => this.last(),
      onEvent: (frame) => this.onEvent(frame),
      onJoined: () => {
        this.#joinedAt = core.tokens.serverTime() ?? 0;
        this.become('live');
        this.onJoined();
      },
      onRefresh: () => this.state === 'live' && this.onRefresh(),
      onLost: () => this.state === 'live' && this.become('waiting'),
      onRefused: (error) => this.end(error),
    };
  }

  /** The id after which to resume. @internal */
  protected abstract last(): number;
  /** @internal */
  protected abstract onEvent(frame: any): void;
  /** @internal */
  protected abstract onJoined(): void;
  /** Reads what events tell, but polls do not. @internal */
  protected abstract onRefresh(): void;
  /** Loads what a subscription continues. @internal */
  protected abstract load(): Promise<Result<unknown>>;
  /** Shows nothing more. @internal */
  protected abstract forget(): void;

  /** Loads, then subscribes from there on: nothing is lost in between. @internal */
  protected async start() {
    const { connection, tokens } = this.core;
    if (connection.ended) return this.end(connection.error!);
    await tokens.known(); // It decides which messages are the user's own.
    const loaded = await this.core.repeat(() => this.load(), () => this.state === 'loading');
    if (this.state !== 'loading') return;
    if (!loaded.ok) return this.end(loaded.error);
    this.become('waiting');
    connection.join(this.channel);
  }

  /** Loads everything again: the log went back, or the user is another one. @internal */
  restart() {
    const { state } = this;
    if (state === 'closed') return;
    this.core.connection.leave(this.channel);
    this.forget();
    if (state === 'loading') return;
    this.become('loading');
    this.start();
  }

  /** Ends it. @internal */
  end(error: Failure) {
    if (this.state === 'closed') return;
    this.core.connection.leave(this.channel);
    this.become('closed', error);
  }

  /** Whether an entry is from before the subscription. @internal */
  protected isLate(createdAt: string): boolean {
    return Date.parse(createdAt) < this.#joinedAt - LATE;
  }

  /** @internal */
  protected become(state: PartState, error: Failure | null = null) {
    this.state = state;
    this.error = error;
    this.changed();
  }
}
