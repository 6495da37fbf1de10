/** Ids. */

/** Whether it is a whole number from 1 to 2^53 - 1. JavaScript silently rounds greater ones. */
export const isId = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) > 0;

/**
 * The id as a number. Accepts digits in a string, as pages read them from addresses and attributes.
 *
 * @throws {RangeError} if it is not an id
 */
export function idOf(value: number | string): number {
  const id = /^\d+$/.test(value as string) ? Number(value) : value;
  if (isId(id)) return id;
  throw new RangeError(`${value} is not an id up to 2^53`);
}

/** An id that no other client has. Only secure pages have `randomUUID`, and React Native has no `crypto`. */
export function randomId(): string {
  const random = () => Math.random().toString(36).slice(2);
  return globalThis.crypto?.randomUUID?.() ?? random() + random() + random();
}
