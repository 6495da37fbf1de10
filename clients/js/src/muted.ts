/** Whether a conversation is muted. */

import type { OwnSettings } from './types.js';

/** Whether a conversation is muted at this moment, by this machine's clock: don't alert the user. */
export function isMuted({ muted_until: until }: OwnSettings): boolean {
  return until === 'forever' || Date.parse(until ?? '') > Date.now();
}
