/** Ids. */

/**
 * The id as a number. Accepts digits in a string, as pages read them from addresses and attributes.
 *
 * @throws {RangeError} if it is not a whole number from 1 to 2^53 - 1. JavaScript silently rounds greater ones.
 */
export function idOf(value: number | string): number {
  const id = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof id === 'number' && Number.isSafeInteger(id) && id > 0) return id;
  throw new RangeError(`${String(value)} is not an id: ids are whole numbers from 1 to 2^53 - 1`);
}

/** 128 random bits in hex. `randomUUID` exists only on secure pages, and React Native has no `crypto`. */
export function randomId(): string {
  const parts = new Uint32Array(4);
  if (globalThis.crypto) crypto.getRandomValues(parts);
  else parts.forEach((_, at) => (parts[at] = Math.random() * 2 ** 32));
  return [...parts].map((part) => part.toString(16).padStart(8, '0')).join('');
}
