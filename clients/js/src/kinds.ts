/** Structured messages: their texts in the user's language, and the messages to which others reply. */

import type { Conversation } from './conversation.js';
import { DONE } from './constants.js';
import type { Realtime } from './index.js';
import type { Message, Result, Structure } from './types.js';

/** The message to which another one replies. */
export interface Original extends Structure {
  message_id: number;
  sender_id: number;
  sender_username: string;
  /** Empty if it is deleted. */
  content: string;
  deleted: boolean;
}

/** The JSON Schema of a kind. */
export interface KindSchema {
  required?: string[];
  properties?: Record<string, any>;
  'x-vyzio'?: {
    send?: ('users' | 'backends')[];
    text?: Record<string, string>;
    labels?: Record<string, Record<string, string>>;
    [other: string]: unknown;
  };
  [keyword: string]: unknown;
}

/** Answers of a conversation, since its last change. */
interface Read {
  _changes: number | undefined;
  _answers: Map<number, Promise<Result<Original | null>>>;
  /** How often in a row the call for a message has failed. */
  _failures: Map<number, number>;
}

const read = new WeakMap<Conversation, Read>();
const schemas = new WeakMap<Realtime, Promise<Result<Map<string, KindSchema>>>>();

/** The message to which this one replies, if it is among the messages that are here; otherwise `undefined`. */
export function originalHere(chat: Conversation, { reply_to: id }: Message): Original | undefined {
  const found = id && chat.messages.find((message) => message.message_id === id);
  return found ? (found as Original) : undefined;
}

/**
 * The message to which this one replies: from those that are here, or with one call. `null`: it replies to none. Never
 * rejects.
 */
export function original(rt: Realtime, chat: Conversation, message: Message): Promise<Result<Original | null>> {
  const { reply_to: id } = message;
  const here = originalHere(chat, message);
  if (!id || here) return Promise.resolve(here ? { ok: true, data: here } : DONE);
  const { _changes } = chat;
  let known = read.get(chat);
  // A change of a message that is not here reaches the conversation as a number only. It may have been of any of these.
  if (!known || known._changes !== _changes) read.set(chat, (known = { _changes, _answers: new Map(), _failures: new Map() }));
  const { _answers, _failures } = known;
  const earlier = _answers.get(id);
  if (earlier) return earlier;
  const answer = rt.call('GET', `/api/conversations/${chat.id}/messages/${id}`).then((answer) => {
    if (!answer.ok) {
      // Pages ask with each render, so a failure stays, too: for a pause, or, if a retry is no use, until a change.
      const failures = _failures.get(id) ?? 0;
      _failures.set(id, failures + 1);
      rt._core._again(answer.error, failures).then((again) => again && _answers.delete(id));
      return answer;
    }
    const { message_id, sender_id, sender_username, content, kind, data, deleted_at } = answer.data;
    const deleted = !!deleted_at;
    return { ok: true as const, data: { message_id, sender_id, sender_username, content, kind, data, deleted } };
  });
  _answers.set(id, answer);
  return answer;
}

/** The schemas of all kinds, by name: read once for each client. Never rejects. */
export function kindsOf(rt: Realtime): Promise<Result<Map<string, KindSchema>>> {
  const known = schemas.get(rt);
  if (known) return known;
  const answer = rt.call('GET', '/api/kinds').then((kinds): Result<Map<string, KindSchema>> => {
    if (!kinds.ok) {
      schemas.delete(rt);
      return kinds;
    }
    return { ok: true, data: new Map(kinds.data.kinds.map(({ kind, schema }: any) => [kind, schema])) };
  });
  schemas.set(rt, answer);
  return answer;
}

/** The text of data in a language, as the server makes it in its own. `null`: the kind has none in this language. */
export function textOf(schema: KindSchema, data: Record<string, any>, lang: string): string | null {
  const { text, labels } = schema['x-vyzio'] ?? {};
  const template = own(text, lang);
  if (!template) return null;
  const words = own(labels, lang);
  const shown = (placeholder: string) => {
    const name = placeholder.replace(/\/100$/, '');
    const value = own(data, name);
    // The server divides integers of 64 bits, and shows larger numbers as they are.
    if (placeholder !== name && Number.isInteger(value) && Math.abs(value) <= 2 ** 63) return centsOf(value, lang);
    if (typeof value !== 'string') return typeof value === 'object' ? '' : `${value ?? ''}`;
    const property = schema.properties?.[name];
    if (property?.format === 'date-time') return timeOf(value, lang);
    // What a person wrote stays as it is, even if it is the same word as a state.
    const isListed = (property?.enum ?? property?.const) !== undefined;
    return (isListed ? own(words, value) : undefined) ?? value;
  };
  return template
    .replace(/\{([^}]*)\}/g, (_, placeholder) => shown(placeholder))
    .replace(/\p{Cc}/gu, ' ')
    .trim();
}

/** Without what every object inherits, such as `constructor`. */
function own<T>(object: Record<string, T> | undefined, name: string): T | undefined {
  return object && Object.hasOwn(object, name) ? object[name] : undefined;
}

function centsOf(number: number, lang: string): string {
  const digits = `${BigInt(Math.abs(number))}`.padStart(3, '0');
  const [whole, cents] = [`${number < 0 ? '-' : ''}${digits.slice(0, -2)}`, digits.slice(-2)];
  return cents === '00' ? whole : `${whole}${lang === 'en' ? '.' : ','}${cents}`;
}

function timeOf(text: string, lang: string): string {
  const [year, month, day, time] = [text.slice(0, 4), text.slice(5, 7), text.slice(8, 10), text.slice(11, 16)];
  return lang === 'fr' ? `${day}/${month}/${year} à ${time}` : `${year}-${month}-${day} ${time}`;
}
