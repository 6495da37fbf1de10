/** Who is typing in a conversation. */

import type { Channel, Connection } from './connection.js';
import { monotonic } from './tokens.js';
import type { Person } from './types.js';

export class Typing {
  /** The other users who are typing. A new array after each change. */
  typists: readonly Person[] = [];
  readonly #connection: Connection;
  readonly #interval: number;
  readonly #onChange: () => void;
  readonly #channel: Channel;
  #sentAt = -Infinity;

  /** `interval`: the shortest time between two signs of typing. */
  constructor(connection: Connection, id: number, interval: number, onChange: () => void) {
    this.#connection = connection;
    this.#interval = interval;
    this.#onChange = onChange;
    this.#channel = {
      name: `typing/${id}`,
      onEvent: ({ user_id, username, is_typing: isTyping }) => {
        const others = this.typists.filter((person) => person.user_id !== user_id);
        this.#show(isTyping ? [...others, { user_id, username }] : others);
      },
      onJoined: () => (this.#sentAt = -Infinity),
      onLost: () => this.#show([]),
    };
  }

  join() {
    this.#connection.join(this.#channel);
  }

  leave() {
    this.type(false);
    this.#connection.leave(this.#channel);
    this.#show([]);
  }

  /** The user types, or has stopped. */
  type(isTyping: boolean) {
    const now = monotonic();
    if (isTyping ? now - this.#sentAt < this.#interval : this.#sentAt === -Infinity) return;
    const sent = this.#connection.send({ op: 'send', channel: this.#channel.name, data: { is_typing: isTyping } });
    this.#sentAt = isTyping && sent ? now : -Infinity;
  }

  /** A message of this user has arrived, which ends the typing. */
  ended(userId: number) {
    this.#show(this.typists.filter((person) => person.user_id !== userId));
  }

  #show(typists: readonly Person[]) {
    if (!typists.length && !this.typists.length) return;
    this.typists = Object.freeze([...typists]);
    this.#onChange();
  }
}
