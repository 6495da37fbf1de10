/** Actions: towards other people (opening a conversation, blocking, reporting), and the menu of messages. */

import { element, icon, nameText, parts } from './dom.js';
import { actionErrorText, t } from './words.js';

/** A dialog that closes with its cancel button, and with a click beside it. */
export function closable(name) {
  const dialog = parts[`${name}-dialog`];
  parts[`${name}-cancel`].addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  return dialog;
}

/** Prepares a dialog. Its form calls `act(value)`; if that succeeds, the dialog closes and calls `done(data)`. */
function dialogOf(name, act, done) {
  const dialog = closable(name);
  const [form, field, error] = ['form', 'field', 'error'].map((part) => parts[`${name}-${part}`]);
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

/** Pixels that the menu needs below its button. */
const MENU_HEIGHT = 145;

/**
 * The menu of messages: replies, and the changes of one's own. One of their buttons is in the order of the tab key: the one that was used last, or that
 * of the last message. The arrow keys go from one to the next.
 */
export class MessageMenu {
  #menu = element('div', 'menu');
  /** The message whose menu is open, and its button. */
  #open = null;
  /** The message in the dialog. */
  #doomed = null;

  /** `onReply(message)`, `onEdit(message)` and `onDelete(message)`: one was chosen. */
  constructor({ onReply, onEdit, onDelete }) {
    const reply = this.#item('reply', onReply);
    const edit = this.#item('edit', onEdit);
    const remove = this.#item('delete', (message) => {
      this.#doomed = message;
      parts['delete-dialog'].showModal();
    });
    this.items = [reply, edit, remove];
    this.#menu.append(...this.items);
    this.#menu.role = 'menu';
    this.#menu.addEventListener('keydown', (event) => this.#onKey(event));
    const dialog = closable('delete');
    parts['delete-form'].addEventListener('submit', (event) => {
      event.preventDefault();
      dialog.close();
      onDelete(this.#doomed);
    });
    document.addEventListener('pointerdown', ({ target }) => {
      if (!this.#open?.button.parentNode.contains(target)) this.close();
    });
    parts.messages.addEventListener('keydown', (event) => this.#walk(event));
    parts.messages.addEventListener('focusin', ({ target }) => target.matches('.more-actions') && this.#reach(target));
  }

  #item(name, act) {
    const item = element('button', name);
    item.role = 'menuitem';
    item.tabIndex = -1;
    item.dataset.action = name;
    item.addEventListener('click', () => {
      const { message } = this.#open;
      this.close();
      act(message);
    });
    return item;
  }

  /** A button that opens the menu of what `message()` returns then. */
  button(message) {
    const button = element('button', 'more-actions');
    button.append(icon('more'));
    button.ariaHasPopup = 'menu';
    button.ariaExpanded = 'false';
    button.tabIndex = -1;
    button.addEventListener('click', () => {
      const isOpen = this.#open?.button === button;
      this.close();
      if (!isOpen) this.#show(button, message());
    });
    return button;
  }

  /** Everything that has words in it, and the one button that the tab key reaches. */
  render() {
    for (const item of this.items) item.textContent = t(item.dataset.action);
    this.#menu.ariaLabel = t('actions');
    const buttons = this.#buttons();
    if (!buttons.some((button) => button.tabIndex === 0) && buttons.length) this.#reach(buttons.at(-1));
    if (this.#open && !buttons.includes(this.#open.button)) this.close(false);
  }

  /** Closes the menu; `back`: the focus returns to the button if it was in the menu. */
  close(back = true) {
    if (!this.#open) return;
    const { button } = this.#open;
    const hadFocus = this.#menu.contains(document.activeElement);
    this.#open = null;
    this.#menu.remove();
    button.ariaExpanded = 'false';
    if (back && hadFocus) button.focus();
  }

  #show(button, message) {
    this.#open = { button, message };
    button.ariaExpanded = 'true';
    // Only backends change the data of a message.
    const possible = { reply: true, edit: message.mine && !message.kind, delete: message.mine };
    for (const item of this.items) item.hidden = !possible[item.dataset.action];
    const room = parts.thread.getBoundingClientRect().bottom - button.getBoundingClientRect().bottom;
    this.#menu.classList.toggle('up', room < MENU_HEIGHT);
    button.after(this.#menu);
    this.items[0].focus();
  }

  #buttons() {
    return [...parts.messages.querySelectorAll('.more-actions:not([hidden])')];
  }

  /** Puts one button, and no other, into the order of the tab key. */
  #reach(button) {
    for (const other of parts.messages.querySelectorAll('.more-actions[tabindex="0"]')) other.tabIndex = -1;
    button.tabIndex = 0;
  }

  /** From the button of one message to that of the next. */
  #walk(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step || !event.target.matches('.more-actions')) return;
    event.preventDefault();
    const buttons = this.#buttons();
    buttons[buttons.indexOf(event.target) + step]?.focus();
  }

  #onKey(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const items = this.items.filter((item) => !item.hidden);
    if (event.key === 'Escape' || event.key === 'Tab') this.close();
    else if (step) items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
    else if (event.key === 'Home' || event.key === 'End') items.at(event.key === 'Home' ? 0 : -1).focus();
    else return;
    event.stopPropagation(); // Escape closes only this.
    if (event.key !== 'Tab') event.preventDefault();
  }
}
