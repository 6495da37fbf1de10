/** Calls of the HTTP API. */

import { NO_ANSWER } from './constants.js';
import { failureOf } from './connection.js';
import { type Tokens, tokenFailure } from './tokens.js';
import type { Failure, Result } from './types.js';

export class Http {
  readonly #base: string;
  readonly #tokens: Tokens;
  readonly #fetch: typeof fetch;
  readonly #timeout: number;

  /** `base`: the gateway's address without a slash at the end. */
  constructor(base: string, tokens: Tokens, fetch: typeof globalThis.fetch, timeout: number) {
    this.#base = base;
    this.#tokens = tokens;
    this.#fetch = fetch;
    this.#timeout = timeout;
  }

  /** Calls the API. If the token is refused, it tries once more with a fresh one. */
  async call(method: string, path: string, body?: object): Promise<Result<any>> {
    for (let refresh = false; ; refresh = true) {
      let token;
      try {
        token = await this.#tokens.get(refresh);
      } catch (cause) {
        return { ok: false, error: tokenFailure(cause) };
      }
      if (!token) return { ok: false, error: { code: 'unauthorized', detail: 'there is no token' } };
      const answer = await this.send(method, path, token, body);
      if (answer.ok || answer.error.code !== 'unauthorized' || refresh) return answer;
    }
  }

  /** Calls the API once, with this token. */
  async send(method: string, path: string, token: string, body?: object): Promise<Result<any>> {
    const abort = new AbortController(); // React Native has no `AbortSignal.timeout`.
    const timer = setTimeout(() => abort.abort(), this.#timeout);
    try {
      const answer = await this.#fetch(this.#base + path, {
        method,
        headers: { Authorization: `Bearer ${token}`, ...(body && { 'Content-Type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
        signal: abort.signal,
      });
      const text = await answer.text();
      const data = text ? JSON.parse(text) : null;
      if (answer.ok) return { ok: true, data };
      return { ok: false, error: failureOf({ code: 'internal', detail: `HTTP ${answer.status}`, ...data }) };
    } catch {
      return { ok: false, error: NO_ANSWER }; // No connection, a timeout, or an answer that isn't the API's.
    } finally {
      clearTimeout(timer);
    }
  }

  /** Why sockets fail, if HTTP works. */
  async diagnose(): Promise<Failure | null> {
    const answer = await this.call('GET', '/api/unread');
    if (answer.ok || answer.error.code !== 'network') {
      const detail =
        'HTTP reaches the server and WebSockets do not: a proxy may block them, or ALLOWED_ORIGINS lacks this page';
      return { code: 'no_websocket', detail };
    }
    const origin = globalThis.location?.origin;
    if (!origin) return null;
    try {
      // An opaque answer still shows that the server is up.
      await this.#fetch(`${this.#base}/healthz`, { mode: 'no-cors', cache: 'no-store' });
      return { code: 'origin_not_allowed', detail: `the server refuses this page: add ${origin} to ALLOWED_ORIGINS` };
    } catch {
      return null;
    }
  }
}
