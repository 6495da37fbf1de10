/** Actions towards other people: opening a conversation, blocking, reporting. */

import { nameText, parts } from './dom.js';
import { actionErrorText, t } from './words.js';

/** Prepares a dialog. Its form calls `act(value)`; if that succeeds, the dialog closes and calls `done(data)`. */
function dialogOf(name, act, done) {
  const [dialog, form, field, error] = ['dialog', 'form', 'field', 'error'].map((part) => parts[`${name}-${part}`]);
  parts[`${name}-cancel`].addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const value = field.value.trim();
    if (!value || form.ariaBusy === 'true') return;
    form.ariaBusy = 'true';
    const answer = await act(value);
    form.ariaBusy = 'false';
    if (!answer.ok) return void (error.textContent = actionErrorText(answer.error));
    dialog.close(); // This moves the focus, so what follows may move it again.
    done(answer.data);
  });
  return () => {
    field.value = error.textContent = '';
    dialog.showModal();
  };
}

export class Actions {
  /** The other person of the open conversation; null if there are several or none. */
  #person = null;
  #blocked = new Set();

  /** `onOpen(id)`: a conversation was opened. */
  constructor(rt, { onOpen }) {
    this.rt = rt;
    const open = dialogOf(
      'new',
      (value) => rt.call('POST', '/api/conversations', { participant_ids: [Number(value)] }),
      (opened) => onOpen(opened.conversation_id),
    );
    const report = dialogOf(
      'report',
      (reason) => rt.call('POST', '/api/reports', { user_id: this.#person.user_id, reason }),
      () => this.#say(t('reported')),
    );
    parts.new.addEventListener('click', open);
    parts.report.addEventListener('click', report);
    parts.block.addEventListener('click', () => this.#toggleBlock());
    rt.on('state', (state) => state === 'online' && this.#load());
  }

  async #load() {
    const blocks = await this.rt.call('GET', '/api/blocks?limit=200');
    if (blocks.ok) this.#blocked = new Set(blocks.data.items.map((person) => person.user_id));
    this.render();
  }

  /** The people of the open conversation, without the user. */
  show(people) {
    const [person = null] = people.length === 1 ? people : [];
    if (person?.user_id !== this.#person?.user_id) parts['action-said'].textContent = '';
    this.#person = person;
    this.render();
  }

  render() {
    const person = this.#person;
    parts.block.hidden = parts.report.hidden = !person;
    if (!person) return;
    const isBlocked = this.#blocked.has(person.user_id);
    const name = nameText(person.username);
    parts.block.ariaPressed = isBlocked;
    parts.block.title = parts.block.ariaLabel = t(isBlocked ? 'unblock' : 'block', { name });
    parts.report.title = parts.report.ariaLabel = t('report', { name });
    parts['report-title'].textContent = t('report', { name });
  }

  async #toggleBlock() {
    const { user_id: id, username } = this.#person;
    const blocks = !this.#blocked.has(id);
    const done = await this.rt.call(blocks ? 'PUT' : 'DELETE', `/api/blocks/${id}`);
    if (!done.ok) return this.#say(actionErrorText(done.error));
    blocks ? this.#blocked.add(id) : this.#blocked.delete(id);
    this.#say(t(blocks ? 'blocked' : 'unblocked', { name: nameText(username) }));
    this.render();
  }

  /** Says in the conversation what was done. */
  #say(text) {
    parts['action-said'].textContent = text;
  }
}
