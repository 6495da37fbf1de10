/**
 * The demo: a marketplace's inbox, for one person, on the client of `clients/js`.
 *
 * The address carries everything: `/demo/#me=<jwt>`, and optionally `peer=<jwt>` (a link to the other's window), `lang`,
 * `c` (the open conversation) and `nats` (for the command in the panel).
 */

import { connect } from '/client/realtime.js';
import { Actions } from './actions.js';
import { Bell } from './bell.js';
import { element, nameText, parts, showAvatar } from './dom.js';
import { List } from './list.js';
import { PresenceLine } from './presence.js';
import { ConversationSettings, Settings } from './settings.js';
import { Thread } from './thread.js';
import { closedText, lostText, setLanguage, t } from './words.js';

const WIDE = matchMedia('(min-width: 761px)');
const fragment = () => new URLSearchParams(location.hash.slice(1));

/** The fragment with other values; null takes one out. */
function fragmentWith(values) {
  const next = fragment();
  for (const [name, value] of Object.entries(values)) value === null ? next.delete(name) : next.set(name, value);
  return `#${next}`;
}

/** Whom a token speaks for, or null where it can't be read. Whether it is genuine is for the server to say. */
function personOf(token) {
  try {
    const payload = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (char) => char.charCodeAt(0))));
    const id = Number(claims.user_id);
    return Number.isSafeInteger(id) && id > 0 ? { user_id: id, username: String(claims.username || `user-${id}`) } : null;
  } catch {
    return null;
  }
}

/** One person's inbox. */
class App {
  #lost = false;

  constructor(me, token, nats) {
    this.me = me;
    this.rt = connect({ url: location.origin, token });
    this.list = new List(this.rt, { onOpen: (id) => this.go(id) });
    this.actions = new Actions(this.rt, { onOpen: (id) => this.go(id) });
    this.thread = new Thread(this.rt, {
      describe: (id) => this.list.item(id),
      onPeople: (people) => this.actions.show(people),
    });
    this.presence = new PresenceLine(this.rt);
    this.settings = new Settings(this.rt);
    this.own = new ConversationSettings(this.rt, { onChange: () => this.list.reloadArchived() });
    this.bell = new Bell(this.rt, {
      nats,
      isSeen: ({ type, data }) => type === 'message_received' && this.thread.isShowing(data.conversation_id),
      onOpen: ({ data }) => data.conversation_id && this.go(data.conversation_id),
    });
    for (const id of ['app', 'bell', 'me', 'status']) parts[id].hidden = false;
    showAvatar(parts.me, me);
    this.rt.on('state', () => this.#showConnection());
    this.rt.on('error', () => this.#showConnection());
    parts.back.addEventListener('click', () => this.go(null));
    window.addEventListener('popstate', () => this.#show());
    WIDE.addEventListener('change', () => this.#choose());
    this.list.onShown = () => this.own.show(this.list.item(this.thread.chat?.id));
    this.list.list.on('change', () => this.#choose());
    this.#show();
  }

  /** Opens a conversation, or the list where there is room for only one of them. */
  go(id) {
    if (id === Number(fragment().get('c'))) return parts.text.focus();
    const from = Number(fragment().get('c'));
    history.pushState(null, '', fragmentWith({ c: id }));
    this.#show();
    if (id) (WIDE.matches ? parts.text : parts['peer-name']).focus();
    else parts.conversations.querySelector(`[data-conversation="${from}"]`)?.focus();
  }

  /** Everything that has words in it. */
  render() {
    parts.me.title = t('signed_in', { name: nameText(this.me.username) });
    parts.me.role = 'img';
    parts.me.ariaLabel = parts.me.title;
    for (const part of [this.list, this.thread, this.actions, this.bell, this.presence, this.settings]) part.render();
    this.#showConnection();
  }

  /** What the address says is open. */
  #show() {
    const id = Number(fragment().get('c')) || null;
    this.thread.open(id);
    this.presence.open(id);
    this.list.select(id);
    parts.app.dataset.open = id ?? '';
    parts.conversation.hidden = !id;
    parts.nothing.hidden = !!id;
  }

  /** Where there is room, the newest is open. */
  #choose() {
    const [first] = this.list.list.items;
    if (!WIDE.matches || !first || fragment().get('c')) return;
    history.replaceState(null, '', fragmentWith({ c: first.conversation_id }));
    this.#show();
  }

  /** The banner stays until all is well again; a first connection that takes a moment is no reason for one. */
  #showConnection() {
    const { state, error } = this.rt;
    this.#lost = state !== 'online' && (this.#lost || state === 'offline');
    document.body.dataset.state = state;
    parts.status.textContent = t(state);
    parts.banner.classList.toggle('fatal', state === 'closed');
    if (state === 'closed') parts.banner.textContent = closedText(error);
    else if (!this.#lost) parts.banner.replaceChildren();
    else if (state === 'offline' || !parts.banner.firstChild) {
      const retry = element('button', 'link', t('retry'));
      retry.addEventListener('click', () => this.rt.reconnect());
      parts.banner.replaceChildren(element('span', '', lostText(error)), retry);
    }
  }
}

function start() {
  const [token, peer, nats] = ['me', 'peer', 'nats'].map((name) => fragment().get(name) ?? '');
  const [me, other] = [personOf(token), personOf(peer)];
  parts.welcome.hidden = !!me;
  parts['welcome-reason'].hidden = !token;
  // It ends up in a command to paste into a shell: nothing but an address may pass.
  const app = me && new App(me, token, /^(nats|tls):\/\/[\w.:-]+$/.test(nats) ? nats : '');

  const choose = (lang) => {
    setLanguage(lang);
    for (const button of buttons) button.ariaPressed = button.dataset.lang === document.documentElement.lang;
    if (other) {
      parts.other.hidden = false;
      parts.other.href = fragmentWith({ me: peer, peer: token, c: null });
      parts['other-name'].textContent = nameText(other.username);
      parts.other.title = parts.other.ariaLabel = t('other', { name: nameText(other.username) });
    }
    app?.render();
  };
  const buttons = document.querySelectorAll('button[data-lang]');
  for (const button of buttons) {
    button.addEventListener('click', () => {
      history.replaceState(history.state, '', fragmentWith({ lang: button.dataset.lang })); // It survives a reload.
      choose(button.dataset.lang);
    });
  }
  choose(fragment().get('lang') ?? (navigator.language.startsWith('en') ? 'en' : 'fr'));
  // Someone else's address was pasted into this window.
  window.addEventListener('hashchange', () => fragment().get('me') !== token && location.reload());
}

start();
