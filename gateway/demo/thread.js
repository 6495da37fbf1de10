/** One conversation: its messages, who types, and the field to write in. */

import { MessageMenu } from './actions.js';
import { Kinds, prepareKindDialog } from './kinds.js';
import { Rows, arrange, element, icon, nameText, parts, showAvatar } from './dom.js';
import { changeErrorText, dayText, language, numberText, reasonText, sameDay, t, timeText } from './words.js';

const GROUP_MS = 5 * 60_000; // One sender's messages closer than this stand together.
const NEAR_END = 40; // Pixels.
const NEAR_START = 200;
const OPEN = 20; // Conversations that stay open.
const CHARS = 4_000; // Of a message.
const COUNT = 100; // From this many characters before the end, the rest is counted.

export class Thread {
  #rows = new Rows(
    (item) => (item.day ? { node: element('li', 'day') } : this.#make(item)),
    (row, item) => this.#update(row, item),
  );
  #stops = [];
  #atEnd = true;
  #top = 0;
  #menu = new MessageMenu({
    onReply: (message) => this.#reply(message),
    onEdit: (message) => this.#edit(message),
    onDelete: (message) => this.#delete(message),
  });
  #kinds;
  /** The message to which the next one replies. */
  #replyTo = null;
  /** The message that is being edited, by its key, and what was in the field before. */
  #editing = null;

  /** `describe(id)`: what is known of a conversation that has not been loaded yet. `onPeople(people)`: the others in it. */
  constructor(rt, { describe, onPeople }) {
    Object.assign(this, { rt, describe, onPeople, chat: null });
    this.#kinds = new Kinds(rt, { onChange: () => this.render() });
    prepareKindDialog((more) => this.#send('', more));
    /** What is written and not sent, by conversation; of those that are open, in the order in which they were left. */
    this.drafts = new Map();
    /** Conversations that are open. */
    this.chats = new Map();
    const sizes = new ResizeObserver(() => this.#atEnd && this.#toEnd());
    sizes.observe(parts.thread);
    sizes.observe(parts['thread-content']);
    parts.thread.addEventListener('scroll', () => this.#scrolled());
    parts.jump.addEventListener('click', () => (this.#toEnd(), parts.text.focus()));
    parts.older.addEventListener('click', () => this.#loadOlder());
    document.addEventListener('visibilitychange', () => this.#see());
    this.#listenToComposer();
  }

  /** Whether this conversation's end is on the screen. */
  isShowing(id) {
    return this.chat?.id === id && document.visibilityState === 'visible' && this.#atEnd;
  }

  /** Shows a conversation; null: none. */
  open(id) {
    if (this.chat?.id === id) return;
    for (const stop of this.#stops.splice(0)) stop();
    if (this.chat) this.#leave(this.chat);
    if (id && !this.chats.has(id)) this.chats.set(id, this.rt.conversation(id));
    this.chat = id && this.chats.get(id);
    parts.messages.replaceChildren();
    if (!this.chat) return;
    this.#atEnd = true;
    parts.text.value = this.drafts.get(id) ?? '';
    this.#stops = [
      this.chat.on('change', () => this.render()),
      this.chat.on('message', (message) => {
        parts.announcer.textContent = `${nameText(message.sender_username)}: ${this.#kinds.line(message)}`;
      }),
    ];
    this.render();
  }

  /** It stays open, with what is on its way or has failed; of many, the one that was left first is closed. */
  #leave(chat) {
    chat.type(false);
    this.#endEdit();
    this.#replyTo = null;
    this.drafts.delete(chat.id);
    this.drafts.set(chat.id, parts.text.value);
    if (this.drafts.size <= OPEN) return;
    const [first] = this.drafts.keys();
    this.drafts.delete(first);
    this.chats.get(first).close();
    this.chats.delete(first);
  }

  render() {
    const { chat } = this;
    if (!chat) return;
    this.#renderHead();
    // What is put above must not move what is read.
    const { scrollHeight, scrollTop } = parts.thread;
    const first = parts.messages.querySelector('.message');
    const nodes = this.#rows.show(entriesOf(chat.messages));
    const grewAbove = first?.isConnected && nodes.includes(first) && nodes.indexOf(first) > 1;
    arrange(parts.messages, nodes);
    this.#menu.render();
    if (grewAbove && !this.#atEnd) parts.thread.scrollTop = scrollTop + parts.thread.scrollHeight - scrollHeight;
    if (this.#atEnd) this.#toEnd();
    parts['no-messages'].hidden = chat.state === 'loading' || chat.state === 'closed' || chat.messages.length > 0;
    parts.older.hidden = !chat.hasOlder;
    this.#renderTyping();
    this.#renderComposer();
    this.#see();
  }

  #renderHead() {
    const { error, state } = this.chat;
    const info = this.chat.info ?? this.describe(this.chat.id);
    const others = info?.participants.filter((person) => person.user_id !== this.rt.userId) ?? [];
    parts['peer-name'].textContent =
      others.map(({ username }) => nameText(username)).join(', ') || (state === 'closed' ? reasonText(error) : '…');
    parts['peer-avatar'].hidden = !others.length;
    if (others.length) showAvatar(parts['peer-avatar'], others[0]);
    parts.listing.textContent = info?.title ?? '';
    parts['listing-line'].hidden = !info?.title;
    parts.conversation.dataset.state = state;
    this.onPeople(others);
  }

  #renderTyping() {
    const [first, ...more] = this.chat.typists;
    parts.typing.hidden = !first;
    parts['typing-text'].textContent = first ? t(more.length ? 'typing_many' : 'typing', { name: nameText(first.username) }) : '';
  }

  /** The element of a message. */
  #make({ message }) {
    const row = {
      node: element('li', `message ${message.system ? 'system' : message.mine ? 'mine' : 'theirs'}`),
      author: element('span', 'visually-hidden'),
      quote: element('button', 'quote'),
      title: element('span', 'kind-title'),
      pill: element('span', 'pill'),
      time: element('time'),
      text: element('span', 'text'),
      edited: element('span', 'edited'),
      tick: element('span', 'tick'),
      failure: element('p', 'failure'),
    };
    const [bubble, meta] = [element('div', 'bubble'), element('span', 'meta')];
    row.text.dir = 'auto';
    meta.append(row.edited, row.time, row.tick);
    row.quote.addEventListener('click', () => this.#goTo(row.shown.reply_to));
    row.more = this.#menu.button(() => row.shown);
    bubble.append(row.author, row.quote, row.title, row.text, row.pill, meta, row.more);
    row.node.append(bubble);
    return row;
  }

  #update(row, { day, message, follows }) {
    if (day) return void (row.node.textContent = dayText(day));
    row.node.classList.toggle('follows', follows);
    row.quote.hidden = !message.reply_to || message.deleted;
    if (!row.quote.hidden) this.#kinds.quote(row.quote, this.chat, message);
    this.#showCard(row, message);
    if (row.shown === message && row.lang === language()) return;
    Object.assign(row, { shown: message, lang: language() });
    if (message.message_id) row.node.dataset.id = message.message_id;
    const at = new Date(message.created_at);
    row.author.textContent = `${message.mine ? t('you') : nameText(message.sender_username)}: `;
    row.time.textContent = timeText(at);
    row.time.dateTime = at.toISOString();
    row.node.classList.toggle('deleted', message.deleted);
    row.edited.textContent = message.edited && !message.deleted && !message.kind ? t('edited') : '';
    row.more.hidden = message.deleted || message.seq === null;
    row.more.title = row.more.ariaLabel = t('actions');
    if (message.mine) this.#showState(row, message);
  }

  /** The text of a message, or what is shown of its data. */
  #showCard(row, message) {
    const card = this.#kinds.card(message);
    row.node.classList.toggle('card', !!card);
    row.title.hidden = !card;
    row.pill.hidden = !card?.label;
    row.title.textContent = card?.title ?? '';
    row.pill.textContent = card?.label ?? '';
    row.pill.dataset.state = card?.state ?? '';
    row.text.textContent = message.deleted ? t('deleted') : (card?.text ?? message.content);
  }

  #showState(row, { key, state, error, deleted }) {
    row.node.dataset.state = state;
    row.tick.hidden = deleted;
    row.tick.title = t(state);
    row.tick.replaceChildren(icon(state), element('span', 'visually-hidden', t(state)));
    row.failure.remove();
    if (state !== 'failed') return;
    const [retry, discard] = [element('button', 'link', t('retry')), element('button', 'link', t('discard'))];
    retry.addEventListener('click', () => this.chat.retry(key));
    discard.addEventListener('click', () => this.chat.discard(key));
    row.failure.setAttribute('role', 'alert');
    row.failure.replaceChildren(reasonText(error), ' ', retry, ' ', discard);
    row.node.append(row.failure);
  }

  /** Shows a message, and puts the focus on it. It may be on an earlier page. */
  async #goTo(id) {
    const { chat } = this;
    const find = () => parts.messages.querySelector(`[data-id="${id}"]`);
    while (!find() && chat.hasOlder && (await chat.loadOlder(200)).ok && this.chat === chat) this.render();
    const node = this.chat === chat && find();
    if (!node) return;
    this.#atEnd = false;
    node.tabIndex = -1;
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: 'center' });
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = parts.thread;
    // What grows below is no reason to stay behind; only scrolling up is.
    this.#atEnd = scrollHeight - scrollTop - clientHeight < NEAR_END || (this.#atEnd && scrollTop >= this.#top);
    if (scrollTop < NEAR_START && scrollTop < this.#top) this.#loadOlder();
    this.#top = scrollTop;
    parts.jump.hidden = this.#atEnd;
    this.#see();
  }

  #loadOlder() {
    if (this.chat?.hasOlder) this.chat.loadOlder();
  }

  #toEnd() {
    parts.thread.scrollTop = parts.thread.scrollHeight;
  }

  /** What is on the screen has been seen. */
  #see() {
    if (this.chat && this.isShowing(this.chat.id)) this.chat.read();
  }

  /* ---------- Writing ---------- */

  /** Enter sends, Shift+Enter is a new line, Escape ends an edit. */
  #listenToComposer() {
    parts['editing-cancel'].addEventListener('click', () => this.#stopEdit());
    parts['replying-cancel'].addEventListener('click', () => this.#reply(null));
    parts.text.addEventListener('input', () => {
      this.#renderComposer();
      this.chat?.type(!this.#editing && parts.text.value.trim() !== '');
    });
    parts.text.addEventListener('blur', () => this.chat?.type(false));
    parts.text.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !event.isComposing) this.#editing ? this.#stopEdit() : this.#reply(null);
      // 229: in Safari, the key that ends the composition of an input method comes after it.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      parts.composer.requestSubmit();
    });
    parts.composer.addEventListener('submit', (event) => {
      event.preventDefault();
      const text = parts.text.value;
      if (parts.send.disabled) return;
      if (this.#editing) {
        this.#change('edit', this.#editing.key, text);
        return this.#stopEdit();
      }
      parts.text.value = '';
      this.#send(text);
    });
  }

  /** Sends a message; `more`: its kind and data. */
  #send(text, more = {}) {
    const reply_to = this.#replyTo?.message_id;
    this.#replyTo = null;
    this.#atEnd = true;
    this.chat.send(text, { ...more, ...(reply_to && { reply_to }) });
    this.#renderComposer();
    parts.text.focus();
  }

  /** The next message replies to this one; null: to none. */
  #reply(message) {
    this.#endEdit();
    this.#replyTo = message;
    this.#renderComposer();
    parts.text.focus();
  }

  /** Takes a message into the field. */
  #edit({ key, content }) {
    this.#endEdit();
    this.#replyTo = null;
    this.#editing = { key, draft: parts.text.value };
    this.chat.type(false);
    parts.text.value = content;
    this.#renderComposer();
    parts.text.focus();
    parts.text.setSelectionRange(content.length, content.length);
  }

  /** Puts what was written before back into the field. */
  #endEdit() {
    if (!this.#editing) return;
    parts.text.value = this.#editing.draft;
    this.#editing = null;
  }

  #stopEdit() {
    this.#endEdit();
    this.#renderComposer();
    parts.text.focus();
  }

  #delete({ key }) {
    if (this.#editing?.key === key) this.#endEdit();
    this.#change('delete', key);
    parts.thread.focus({ preventScroll: true }); // The button is gone.
  }

  /** Edits or deletes a message, which shows it at once, and says why that failed. */
  async #change(action, key, text) {
    const { chat } = this;
    parts['action-said'].textContent = '';
    const { error } = await chat[action](key, text);
    if (error && chat === this.chat) parts['action-said'].textContent = changeErrorText(action, error);
  }

  #renderComposer() {
    parts.text.disabled = this.chat?.state === 'closed';
    const length = [...parts.text.value.trim()].length; // Characters: an emoji is one.
    parts.count.hidden = length <= CHARS - COUNT;
    parts.count.textContent = parts.count.hidden ? '' : numberText(CHARS - length);
    parts.count.classList.toggle('over', length > CHARS);
    parts.text.ariaInvalid = length > CHARS;
    parts.editing.hidden = !this.#editing;
    parts.replying.hidden = !this.#replyTo;
    parts['replying-text'].textContent = this.#replyTo
      ? t('replying', { name: nameText(this.#replyTo.sender_username), text: this.#kinds.line(this.#replyTo) })
      : '';
    parts.attach.disabled = parts.text.disabled || !!this.#editing;
    parts.send.ariaLabel = t(this.#editing ? 'save' : 'send');
    parts.send.disabled = parts.text.disabled || length === 0 || length > CHARS;
    parts.text.style.height = 'auto';
    parts.text.style.height = `${parts.text.scrollHeight + 2}px`;
  }
}

/** Messages and the days between them, each with the key of its element. */
function entriesOf(messages) {
  const entries = [];
  let above = null;
  for (const message of messages) {
    const at = new Date(message.created_at);
    if (!above || !sameDay(above.at, at)) entries.push([at.toDateString(), { day: at }]);
    const follows =
      above?.mine === message.mine && above.sender === message.sender_id && sameDay(above.at, at) && at - above.at < GROUP_MS;
    entries.push([message.key, { message, follows }]);
    above = { at, mine: message.mine, sender: message.sender_id };
  }
  return entries;
}
