/** Events, and state that can be observed. */

import type { Core } from './core.js';
import { monotonic } from './tokens.js';

/** An object with events. */
export class Emitter<Events> {
  readonly #listeners = new Map<keyof Events, Set<(value: any) => void>>();

  /** Calls `listener` at each event of this type. Returns a function that ends it. */
  on<Type extends keyof Events>(type: Type, listener: (value: Events[Type]) => void): () => void {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Calls the listeners. An error in one is reported, and the others are still called. @internal */
  _emit<Type extends keyof Events>(type: Type, value: Events[Type]) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        // Browsers report it like any uncaught one. Elsewhere, an uncaught error would end the process.
        (globalThis.document ? reportError : console.error)(error);
      }
    }
  }
}

/** State with `change` events: one for all changes of a moment, such as the messages that a reconnect brings. */
export abstract class Observable<Events extends { change: void }, Snapshot extends object> extends Emitter<Events> {
  /** @internal */
  readonly _core: Core;
  readonly #fields: readonly (keyof Snapshot)[];
  #snapshot: Snapshot | null = null;
  #scheduled = false;
  #emittedAt = NaN;

  /** `fields`: the properties that are in a snapshot. @internal */
  constructor(core: Core, fields: readonly (keyof Snapshot)[]) {
    super();
    this._core = core;
    this.#fields = fields;
  }

  /** The current state in one frozen object, which is the same object until the state changes. */
  get snapshot(): Readonly<Snapshot> {
    const entries = () => this.#fields.map((name) => [name, (this as unknown as Snapshot)[name]]);
    return (this.#snapshot ??= Object.freeze(Object.fromEntries(entries())));
  }

  /** Runs right before a `change` event. @internal */
  protected _beforeChange() {}

  /** The state has changed. @internal */
  _changed() {
    this.#snapshot = null;
    if (this.#scheduled) return;
    this.#scheduled = true;
    const wait = this.#emittedAt + this._core.timing.frame - monotonic();
    if (wait > 0) setTimeout(() => this.#flush(), wait);
    else queueMicrotask(() => this.#flush());
  }

  #flush() {
    this.#scheduled = false;
    this.#emittedAt = monotonic();
    this._beforeChange();
    this._emit('change', undefined as Events['change']);
  }
}
