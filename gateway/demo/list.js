/** The list of conversations: who, about what, what was said last, how much is unread. */

import { isMuted } from '/client/settings.js';
import { Rows, arrange, element, icon, nameText, parts, showAvatar } from './dom.js';
import { listErrorText, t, whenText } from './words.js';

/** The archived conversations, until they are loaded. */
const NOT_LOADED = { items: [], loaded: false, hasOlder: false, error: null };

export class List {
  #rows = new Rows(
    () => this.#make(),
    (row, item) => this.#update(row, item),
  );

  /** `onOpen(id)`: one was chosen. */
  constructor(rt, { onOpen }) {
    /** The archived conversations, while they are shown in place of the others. */
    this.archived = null;
    /** Runs when the list is shown anew. */
    this.onShown = () => {};
    Object.assign(this, { rt, onOpen, list: rt.conversations(), current: 0 });
    this.list.on('change', () => this.render());
    parts.archived.addEventListener('click', () => {
      this.archived = this.archived ? null : NOT_LOADED;
      this.archived ? this.reloadArchived() : this.render();
    });
    parts['more-conversations'].addEventListener('click', () => this.list.loadOlder());
    parts['list-retry'].addEventListener('click', () => this.#retry());
  }

  /** How many messages are unread, in all conversations that are here and not muted. */
  get unread() {
    return this.list.items.reduce((sum, item) => sum + (isMuted(item) ? 0 : item.unread_count), 0);
  }

  /** One of them, if it is here. */
  item(id) {
    return this.list.find(id) ?? this.archived?.items.find((item) => item.conversation_id === id);
  }

  /** Marks the one that is open. */
  select(id) {
    this.current = id;
    this.render();
  }

  /** Reads the archived conversations again, if they are shown. */
  async reloadArchived() {
    if (!this.archived) return;
    const page = await this.rt.call('GET', '/api/conversations?archived=true&limit=200');
    if (!this.archived) return;
    if (page.ok) this.archived = { ...NOT_LOADED, items: page.data.items, loaded: true };
    else this.archived = { ...this.archived, error: page.error };
    this.render();
  }

  #retry() {
    if (this.archived) this.reloadArchived();
    else if (this.list.hasOlder) this.list.loadOlder();
    else this.list.reload();
  }

  render() {
    const { items, loaded, hasOlder, error } = this.archived ?? this.list;
    parts.archived.ariaPressed = !!this.archived;
    arrange(parts.conversations, this.#rows.show(items.map((item) => [item.conversation_id, item])));
    parts['no-conversations'].hidden = !loaded || items.length > 0;
    parts['more-conversations'].hidden = !hasOlder;
    parts['list-error'].hidden = !error;
    parts['list-reason'].textContent = error ? listErrorText(error) : '';
    this.onShown();
    document.title = this.unread ? t('title_unread', { n: this.unread }) : t('title');
  }

  #make() {
    const [node, button, texts] = [element('li'), element('button', 'row'), element('span', 'row-texts')];
    const row = {
      node,
      button,
      avatar: element('span', 'avatar'),
      name: element('strong'),
      time: element('time'),
      title: element('span', 'row-title'),
      last: element('span', 'row-last'),
      badge: element('span', 'badge'),
      marks: element('span', 'marks'),
    };
    row.avatar.ariaHidden = 'true';
    const [first, second] = [element('span', 'row-line'), element('span', 'row-line')];
    first.append(row.name, row.marks, row.time);
    second.append(row.last, row.badge);
    texts.append(first, row.title, second);
    button.append(row.avatar, texts);
    button.addEventListener('click', () => this.onOpen(row.id));
    node.append(button);
    return row;
  }

  #update(row, item) {
    const { rt } = this;
    const others = item.participants.filter((person) => person.user_id !== rt.userId);
    const { last_message: last } = item;
    const at = new Date(last?.created_at ?? item.created_at);
    row.id = item.conversation_id;
    row.button.dataset.conversation = row.id;
    row.button.classList.toggle('unread', item.unread_count > 0);
    row.button.ariaCurrent = row.id === this.current ? 'true' : null;
    showAvatar(row.avatar, others[0] ?? { user_id: 0, username: '?' });
    row.name.textContent = others.map(({ username }) => nameText(username)).join(', ');
    row.marks.replaceChildren(...this.#marksOf(item));
    row.button.classList.toggle('muted', isMuted(item));
    row.title.textContent = item.title ?? '';
    row.time.textContent = whenText(at);
    row.time.dateTime = at.toISOString();
    row.last.replaceChildren(...this.#lastOf(last));
    row.badge.hidden = item.unread_count === 0;
    row.badge.replaceChildren(
      String(Math.min(item.unread_count, 99)),
      element('span', 'visually-hidden', ` ${t('unread_messages', { n: item.unread_count })}`),
    );
  }

  /** What the user has set, as icons with a text. */
  #marksOf(item) {
    const marks = [item.pinned && 'pin', isMuted(item) && 'muted'].filter(Boolean);
    const text = (mark) => t(mark === 'pin' ? 'pinned' : mark);
    return marks.flatMap((mark) => [icon(mark), element('span', 'visually-hidden', `${text(mark)} `)]);
  }

  #lastOf(last) {
    if (!last) return [t('nothing_said')];
    if (!last.content) return [element('em', '', t('deleted'))];
    if (last.sender_id !== this.rt.userId) return [last.content];
    const state = last.is_read ? 'read' : 'sent';
    return [icon(state), element('span', 'visually-hidden', `${t('you')}: `), last.content];
  }
}
