/** Default times and bounds, and failures that several modules report. Modules that are loaded later have times of their own. */

import type { Failure, Result } from './types.js';

export const TIMING = {
  backoff: 500,
  backoffMax: 30_000,
  stable: 10_000,
  spread: 1_500,
  limited: 10_000,
  open: 15_000,
  idle: 20_000,
  answer: 10_000,
  probe: 6_000,
  typing: 2_000,
  http: 10_000,
  linger: 5_000,
  frame: 16,
};

/** Messages of one conversation that wait to be sent; also failed ones that are kept. */
export const QUEUE = 100;
/** Items of a list that are kept in memory, besides those that the page loaded itself. */
export const KEEP = 2_000;
/** Characters of a message. */
export const CHARS = 4_000;

export const failure = (code: string, detail = code): Failure => ({ code, detail });
export const refused = (error: Failure): Result<never> => ({ ok: false, error });

/** The type of a frame from this client itself: no event of a backend has such a type. */
export const ARCHIVED = '/archived';
export const DONE: Result<null> = { ok: true, data: null };
export const NO_ANSWER = failure('network', 'no answer');
export const NO_TOKEN = failure('unauthorized');
export const CLOSED = failure('closed');
export const USER_CHANGED = failure('user_changed');

/** Codes of errors that a retry may fix. */
export const TEMPORARY = new Set(['network', 'unavailable', 'rate_limited', 'internal', 'token_failed']);

/** The failure in an answer of the server. */
export function failureOf({ code, detail, retry_after_ms }: any): Failure {
  return { code, detail, ...(retry_after_ms && { retry_after_ms }) };
}
