/** The messages of one conversation that are not stored yet. */

import { CHARS, QUEUE, failure } from './constants.js';
import type { Core } from './core.js';
import { randomId } from './ids.js';
import type { Kept } from './persist.js';
import type { FailedMessage, Failure, PendingMessage, SentMessage, StoredDraft, StoredMessage, Structure } from './types.js';

/** A message that is not in the log yet. */
export interface Draft {
  _shown: PendingMessage | FailedMessage;
  _more: Structure | undefined;
  _tries: number;
  /** Whether the server has stored it. The log shows it soon. */
  _stored: boolean;
  /** Resolves once the message would survive a crash. */
  _saved: Promise<void> | undefined;
  _settle(message: SentMessage): void;
}

/** How often a message is sent if the server is unavailable. Each time, the server tries for 5 s. */
const TRIES = 2;

const waits = ({ _shown: shown }: Draft) => shown.state === 'sending';
const failed = ({ _shown: shown }: Draft) => shown.state === 'failed';

/** Sends messages one after the other, so that their order stays whatever has to be repeated. */
export class Outbox {
  readonly #core: Core;
  readonly #id: number;
  /** Runs after each change; null if the conversation is closed. Then no log shows what is stored. */
  #onChange: (() => void) | null = null;
  #drafts: Draft[] = [];
  #sending = false;

  constructor(core: Core, id: number) {
    this.#core = core;
    this.#id = id;
  }

  /** The messages, in the order in which they were sent. */
  get messages(): (PendingMessage | FailedMessage)[] {
    return this.#drafts.map(({ _shown: shown }) => shown);
  }

  _find(key: string | undefined): Draft | undefined {
    return this.#drafts.find(({ _shown: shown }) => shown.key === key);
  }

  /** Connects the outbox to an open conversation, or with null to none. */
  _follow(onChange: (() => void) | null) {
    this.#onChange = onChange;
    this.#settleStored();
  }

  send(text: string, more?: Structure): Promise<SentMessage> {
    const content = text.trim();
    let error: Failure | undefined;
    if (!content && !more?.kind) error = failure('invalid_message', 'empty');
    else if ([...content].length > CHARS) error = failure('message_too_long', `over ${CHARS} characters`);
    else if (this.#drafts.filter(waits).length >= QUEUE) error = failure('queue_full');
    return this._add({ client_id: randomId(), content, more, created_at: new Date().toISOString() }, error, !error);
  }

  /** Takes over a message: with `save`, one that is to be kept. With `error`, it has failed. */
  _add(
    { client_id, content, more, created_at }: Pick<StoredDraft, 'client_id' | 'content' | 'more' | 'created_at'>,
    error: Failure | undefined,
    save: boolean,
  ): Promise<SentMessage> {
    return new Promise((settle) => {
      const shown: PendingMessage = {
        ...more,
        key: client_id,
        message_id: null,
        seq: null,
        sender_id: this.#core.userId ?? 0,
        sender_username: '',
        content,
        created_at,
        client_id,
        mine: true,
        edited: false,
        deleted: false,
        state: 'sending',
      };
      const draft: Draft = { _shown: shown, _more: more, _tries: 0, _stored: false, _saved: undefined, _settle: settle };
      this.#drafts.push(draft);
      if (save) this.#save(draft);
      if (error) this.#fail(draft, error);
      else this.#start();
    });
  }

  /** Sends a failed message again. Its `client_id` is the same, so it can't be stored twice. */
  retry(key: string): Promise<SentMessage> | null {
    const draft = this._find(key);
    if (!draft || !failed(draft)) return null;
    const { error: _, ...shown } = draft._shown as FailedMessage;
    return new Promise((settle) => {
      Object.assign(draft, { _shown: { ...shown, state: 'sending' }, _tries: 0, _settle: settle });
      this.#save(draft);
      this.#start();
    });
  }

  discard(key: string) {
    const draft = this._find(key);
    if (draft && failed(draft)) this.#drop(draft);
  }

  /** The log has this message now. */
  _settle(message: StoredMessage) {
    const draft = this._find(message.client_id);
    if (draft) this.#remove(draft, message);
  }

  /** Fails everything that waits; with `forget`, nothing stays. */
  _end(error: Failure, forget?: boolean) {
    for (const draft of this.#drafts.filter(waits)) this.#fail(draft, error);
    if (forget) this.#drafts = [];
    this.#changed();
  }

  #start() {
    this.#changed();
    this.#core._connection._waiting.add(this.#pump);
    this.#pump();
  }

  #pump = async () => {
    if (this.#sending) return;
    this.#sending = true;
    const { _connection: connection } = this.#core;
    let draft: Draft | undefined;
    while ((draft = this.#drafts.find((one) => waits(one) && !one._stored))) {
      await draft._saved;
      if (!this.#drafts.includes(draft) || !waits(draft)) continue;
      if (connection.state === 'closed') this.#fail(draft, connection.error!);
      else if (!(await this.#transmit(draft))) break;
    }
    this.#sending = false;
    if (!draft) connection._waiting.delete(this.#pump);
  };

  /** Tries to send one message. Returns false if there is no connection. */
  async #transmit(draft: Draft): Promise<boolean> {
    const { _connection: connection } = this.#core;
    const { content, key } = draft._shown;
    const answer = await connection._publish(`chat/${this.#id}`, { ...draft._more, message: content, client_id: key });
    if (!this.#drafts.includes(draft)) return true; // Its echo was faster.
    if (answer.ok) {
      draft._stored = true;
      this.#settleStored();
      return true;
    }
    const { error } = answer;
    if (error.code === 'network') return connection.state === 'online' || connection.state === 'closed';
    if (error.code !== 'rate_limited') draft._tries += 1;
    if (draft._tries >= TRIES || !(await this.#core._again(error, draft._tries))) this.#fail(draft, error);
    return true;
  }

  /** Settles what is stored, if no log shows it. */
  #settleStored() {
    if (this.#onChange) return;
    for (const draft of this.#drafts.filter((draft) => draft._stored)) {
      this.#remove(draft, { ...draft._shown, state: 'sent' } as SentMessage);
    }
    this.#changed();
  }

  #remove(draft: Draft, message: SentMessage) {
    this.#drop(draft);
    draft._settle(message);
  }

  #drop(draft: Draft) {
    this.#drafts = this.#drafts.filter((other) => other !== draft);
    this.#keep((kept) => kept.drop(draft));
    this.#changed();
  }

  #save(draft: Draft) {
    draft._saved = this.#keep((kept) => kept.save(draft, this.#id));
  }

  /** Changes what is kept. If that fails, messages are sent all the same. */
  #keep(change: (kept: Kept) => Promise<void>): Promise<void> | undefined {
    return this.#core._kept?.then(change).catch(() => {});
  }

  #fail(draft: Draft, error: Failure) {
    draft._shown = { ...draft._shown, state: 'failed', error };
    if (draft._saved) this.#save(draft);
    for (const old of this.#drafts.filter(failed).slice(0, -QUEUE)) this.#drop(old);
    draft._settle(draft._shown);
    this.#changed();
  }

  #changed() {
    if (this.#onChange) return this.#onChange();
    if (!this.#drafts.length) this.#core._outboxes.delete(this.#id);
  }
}
