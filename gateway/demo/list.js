/** The list of conversations: who, about what, what was said last, how much is unread. */

import { Rows, arrange, element, icon, nameText, parts, showAvatar } from './dom.js';
import { listErrorText, t, whenText } from './words.js';

export class List {
  #rows = new Rows(
    () => this.#make(),
    (row, item) => this.#update(row, item),
  );

  /** `onOpen(id)`: one was chosen. */
  constructor(rt, { onOpen }) {
    Object.assign(this, { rt, onOpen, list: rt.conversations(), current: 0 });
    this.list.on('change', () => this.render());
    parts['more-conversations'].addEventListener('click', () => this.list.loadOlder());
    parts['list-retry'].addEventListener('click', () => (this.list.hasOlder ? this.list.loadOlder() : this.list.reload()));
  }

  /** How many messages are unread, in all conversations that are here. */
  get unread() {
    return this.list.items.reduce((sum, item) => sum + item.unread_count, 0);
  }

  /** One of them, if it is here. */
  item(id) {
    return this.list.find(id);
  }

  /** Marks the one that is open. */
  select(id) {
    this.current = id;
    this.render();
  }

  render() {
    const { items, loaded, hasOlder, error } = this.list;
    arrange(parts.conversations, this.#rows.show(items.map((item) => [item.conversation_id, item])));
    parts['no-conversations'].hidden = !loaded || items.length > 0;
    parts['more-conversations'].hidden = !hasOlder;
    parts['list-error'].hidden = !error;
    parts['list-reason'].textContent = error ? listErrorText(error) : '';
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
    };
    row.avatar.ariaHidden = 'true';
    const [first, second] = [element('span', 'row-line'), element('span', 'row-line')];
    first.append(row.name, row.time);
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

  #lastOf(last) {
    if (!last) return [t('nothing_said')];
    if (!last.content) return [element('em', '', t('deleted'))];
    if (last.sender_id !== this.rt.userId) return [last.content];
    const state = last.is_read ? 'read' : 'sent';
    return [icon(state), element('span', 'visually-hidden', `${t('you')}: `), last.content];
  }
}
