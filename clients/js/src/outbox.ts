/** The messages of one conversation that are not stored yet. */

import { CHARS, QUEUE } from './constants.js';
import type { Core } from './core.js';
import { randomId } from './ids.js';
import type { DraftStore, Failure, FailedMessage, PendingMessage, SentMessage, StoredDraft, StoredMessage } from './types.js';

interface Draft {
  shown: PendingMessage | FailedMessage;
  tries: number;
  /** Whether the server has stored it. The log shows it soon. */
  stored: boolean;
  /** Resolves once the message would survive a crash. */
  saved: Promise<void> | undefined;
  settle(message: SentMessage): void;
}

/** How often a message is sent if the server is unavailable. Each time, the server tries for 5 s. */
const TRIES = 2;

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
    return this.#drafts.map(({ shown }) => shown);
  }

  has(key: string | undefined): boolean {
    return this.#drafts.some(({ shown }) => shown.key === key);
  }

  /** Connects the outbox to an open conversation, or with null to none. */
  follow(onChange: (() => void) | null) {
    this.#onChange = onChange;
    this.#settleStored();
  }

  send(text: string): Promise<SentMessage> {
    const content = text.trim();
    const key = randomId();
    return new Promise((settle) => {
      const shown: PendingMessage = {
        key, message_id: null, seq: null, sender_id: this.#core.userId ?? 0, sender_username: '', content,
        created_at: new Date().toISOString(), client_id: key, mine: true, state: 'sending',
      };
      const draft: Draft = { shown, tries: 0, stored: false, saved: undefined, settle };
      const waiting = this.#drafts.filter((other) => other.shown.state === 'sending').length;
      this.#drafts.push(draft);
      if (!content) this.#fail(draft, { code: 'invalid_message', detail: 'the message is empty' });
      else if ([...content].length > CHARS) this.#fail(draft, { code: 'message_too_long', detail: `at most ${CHARS} characters` });
      else if (waiting >= QUEUE) this.#fail(draft, { code: 'queue_full', detail: `${QUEUE} messages wait to be sent` });
      else {
        this.#save(draft);
        this.#start();
      }
      this.#changed();
    });
  }

  /** Takes over messages of a tab that is gone. */
  restore(drafts: StoredDraft[]) {
    for (const { client_id: key, content, created_at, error } of drafts) {
      if (this.has(key)) continue;
      const shown = {
        key, message_id: null, seq: null, sender_id: this.#core.userId ?? 0, sender_username: '', content,
        created_at, client_id: key, mine: true, ...(error ? { state: 'failed' as const, error } : { state: 'sending' as const }),
      };
      const draft: Draft = { shown, tries: 0, stored: false, saved: undefined, settle: () => {} };
      this.#drafts.push(draft);
      this.#save(draft);
    }
    this.#start();
    this.#changed();
  }

  /** Sends a failed message again. Its `client_id` is the same, so it can't be stored twice. */
  retry(key: string): Promise<SentMessage> | null {
    const draft = this.#drafts.find(({ shown }) => shown.key === key && shown.state === 'failed');
    if (!draft) return null;
    const { error: _, ...shown } = draft.shown as FailedMessage;
    return new Promise((settle) => {
      Object.assign(draft, { shown: { ...shown, state: 'sending' }, tries: 0, settle });
      this.#save(draft);
      this.#start();
      this.#changed();
    });
  }

  discard(key: string) {
    for (const draft of this.#drafts.filter(({ shown }) => shown.key === key && shown.state === 'failed')) this.#drop(draft);
    this.#changed();
  }

  /** The log has this message now. */
  settle(message: StoredMessage) {
    const draft = this.#drafts.find(({ shown }) => shown.key === message.client_id);
    if (draft) this.#remove(draft, message);
  }

  /** Fails everything that waits; with `forget`, nothing stays. */
  end(error: Failure, forget: boolean) {
    for (const draft of [...this.#drafts]) if (draft.shown.state === 'sending') this.#fail(draft, error);
    if (forget) this.#drafts = [];
    this.#changed();
  }

  #start() {
    this.#core.connection.waiting.add(this.#pump);
    this.#pump();
  }

  #pump = async () => {
    if (this.#sending) return;
    this.#sending = true;
    const { connection } = this.#core;
    let draft;
    while ((draft = this.#drafts.find(({ shown, stored }) => shown.state === 'sending' && !stored))) {
      await draft.saved;
      if (!this.#drafts.includes(draft) || draft.shown.state !== 'sending') continue;
      if (connection.state === 'closed') this.#fail(draft, connection.error!);
      else if (!(await this.#transmit(draft))) break;
    }
    this.#sending = false;
    if (!draft) connection.waiting.delete(this.#pump);
    this.#changed();
  };

  /** Tries to send one message. Returns false if there is no connection. */
  async #transmit(draft: Draft): Promise<boolean> {
    const { connection } = this.#core;
    const data = { message: draft.shown.content, client_id: draft.shown.key };
    const answer = await connection.request({ op: 'send', channel: `chat/${this.#id}`, data });
    if (!this.#drafts.includes(draft)) return true; // Its echo was faster.
    if (answer.ok) {
      draft.stored = true;
      this.#settleStored();
      return true;
    }
    const { error } = answer;
    if (error.code === 'network') return connection.state === 'online' || connection.state === 'closed';
    if (error.code !== 'rate_limited') draft.tries += 1;
    if (draft.tries >= TRIES || !(await this.#core.again(error, draft.tries))) this.#fail(draft, error);
    return true;
  }

  /** Settles what is stored, if no log shows it. */
  #settleStored() {
    if (this.#onChange) return;
    for (const draft of this.#drafts.filter(({ stored }) => stored)) {
      this.#remove(draft, { ...draft.shown, state: 'sent' } as SentMessage);
    }
    this.#changed();
  }

  #remove(draft: Draft, message: SentMessage) {
    this.#drop(draft);
    draft.settle(message);
  }

  #drop(draft: Draft) {
    this.#drafts = this.#drafts.filter((other) => other !== draft);
    this.#keep((store) => store.delete(draft.shown.key));
  }

  #save(draft: Draft) {
    const { base, tab, tokens } = this.#core;
    const order = (this.#core.order += 1);
    draft.saved = this.#keep(async (store) => {
      await tokens.known();
      const { key, content, created_at } = draft.shown;
      const error = draft.shown.state === 'failed' ? { error: draft.shown.error } : {};
      const user_id = tokens.userId!;
      await store.put({ client_id: key, base, user_id, conversation_id: this.#id, content, created_at, order, tab, ...error });
    });
  }

  /** Changes what is kept. If that fails, messages are sent all the same. */
  #keep(change: (store: DraftStore) => Promise<void>): Promise<void> | undefined {
    return this.#core.drafts?.then(change).catch(() => {});
  }

  #fail(draft: Draft, error: Failure) {
    draft.shown = { ...draft.shown, state: 'failed', error };
    if (draft.saved) this.#save(draft);
    const failed = this.#drafts.filter(({ shown }) => shown.state === 'failed');
    for (const old of failed.slice(0, -QUEUE)) this.#drop(old);
    draft.settle(draft.shown);
    this.#changed();
  }

  #changed() {
    if (this.#onChange) return this.#onChange();
    if (!this.#drafts.length) this.#core.outboxes.delete(this.#id);
  }
}
