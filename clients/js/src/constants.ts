/** Default times and bounds. */

import type { Failure, Result, Timing } from './types.js';

export const TIMING: Timing = {
  backoff: 500,
  backoffMax: 30_000,
  stable: 10_000,
  spread: 1_500,
  limited: 10_000,
  open: 15_000,
  idle: 20_000,
  answer: 10_000,
  probe: 6_000,
  settle: 1_000,
  typing: 2_000,
  http: 10_000,
  poll: 5_000,
  blocked: 600_000,
  linger: 5_000,
  frame: 16,
};

/** Messages of one conversation that wait to be sent; also failed ones that are kept. */
export const QUEUE = 100;
/** Items of a list that are kept in memory, besides those that the page loaded itself. */
export const KEEP = 2_000;
/** Characters of a message. */
export const CHARS = 4_000;

export const DONE: Result<null> = { ok: true, data: null };
export const NO_ANSWER: Failure = { code: 'network', detail: 'no answer from the server' };
export const CLOSED: Failure = { code: 'closed', detail: 'the connection was closed by this client' };
export const USER_CHANGED: Failure = { code: 'user_changed', detail: 'the token belongs to another user' };

/** Codes of errors that a retry may fix. */
export const TEMPORARY = new Set(['network', 'unavailable', 'rate_limited', 'internal', 'token_failed']);
