/** The token, and the identity that it stands for. */

import { USER_CHANGED } from './constants.js';
import type { Failure, Options, TokenAnswer } from './types.js';

/** Milliseconds of a clock that nobody sets. */
export const monotonic = () => performance.now();

/** The first frame of the server. */
export interface Hello {
  user_id: number;
  server_time: string;
  expires_at: string;
}

/** Waits for a promise at most this long. */
export function within<T>(value: T | Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in time')), ms);
  });
  return Promise.race([value, late]).finally(() => clearTimeout(timer));
}

/** The claims of a token, which only the server can verify. Without `TextDecoder`, which React Native lacks. */
function claimsOf(token: string): { exp?: number; iat?: number; user_id?: unknown; sub?: unknown } {
  try {
    const bytes = atob(token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'));
    const escaped = bytes.replace(/[^]/g, (byte) => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
    return JSON.parse(decodeURIComponent(escaped)) ?? {};
  } catch {
    return {};
  }
}

/** The token in the answer of the page's callback; null: nobody is signed in. */
async function tokenIn(answer: TokenAnswer): Promise<string | null> {
  if (typeof answer !== 'object' || !answer) return answer || null;
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the token request failed with HTTP ${answer.status}`);
  const text = (await answer.text()).trim();
  if (!/^[{"]/.test(text)) return text || null;
  const json = JSON.parse(text);
  return (typeof json === 'string' ? json : (json.token ?? json.access)) || null;
}

/** The user's tokens: requests one at a time, renews them, and checks that they are all of one user. */
export class Tokens {
  /** The user. Until the server's `hello`, the `user_id` of the token; null if it has none. */
  userId: number | null;
  readonly #source: Options['token'];
  readonly #timeout: number;
  readonly #onUserChanged: () => void;
  /** Whether `userId` is more than a guess: the server or the page named it. */
  #confirmed: boolean;
  #onKnown: (() => void)[] = [];
  #subject: string | null = null;
  #token: string | null = null;
  #request: Promise<string | null> | null = null;
  #endsAt = Infinity;
  /** The server's time minus the monotonic time, once the server has named its time. */
  #offset: number | null = null;

  constructor({ token, userId }: Options, timeout: number, onUserChanged: () => void) {
    this.userId = userId ?? null;
    this.#confirmed = userId !== undefined;
    this.#source = token;
    this.#timeout = timeout;
    this.#onUserChanged = onUserChanged;
  }

  /** Resolves once the user is known. */
  known(): Promise<void> {
    return this.userId === null ? new Promise((resolve) => this.#onKnown.push(resolve)) : Promise.resolve();
  }

  /** The server's time in milliseconds since 1970, if it is known. This machine's clock may be wrong. */
  serverTime(): number | null {
    return this.#offset === null ? null : monotonic() + this.#offset;
  }

  /**
   * The token, a fresh one with `refresh`. `null`: nobody is signed in.
   *
   * @throws {Error} if the callback fails
   * @throws {Failure} `user_changed`
   */
  get(refresh = false): Promise<string | null> {
    if (!refresh && this.#token && monotonic() < this.#endsAt) return Promise.resolve(this.#token);
    this.#request ??= this.#load(refresh || !!this.#token).finally(() => (this.#request = null));
    return this.#request;
  }

  async #load(refresh: boolean): Promise<string | null> {
    const source = this.#source;
    const answer = typeof source === 'function' ? within(source({ refresh }), this.#timeout) : source;
    const token = await tokenIn(await answer);
    const { exp = NaN, iat = NaN, user_id: claimed, sub } = token ? claimsOf(token) : {};
    if (token) this.#checkUser(claimed, sub);
    this.#token = token;
    // Only the server's clock can tell when a token ends. Until that is known, a token lives as long as it was issued
    // for; if that is too long, the server refuses it and a fresh one is requested.
    const now = this.serverTime();
    const left = now === null ? (exp - iat) * 1000 : exp * 1000 - now;
    this.#endsAt = Number.isNaN(left) ? Infinity : monotonic() + left;
    return token;
  }

  #checkUser(claimed: unknown, sub: unknown) {
    const subject = String(claimed ?? sub ?? '');
    const userId = Number(claimed);
    const valid = Number.isSafeInteger(userId) && userId > 0;
    if (this.#subject === null) this.#subject = subject;
    const changed = subject !== this.#subject;
    // A claim that differs from the server's answer for the same subject is not what the server reads.
    if (changed) {
      this.#onUserChanged();
      throw USER_CHANGED;
    }
    if (this.userId === null && valid) this.#know(userId);
  }

  /**
   * Takes the identity and the times from the server.
   *
   * Returns whether the user is another one than the token had claimed, so everything must be loaded again.
   *
   * @throws {Failure} `user_changed`
   */
  confirm({ user_id: userId, server_time: serverTime, expires_at: expiresAt }: Hello): boolean {
    const time = Date.parse(serverTime);
    this.#offset = time - monotonic();
    const left = Date.parse(expiresAt) - time;
    this.#endsAt = Number.isNaN(left) ? Infinity : monotonic() + left;
    const guessed = this.userId !== null && this.userId !== userId;
    if (guessed && this.#confirmed) {
      this.#onUserChanged();
      throw USER_CHANGED;
    }
    this.#confirmed = true;
    this.#know(userId);
    return guessed;
  }

  #know(userId: number) {
    this.userId = userId;
    for (const resolve of this.#onKnown.splice(0)) resolve();
  }

  /** The time until a fresh token is due: a minute before the end, or a fifth of a short life. */
  dueIn(): number {
    const left = this.#endsAt - monotonic();
    return Math.min(Math.max(left - Math.min(60_000, left / 5), 1_000), 2 ** 31 - 1);
  }
}

/** The failure for an error of the token callback. */
export function tokenFailure(cause: unknown): Failure {
  return cause === USER_CHANGED ? USER_CHANGED : { code: 'token_failed', detail: String(cause) };
}
