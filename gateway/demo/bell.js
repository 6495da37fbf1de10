/** Notifications: the bell, its panel, and the toasts. */

import { archiveNotification, markSeen } from '/client/settings.js';
import { Rows, arrange, element, icon, parts } from './dom.js';
import { t, whenText } from './words.js';

const ICONS = { message_received: 'chat', payment_completed: 'card', listing_published: 'tag' };
const TOAST_MS = 7_000;

export class Bell {
  #rows = new Rows(
    () => this.#make(),
    (row, item) => this.#update(row, item),
  );

  /** `isSeen(item)`: what it is about is on the screen; `onOpen(item)`: it was chosen. */
  constructor(rt, { isSeen, onOpen, nats }) {
    Object.assign(this, { rt, isSeen, onOpen, inbox: rt.notifications() });
    this.inbox.on('change', () => this.render());
    this.inbox.on('notification', (item) => this.#ring(item));
    parts.bell.addEventListener('click', () => this.#toggle(parts.panel.hidden));
    parts['read-all'].addEventListener('click', () => this.inbox.readAll());
    parts['older-notifications'].addEventListener('click', () => this.inbox.loadOlder());
    document.addEventListener('keydown', ({ key }) => key === 'Escape' && this.#toggle(false));
    document.addEventListener('pointerdown', ({ target }) => {
      if (!parts.panel.contains(target) && !parts.bell.contains(target)) this.#toggle(false, false);
    });
    this.#showCommand(nats);
  }

  render() {
    const { unread, unseen, items, hasOlder, state } = this.inbox;
    // The number of those that are new; what was seen in the panel may still be unread.
    parts['bell-badge'].hidden = unseen === 0;
    parts['bell-badge'].textContent = unseen > 99 ? '99+' : unseen;
    if (!parts.panel.hidden && document.visibilityState === 'visible') markSeen(this.rt);
    parts.bell.ariaLabel = t('bell', { n: unread });
    parts['read-all'].hidden = unread === 0;
    parts['no-notifications'].hidden = items.length > 0 || state === 'loading';
    parts['older-notifications'].hidden = !hasOlder;
    arrange(parts.notifications, this.#rows.show(items.map((item) => [item.notification_id, item])));
  }

  /** Opens or closes the panel; `back`: the focus goes to where it came from. */
  #toggle(open, back = true) {
    if (open === !parts.panel.hidden) return;
    parts.panel.hidden = !open;
    parts.bell.ariaExpanded = open;
    parts.toasts.replaceChildren(); // The list says the same.
    if (open) this.render();
    if (open) parts['panel-title'].focus();
    else if (back) parts.bell.focus();
  }

  #ring(item) {
    if (this.isSeen(item)) return;
    parts.bell.classList.remove('ring');
    requestAnimationFrame(() => parts.bell.classList.add('ring'));
    if (!parts.panel.hidden) return;
    const toast = element('button', 'toast');
    toast.append(...faceOf(item));
    toast.addEventListener('click', () => this.#open(item, toast.remove()));
    parts.toasts.prepend(toast);
    // Not one that someone is about to press.
    [...parts.toasts.children]
      .slice(2)
      .find((old) => !old.matches(':hover, :focus'))
      ?.remove();
    const end = () => (toast.matches(':hover, :focus') ? setTimeout(end, TOAST_MS / 2) : toast.remove());
    setTimeout(end, TOAST_MS);
  }

  #make() {
    const [node, button, archive] = [element('li'), element('button', 'notification'), element('button', 'round archive')];
    archive.append(icon('archive'));
    node.append(button, archive);
    const row = { node, button, archive };
    archive.addEventListener('click', () => this.#archive(row));
    button.addEventListener('click', () => this.#open(row.item));
    return row;
  }

  #update(row, item) {
    row.item = item;
    row.button.classList.toggle('unread', !item.is_read);
    row.archive.title = row.archive.ariaLabel = t('archive', { title: item.title });
    const at = new Date(item.created_at);
    const time = element('time', '', whenText(at));
    time.dateTime = at.toISOString();
    row.button.replaceChildren(...faceOf(item), time);
    if (!item.is_read) row.button.append(element('span', 'visually-hidden', t('unread')));
  }

  #open(item) {
    if (!item.is_read) this.inbox.read(item.notification_id);
    this.#toggle(false);
    this.onOpen(item);
  }

  /** The focus goes to the next one, because the button is gone. */
  async #archive(row) {
    const next = row.node.nextElementSibling ?? row.node.previousElementSibling;
    const hadFocus = row.node.contains(document.activeElement);
    const done = await archiveNotification(this.rt, row.item.notification_id);
    if (done.ok && hadFocus) (next?.querySelector('.archive') ?? parts['panel-title']).focus();
  }

  /** The command that notifies this person from outside. */
  #showCommand(nats) {
    const server = nats && `-s ${nats} `;
    this.rt.on('state', () => {
      const event = `{"user_id":${this.rt.userId},"data":{"payment_id":789}}`;
      parts.command.textContent = `nats ${server}pub events.payment_completed '${event}'`;
    });
    parts.copy.addEventListener('click', () => {
      getSelection().selectAllChildren(parts.command);
      if (!document.execCommand('copy')) return; // `navigator.clipboard` is missing on plain http.
      parts.copy.textContent = t('copied');
      setTimeout(() => (parts.copy.textContent = t('copy')), 1_600);
    });
  }
}

/** Icon, title and message, as the server worded them. */
function faceOf({ type, title, message }) {
  const texts = element('span', 'texts');
  texts.append(element('strong', '', title), element('span', '', message));
  return [icon(ICONS[type] ?? 'bell'), texts];
}
