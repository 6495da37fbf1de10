/** Which participants of a conversation are online, for pages that import it. */

import { CLOSED } from './constants.js';
import type { Core } from './core.js';
import { Observable } from './emitter.js';
import { idOf } from './ids.js';
import type { Realtime } from './index.js';
import type { Failure } from './types.js';

/** Whether a user is online. */
export interface PersonPresence {
  user_id: number;
  online: boolean;
  /**
   * When the user was last online, to 5 minutes (RFC 3339). Absent if the user is online, hides, or was never seen, and if one
   * of the two blocks the other.
   */
  last_seen?: string;
}

/** The presence in a conversation at one moment. */
export interface PresenceSnapshot {
  /** The other participants, by id; empty until they are known, and without a connection. */
  people: readonly PersonPresence[];
  /** Why nothing is known: presence is switched off, or the conversation has too many people (`invalid_request`). */
  error: Failure | null;
}

/** The presence of the other participants of a conversation: a `Channel`. */
export class Presence extends Observable<{ change: void }, PresenceSnapshot> {
  people: readonly PersonPresence[] = Object.freeze([]);
  error: Failure | null = null;
  /** @internal */
  readonly _name: string;
  #uses = 0;
  #linger: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(core: Core, id: number) {
    super(core, ['people', 'error']);
    this._name = `presence/${id}`;
    core._connection._join(this);
  }

  /** The presence of one participant; undefined while it is not known. */
  of(userId: number): PersonPresence | undefined {
    return this.people.find((person) => person.user_id === userId);
  }

  /** Ends one use: one call of `presenceOf`. After the last one, it stays open for 5 s, as a conversation does. */
  close() {
    if (this.#uses === 0 || --this.#uses > 0) return;
    this.#linger = setTimeout(() => {
      this._core._connection._leave(this);
      this._end(CLOSED);
    }, this._core.timing.linger);
  }

  /** Begins a use. @internal */
  _retain(): this {
    clearTimeout(this.#linger);
    this.#uses += 1;
    return this;
  }

  /** @internal */
  _onEvent({ user_id, online, last_seen }: PersonPresence) {
    const person = { user_id, online, ...(last_seen && { last_seen }) };
    this.#show([...this.people.filter((other) => other.user_id !== user_id), person].sort((a, b) => a.user_id - b.user_id));
  }

  /** The frames after a subscription are the complete state. @internal */
  _onLost() {
    this.#show([]);
  }

  /** @internal */
  _end(error: Failure) {
    this.error = error;
    this.#show([]);
  }

  #show(people: PersonPresence[]) {
    this.people = Object.freeze(people);
    this._changed();
  }
}

/** The presence of a conversation, if it is open. @internal */
export function openPresence({ _core: core }: Realtime, id: number): Presence | null {
  // The subscription is the same for all who ask, also from another copy of this module.
  return (core._connection._channels.get(`presence/${id}`) as Presence | undefined) ?? null;
}

/**
 * The presence of the other participants of a conversation, which need not be open. Each call is a use; end it with
 * `close()`.
 *
 * @throws {RangeError} if this is not an id
 */
export function presenceOf(rt: Realtime, id: number | string): Presence {
  const key = idOf(id);
  return (openPresence(rt, key) ?? new Presence(rt._core, key))._retain();
}
