/** Edits and deletions of the user's messages on their way to the server. Loaded with the first one. */

import { CHARS, DONE, failure, refused } from './constants.js';
import type { Conversation } from './conversation.js';
import type { Result, StoredMessage } from './types.js';

/** What a change makes of a message. */
export type Patch = Partial<StoredMessage>;

/** A change that is shown and not in the log yet. */
interface Change {
  /** The message as the server had it. */
  _base: StoredMessage;
  /** What the change makes of it. */
  _patch: Patch;
}

/** The changes of a conversation, in their order. */
interface Queue {
  _changes: Change[];
  /** Resolves once the last one is answered. */
  _turn: Promise<unknown>;
}

const queues = new WeakMap<Conversation, Queue>();

/** How often a change is sent if the server is unavailable. */
const TRIES = 2;

/** Sends a change of the message that was `known` under this key and shows `patch` already. It is undone if that fails. */
export function carry(chat: Conversation, key: string, known: StoredMessage | undefined, patch: Patch): Promise<Result<null>> {
  if (!known) return Promise.resolve(withoutServer(chat, key, patch));
  const queue = queues.get(chat) ?? { _changes: [], _turn: Promise.resolve() };
  queues.set(chat, queue);
  queue._changes = queue._changes.filter(({ _base }) => shownOn(chat, _base));
  const base = queue._changes.find(({ _base }) => _base.key === key)?._base ?? known;
  const change = { _base: base, _patch: patch };
  const local = answerTo(known, patch);
  if (local) {
    undo(chat, queue, change);
    return Promise.resolve(local);
  }
  queue._changes.push(change);
  const turn = queue._turn.then(async () => {
    const answer = await transmit(chat, known, patch);
    if (!answer.ok) undo(chat, queue, change);
    return answer;
  });
  queue._turn = turn;
  return turn;
}

/** The message that is shown, unless the server's has changed since: then no change is shown any more. */
function shownOn(chat: Conversation, { seq, message_id: id, change }: StoredMessage): StoredMessage | null {
  const shown = chat._log.find(seq);
  return shown?.message_id === id && shown.change === change ? shown : null;
}

/** A message that is not stored. */
function withoutServer(chat: Conversation, key: string, { deleted }: Patch): Result<null> {
  const draft = chat.messages.find((message) => message.key === key);
  if (!draft) return refused(failure('not_found', 'no such message'));
  if (!deleted || draft.state !== 'failed') return refused(failure('not_sent', 'the message is not stored yet'));
  chat.discard(key);
  return DONE;
}

/** The answer to a change that needs no server, or `null`. */
function answerTo(shown: StoredMessage, { content = '', deleted }: Patch): Result<null> | null {
  if (!shown.mine) return refused(failure('forbidden', 'the message is of another user'));
  if (shown.deleted) return deleted ? DONE : refused(failure('not_found', 'the message is deleted'));
  if (deleted) return null;
  if (!content) return refused(failure('invalid_message', 'the message is empty'));
  if ([...content].length > CHARS) return refused(failure('message_too_long', `over ${CHARS} characters`));
  return content === shown.content ? DONE : null;
}

/** Sends a change, which may be repeated. */
async function transmit(
  { _core: core, _name: name }: Conversation,
  { message_id }: StoredMessage,
  { content, deleted }: Patch,
): Promise<Result<null>> {
  const { _connection: connection } = core;
  const frame = deleted ? { type: 'delete', message_id } : { type: 'edit', message_id, message: content };
  for (let attempt = 0, tries = 0; ; attempt += 1) {
    if (connection.state === 'closed') return refused(connection.error!);
    const answer = await connection._publish(name, frame);
    if (answer.ok) return answer;
    const { code } = answer.error;
    if (code !== 'network' && code !== 'rate_limited') tries += 1;
    if (tries >= TRIES || !(await core._again(answer.error, attempt)))
      return connection._ended ? refused(connection.error!) : answer;
  }
}

/** Shows the message without this change, but with those before and after it. */
function undo(chat: Conversation, queue: Queue, change: Change) {
  const { _base: base } = change;
  queue._changes = queue._changes.filter((other) => other !== change);
  const shown = shownOn(chat, base);
  if (!shown) return;
  const patches = queue._changes.filter(({ _base }) => _base === base).map(({ _patch }) => _patch);
  chat._log.put([Object.assign({}, base, { state: shown.state }, ...patches)]);
}
