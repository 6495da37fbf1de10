/** Calls of the HTTP API. */

import { NO_ANSWER, NO_TOKEN, failure, failureOf, refused } from './constants.js';
import type { Core } from './core.js';
import { tokenFailure, within } from './tokens.js';
import type { Result } from './types.js';

export class Http {
  readonly #core: Core;

  constructor(core: Core) {
    this.#core = core;
  }

  /** Calls the API. If the token is refused, it tries once more with a fresh one. */
  async _call(method: string, path: string, body?: object, refresh = false): Promise<Result<any>> {
    const token = await this.#core._tokens._get(refresh).catch(tokenFailure);
    if (typeof token !== 'string') return refused(token ?? NO_TOKEN);
    const answer = await this.send(method, path, token, body);
    if (answer.ok || answer.error.code !== 'unauthorized' || refresh) return answer;
    return this._call(method, path, body, true);
  }

  /** Calls the API once, with this token. */
  async send(method: string, path: string, token: string, body?: object): Promise<Result<any>> {
    try {
      return await within(this.#core.timing.http, async (signal) => {
        const answer = await this._fetch(path, {
          method,
          headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
          body: JSON.stringify(body),
          signal,
        });
        const data = JSON.parse((await answer.text()) || 'null');
        return answer.ok ? { ok: true, data } : refused(failureOf({ ...failure('internal', `HTTP ${answer.status}`), ...data }));
      });
    } catch {
      return refused(NO_ANSWER); // No connection, a timeout, or an answer that isn't the API's.
    }
  }

  _fetch(path: string, init: RequestInit): Promise<Response> {
    const { fetch = globalThis.fetch } = this.#core._options;
    return fetch(this.#core._base + path, init);
  }
}
