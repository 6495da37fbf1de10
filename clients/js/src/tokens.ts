/** The token, and the identity that it stands for. */

import { USER_CHANGED, failure } from './constants.js';
import type { Core } from './core.js';
import { isId } from './ids.js';
import type { Failure, TokenAnswer } from './types.js';

/** Milliseconds of a clock that nobody sets. */
export const monotonic = () => performance.now();

/** The first frame of the server. */
export interface Hello {
  user_id: number;
  server_time: string;
  expires_at: string;
}

/** Waits for an answer at most this long, and then aborts the request. Without `AbortSignal.timeout`, which React Native lacks. */
export async function within<T>(ms: number, request: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error('no answer'));
      abort.abort();
    }, ms);
  });
  return Promise.race([request(abort.signal), late]).finally(() => clearTimeout(timer));
}

/** The claims of a token, which only the server can verify. Text that is not ASCII stays encoded: it is only compared. */
function claimsOf(token: string): { exp?: number; iat?: number; user_id?: unknown; sub?: unknown } {
  try {
    return JSON.parse(atob(token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'))) ?? {};
  } catch {
    return {};
  }
}

/** The token in the answer of the page's callback; null: nobody is signed in. */
async function tokenIn(answer: TokenAnswer): Promise<string | null> {
  if (typeof answer !== 'object' || !answer) return answer || null;
  if ([401, 403].includes(answer.status)) return null;
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const text = (await answer.text()).trim();
  const body = /^[{"]/.test(text) ? JSON.parse(text) : text;
  const token = body.token ?? body.access ?? body;
  return (typeof token === 'string' && token) || null;
}

/** The user's tokens: requests one at a time, renews them, and checks that they are all of one user. */
export class Tokens {
  /** The user. Until the server's `hello`, the `user_id` of the token; null if it has none. */
  userId: number | null = null;
  /** Resolves once the user is known. */
  readonly _known: Promise<void>;
  readonly #core: Core;
  #onKnown!: () => void;
  /** Whether `userId` is more than a guess: the server or the page named it. */
  #confirmed: boolean;
  #subject: string | null = null;
  #token: string | null = null;
  #request: Promise<string | null> | null = null;
  #endsAt = 0;
  /** The server's time minus the monotonic time, once the server has named its time. */
  #offset = NaN;

  constructor(core: Core) {
    const { userId } = core._options;
    this.#core = core;
    this._known = new Promise((resolve) => (this.#onKnown = resolve));
    this.#confirmed = userId !== undefined;
    if (this.#confirmed) this.#know(userId!);
  }

  /** The server's time in milliseconds since 1970; NaN: not known yet. This machine's clock may be wrong. */
  _serverTime(): number {
    return monotonic() + this.#offset;
  }

  /**
   * The token, a fresh one with `refresh`. `null`: nobody is signed in.
   *
   * @throws {Error} if the callback fails
   * @throws {Failure} `user_changed`
   */
  async _get(refresh = false): Promise<string | null> {
    if (!refresh && this.#token && monotonic() < this.#endsAt) return this.#token;
    return (this.#request ??= this.#load(refresh || !!this.#token).finally(() => (this.#request = null)));
  }

  async #load(refresh: boolean): Promise<string | null> {
    const { _options: options, timing } = this.#core;
    const source = options.token;
    const answer = typeof source === 'function' ? within(timing.http, async () => source({ refresh })) : source;
    const token = (this.#token = await tokenIn(await answer));
    if (!token) return null;
    const { exp = NaN, iat = NaN, user_id: claimed, sub } = claimsOf(token);
    const subject = `${claimed ?? sub}`;
    const userId = Number(claimed);
    this.#subject ??= subject;
    // A claim that differs from the server's answer for the same subject is not what the server reads.
    if (subject !== this.#subject) this.#refuseUser();
    if (this.userId === null && isId(userId)) this.#know(userId);
    // Only the server's clock can tell when a token ends. Until that is known, a token lives as long as it was issued
    // for; if that is too long, the server refuses it and a fresh one is requested.
    this.#lives(exp * 1000 - (this._serverTime() || iat * 1000));
    return token;
  }

  /** The token lives for so many milliseconds; NaN: for good. */
  #lives(ms: number) {
    this.#endsAt = monotonic() + (ms || Infinity);
  }

  #refuseUser(): never {
    this.#token = null;
    this.#core._client._end(USER_CHANGED, true);
    throw USER_CHANGED;
  }

  /**
   * Takes the identity and the times from the server.
   *
   * Returns whether the user is another one than the token had claimed, so everything must be loaded again.
   *
   * @throws {Failure} `user_changed`, or `refused` if JavaScript would round the id
   */
  _confirm({ user_id: userId, server_time: serverTime, expires_at: expiresAt }: Hello): boolean {
    if (!isId(userId)) throw failure('refused', 'not an id up to 2^53');
    const time = Date.parse(serverTime);
    this.#offset = time - monotonic();
    this.#lives(Date.parse(expiresAt) - time);
    const guessed = this.userId !== null && this.userId !== userId;
    if (guessed && this.#confirmed) this.#refuseUser();
    this.#confirmed = true;
    this.#know(userId);
    return guessed;
  }

  #know(userId: number) {
    this.userId = userId;
    this.#onKnown();
  }

  /** The time until a fresh token is due: a minute before the end, or a fifth of a short life. */
  _dueIn(): number {
    const left = this.#endsAt - monotonic();
    return Math.min(Math.max(left - Math.min(60_000, left / 5), 1_000), 2 ** 31 - 1);
  }
}

/** The failure for an error of the token callback. */
export function tokenFailure(cause: unknown): Failure {
  return cause === USER_CHANGED ? USER_CHANGED : failure('token_failed', String(cause));
}
