/** Events, and state that can be observed. */

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
  emit<Type extends keyof Events>(type: Type, value: Events[Type]) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** Browsers report an error like any uncaught one. Elsewhere, an uncaught error would end the process. */
function report(error: unknown) {
  if (globalThis.document) reportError(error);
  else console.error(error);
}

/** State with `change` events: one for all changes of a moment, such as the messages that a reconnect brings. */
export abstract class Observable<Events extends { change: void }, Snapshot extends object> extends Emitter<Events> {
  readonly #frame: number;
  #snapshot: Snapshot | null = null;
  #scheduled = false;
  #emittedAt = -Infinity;

  /** @internal */
  constructor(frame: number) {
    super();
    this.#frame = frame;
  }

  /** The current state in one frozen object, which is the same object until the state changes. */
  get snapshot(): Readonly<Snapshot> {
    return (this.#snapshot ??= Object.freeze(this.describe()));
  }

  /** The state. @internal */
  protected abstract describe(): Snapshot;

  /** Runs right before a `change` event. @internal */
  protected beforeChange() {}

  /** The state has changed. @internal */
  protected changed() {
    this.#snapshot = null;
    if (this.#scheduled) return;
    this.#scheduled = true;
    const wait = this.#emittedAt + this.#frame - performance.now();
    if (wait > 0) setTimeout(() => this.#flush(), wait);
    else queueMicrotask(() => this.#flush());
  }

  #flush() {
    this.#scheduled = false;
    this.#emittedAt = performance.now();
    this.beforeChange();
    this.emit('change', undefined as Events['change']);
  }
}
