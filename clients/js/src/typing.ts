/** Who is typing in a conversation. */

import type { Channel } from './connection.js';
import type { Core } from './core.js';
import { monotonic } from './tokens.js';
import type { Person } from './types.js';

export class Typing implements Channel {
  /** The other users who are typing. A new array after each change. */
  typists: readonly Person[] = [];
  readonly _name: string;
  readonly #core: Core;
  readonly #onChange: () => void;
  /** When the last sign of typing was sent; NaN: the user does not type. */
  #sentAt = NaN;

  constructor(core: Core, id: number, onChange: () => void) {
    this._name = `typing/${id}`;
    this.#core = core;
    this.#onChange = onChange;
  }

  _onEvent({ user_id, username, is_typing: isTyping }: Person & { is_typing: boolean }) {
    this._stopped(user_id);
    if (isTyping) this.#show([...this.typists, { user_id, username }]);
  }

  _onJoined() {
    this.#sentAt = NaN;
  }

  _onLost() {
    this.#show([]);
  }

  _leave() {
    this.type(false);
    this.#core._connection._leave(this);
    this.#show([]);
  }

  /** The user types, or has stopped. */
  type(isTyping: boolean) {
    const now = monotonic();
    // Often enough that the server does not forget it, and once at the end.
    if (isTyping ? now - this.#sentAt < this.#core.timing.typing : !this.#sentAt) return;
    const sent = this.#core._connection.send({ op: 'send', channel: this._name, data: { is_typing: isTyping } });
    this.#sentAt = isTyping && sent ? now : NaN;
  }

  /** A user has stopped, or sent the message. */
  _stopped(userId: number) {
    this.#show(this.typists.filter((person) => person.user_id !== userId));
  }

  #show(typists: readonly Person[]) {
    if (!typists.length && !this.typists.length) return;
    this.typists = Object.freeze(typists);
    this.#onChange();
  }
}
