/**
 * The demo: two people side by side in one window, each with the guide's three sockets and the HTTP API.
 *
 * The address carries everything: `/demo/#conversation=7&a=<jwt>&b=<jwt>`, and optionally `&lang=en` and, for the
 * command at the foot of the page, `&nats=nats://host:port`. What others wrote only ever becomes text, never markup.
 *
 * From top to bottom: words, helpers, Channel (a socket that comes back), Thread (messages), Typing, Inbox
 * (notifications), Composer, Pane (one person: all of these), and the page.
 */

const PAGE = 50;
const NOTIFICATIONS = `/api/notifications?limit=${PAGE}`;
const TYPING_EVERY_MS = 2000; // At most one `true` in this time; the server forgets a typist after 6 s.
const TYPING_SHOWN_MS = 8000; // In case the end is lost.
const ACK_MS = 8000; // The server answers a send within 5 s.
const RETRY_READ_MS = 3000;
const STABLE_MS = 5000; // After a connection that held this long, backoff starts anew.
const GROUP_MS = 5 * 60_000; // One sender's messages closer than this stand together.
const FATAL = new Set([4401, 4403, 1003, 1009]); // Closes that reconnecting can't mend.

/* ---------- Words: French, English ---------- */

/** What the page says by itself; words that always stand in one place are in the HTML, in `data-fr` and `data-en`. */
const WORDS = {
  side: ['Côté {name}', '{name}’s side'],
  today: ['Aujourd’hui', 'Today'],
  yesterday: ['Hier', 'Yesterday'],
  you: ['Vous', 'You'],
  typing: ['{name} écrit', '{name} is typing'],
  sending: ['Envoi en cours', 'Sending'],
  sent: ['Envoyé', 'Sent'],
  read: ['Lu', 'Read'],
  failed: ['Non envoyé', 'Not sent'],
  retry: ['Réessayer', 'Try again'],
  online: ['Connecté', 'Connected'],
  connecting: ['Connexion…', 'Connecting…'],
  offline: ['Hors ligne', 'Offline'],
  closed: ['Déconnecté', 'Disconnected'],
  lost: ['Connexion perdue. Nouvel essai…', 'Connection lost. Trying again…'],
  bell: ['Notifications\u00a0: {n} non lues', 'Notifications: {n} unread'],
  unread: ['Non lue', 'Unread'],
  copied: ['Copié', 'Copied'],
  copy: ['Copier', 'Copy'],
  error: ['Le message n’est pas parti.', 'The message did not go out.'],
  error_blocked: ['Cette personne vous a bloqué.', 'This person has blocked you.'],
  error_invalid_message: ['Ce message ne peut pas être envoyé tel quel.', 'This message can’t be sent as it is.'],
  error_message_too_long: ['4\u202f000 caractères au plus.', '4,000 characters at most.'],
  error_rate_limited: ['Trop de messages à la fois. Patientez un peu.', 'Too many messages at once. Give it a moment.'],
  error_timeout: ['Pas de réponse du serveur.', 'No answer from the server.'],
  error_unavailable: ['Service indisponible pour le moment.', 'Unavailable for the moment.'],
  close_1003: ['Le serveur a refusé ce que cette page envoie.', 'The server refused what this page sends.'],
  close_1009: ['Le serveur a refusé un envoi trop volumineux.', 'The server refused something too big.'],
  close_4401: ['Cet accès a expiré. Ouvrez la nouvelle adresse que donne «\u202fcargo xtask up\u202f».',
    'This access has expired. Open the new address that “cargo xtask up” prints.'],
  close_4403: ['Cette conversation n’existe pas, ou vous n’y participez pas.',
    'This conversation does not exist, or you are not part of it.'],
};

let lang = 'fr';

/** The text for a key in the current language, `{name}` and the like filled in. */
function t(key, values = {}) {
  return WORDS[key][lang === 'fr' ? 0 : 1].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Puts the words that the HTML holds into the current language. */
function translate(root) {
  for (const node of root.querySelectorAll('[data-fr]')) node.textContent = node.dataset[lang];
  for (const node of root.querySelectorAll('[data-fr-label]')) {
    node.ariaLabel = node.dataset[`${lang}Label`];
    if ('placeholder' in node) node.placeholder = node.ariaLabel;
  }
}

const locale = () => (lang === 'fr' ? 'fr' : 'en-GB');
const timeText = (date) => date.toLocaleTimeString(locale(), { hour: '2-digit', minute: '2-digit' });
const sameDay = (a, b) => a.toDateString() === b.toDateString();

function dayText(date) {
  const yesterday = new Date();
  if (sameDay(date, yesterday)) return t('today');
  yesterday.setDate(yesterday.getDate() - 1);
  if (sameDay(date, yesterday)) return t('yesterday');
  return date.toLocaleDateString(locale(), { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
}

/* ---------- Helpers ---------- */

function element(tag, className = '', text = '') {
  const node = document.createElement(tag);
  if (tag === 'button') node.type = 'button';
  node.className = className;
  node.textContent = text;
  return node;
}

/** One of the icons in the page's sprite. */
function icon(name) {
  const [svg, use] = ['svg', 'use'].map((tag) => document.createElementNS('http://www.w3.org/2000/svg', tag));
  use.setAttribute('href', `#icon-${name}`);
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Makes `parent` hold exactly `children`, in order, moving only what is out of place. */
function arrange(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    const there = parent.children[index];
    if (child !== there) parent.insertBefore(child, there);
  });
}

const initials = (name) => name.split(/[\s._-]+/, 2).map((part) => [...part][0] ?? '').join('').toUpperCase();

/** 128 random bits in hex; unlike `randomUUID`, on plain http too. */
function randomId() {
  const parts = [...crypto.getRandomValues(new Uint32Array(4))];
  return parts.map((part) => part.toString(16).padStart(8, '0')).join('');
}

/** Half to all of a growing time, so that many clients don't come back at the same moment. */
const backoffMs = (attempt) => Math.min(15_000, 500 * 2 ** attempt) * (0.5 + Math.random() / 2);

function idOf(value) {
  if (!/^\d{1,19}$/.test(value)) throw new Error('no id');
  return String(value);
}

/**
 * Whom a token speaks for. Whether it is genuine is for the server to say.
 * @typedef {{id: string, name: string, token: string}} Person
 * @returns {Person}
 */
function personOf(token) {
  const payload = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
  const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (char) => char.charCodeAt(0))));
  const id = idOf(claims.user_id);
  return { id, name: String(claims.username || `user-${id}`), token };
}

const fragment = () => new URLSearchParams(location.hash.slice(1));

/** What the address says; null when it says nothing, `broken` when it can't be used. */
function readAddress() {
  const [conversation, a, b, nats] = ['conversation', 'a', 'b', 'nats'].map((name) => fragment().get(name) ?? '');
  if (!conversation && !a && !b) return null;
  // It ends up in a command to paste into a shell: nothing but an address may pass.
  const server = /^(nats|tls):\/\/[\w.:-]+$/.test(nats) ? nats : '';
  try {
    return { conversation: idOf(conversation), people: [personOf(a), personOf(b)], nats: server };
  } catch {
    return { broken: true };
  }
}

/* ---------- A socket that comes back ---------- */

/** Keeps a socket open. Its `state`: connecting, online, offline (will try again) or closed (gave up, for `code`). */
class Channel {
  state = 'connecting';
  code = 0;
  #socket = null;
  #attempt = 0;
  #timer = 0;

  /** `query` is called for each attempt, as `after` moves on. */
  constructor(path, query, onFrame, onState) {
    Object.assign(this, { path, query, onFrame, onState });
  }

  connect() {
    clearTimeout(this.#timer);
    const origin = location.origin.replace(/^http/, 'ws');
    const socket = new WebSocket(`${origin}${this.path}?${new URLSearchParams(this.query())}`);
    let openedAt = Infinity;
    this.#socket = socket;
    this.#become('connecting');
    socket.onopen = () => {
      openedAt = performance.now();
      this.#become('online');
    };
    socket.onmessage = ({ data }) => this.onFrame(JSON.parse(data));
    socket.onclose = ({ code }) => {
      if (FATAL.has(code)) return this.#become('closed', code);
      if (performance.now() - openedAt > STABLE_MS) this.#attempt = 0;
      this.#timer = setTimeout(() => this.connect(), Math.max(code === 4429 ? 10_000 : 0, backoffMs(this.#attempt++)));
      this.#become('offline', code);
    };
  }

  /** Sends a frame; false when there is no connection to send it on. */
  send(frame) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Tries now what would be tried later. */
  wake() {
    if (this.state === 'offline') this.connect();
  }

  #become(state, code = 0) {
    Object.assign(this, { state, code });
    this.onState();
  }
}

/* ---------- Messages ---------- */

/**
 * A conversation as one person sees it: what is stored, in order, then what is on its way.
 *
 * @typedef {object} Item
 * @property {string} key  the same for a draft and the message that it becomes, and so is their element
 * @property {number} id  `message_id`; Infinity for a draft
 * @property {'sending' | 'sent' | 'failed'} state  of one's own; whether it is read is asked of the markers
 */
class Thread {
  /** The last message that is here: where a socket resumes. */
  cursor = 0;
  /** Whether the end is in view, and so is to stay there. */
  atEnd = true;
  #items = new Map();
  #keys = new Map(); // message_id → key
  #markers = new Map(); // user id → the seq up to which they have read
  #rows = new Map(); // key → elements
  #top = 0;

  constructor(parts, me, { onRetry, onSeen }) {
    Object.assign(this, { parts, me, onRetry, onSeen });
    parts.thread.addEventListener('scroll', () => this.#scrolled());
    parts.jump.addEventListener('click', () => this.#toEnd());
    const sizes = new ResizeObserver(() => this.atEnd && this.#toEnd());
    sizes.observe(parts.thread);
    sizes.observe(parts.content);
  }

  has(id) {
    return this.#keys.has(id);
  }

  /** Takes in a message of the server, which may be here already, as it is or as a draft. */
  store(frame) {
    const mine = String(frame.sender_id) === this.me.id;
    const key = this.#keys.get(frame.message_id) ?? ((mine && frame.client_id) || `message-${frame.message_id}`);
    const item = this.#items.get(key) ?? { key };
    clearTimeout(item.timer);
    Object.assign(item, {
      id: frame.message_id, seq: frame.seq, mine, content: frame.content, at: new Date(frame.created_at),
      sender: frame.sender_username, isRead: item.isRead || frame.is_read, state: 'sent',
    });
    this.#items.set(key, item);
    this.#keys.set(item.id, key);
    this.cursor = Math.max(this.cursor, item.id);
    this.markRead(frame.sender_id, frame.seq); // Who writes has read what stands above; no frame says so.
  }

  /** A message of one's own, shown before it is sent. */
  draft(content) {
    const key = randomId();
    const item = { key, id: Infinity, seq: Infinity, mine: true, content, at: new Date(), state: 'sending' };
    this.#items.set(key, item);
    this.atEnd = true;
    return item;
  }

  draftOf(clientId) {
    return this.#items.get(clientId);
  }

  /** What is on its way, oldest first. */
  unsent() {
    return [...this.#items.values()].filter((item) => item.state === 'sending');
  }

  setState(item, state, error = '') {
    if (item?.id !== Infinity) return; // Stored in the meantime.
    Object.assign(item, { state, error });
    this.render();
  }

  markRead(userId, seq) {
    this.#markers.set(String(userId), Math.max(seq, this.#markers.get(String(userId)) ?? 0));
  }

  /** The newest message if it is someone else's: what there is to be read. */
  unanswered() {
    const newest = this.#sorted().findLast((item) => item.id !== Infinity);
    return newest && !newest.mine ? newest.id : 0;
  }

  render() {
    const nodes = [];
    let above = null;
    for (const item of this.#sorted()) {
      if (!above || !sameDay(above.at, item.at)) nodes.push(this.#day(item.at));
      nodes.push(this.#message(item, together(above, item)));
      above = item;
    }
    arrange(this.parts.messages, nodes);
    this.parts.empty.hidden = nodes.length > 0;
    this.onSeen();
  }

  #sorted() {
    return [...this.#items.values()].sort((a, b) => (a.id === b.id ? a.at - b.at : a.id - b.id));
  }

  #stateOf(item) {
    const read = item.isRead || [...this.#markers].some(([user, seq]) => user !== this.me.id && seq >= item.seq);
    return item.state === 'sent' && read ? 'read' : item.state;
  }

  #day(at) {
    const key = at.toDateString();
    if (!this.#rows.has(key)) this.#rows.set(key, element('li', 'day'));
    this.#rows.get(key).textContent = dayText(at);
    return this.#rows.get(key);
  }

  /** The element of a message: made once, brought up to date each time. */
  #message(item, follows) {
    if (!this.#rows.has(item.key)) this.#rows.set(item.key, this.#newRow(item));
    const row = this.#rows.get(item.key);
    row.node.classList.toggle('follows', follows);
    row.author.textContent = `${item.mine ? t('you') : item.sender}: `;
    row.time.textContent = timeText(item.at);
    row.time.dateTime = item.at.toISOString();
    if (item.mine) this.#showState(row, item);
    return row.node;
  }

  #newRow(item) {
    const row = {
      node: element('li', `message ${item.mine ? 'mine' : 'theirs'}`), author: element('span', 'visually-hidden'),
      time: element('time'), tick: element('span', 'tick'), failure: element('p', 'failure'),
    };
    const [bubble, meta] = [element('div', 'bubble'), element('span', 'meta')];
    const text = element('span', 'text', item.content);
    text.dir = 'auto';
    meta.append(row.time, row.tick);
    bubble.append(row.author, text, meta);
    row.node.append(bubble);
    return row;
  }

  #showState(row, item) {
    const state = this.#stateOf(item);
    const shown = [state, item.error, lang].join();
    if (row.shown === shown) return;
    row.shown = shown;
    row.node.dataset.state = state;
    row.tick.title = t(state);
    row.tick.replaceChildren(icon(state), element('span', 'visually-hidden', t(state)));
    row.failure.setAttribute('role', 'alert');
    row.failure.remove();
    if (state !== 'failed') return;
    const retry = element('button', 'link', t('retry'));
    const reason = `error_${item.error}`;
    retry.addEventListener('click', () => this.onRetry(item));
    row.failure.replaceChildren(t(reason in WORDS ? reason : 'error'), ' ', retry);
    row.node.append(row.failure);
  }

  #scrolled() {
    const { thread, jump } = this.parts;
    const { scrollTop, scrollHeight, clientHeight } = thread;
    // What grows below is no reason to stay behind; only scrolling up is.
    this.atEnd = scrollHeight - scrollTop - clientHeight < 40 || (this.atEnd && scrollTop >= this.#top);
    this.#top = scrollTop;
    jump.hidden = this.atEnd;
    this.onSeen();
  }

  #toEnd() {
    this.parts.thread.scrollTop = this.parts.thread.scrollHeight;
  }
}

/** Whether `b` stands close below `a`: of the same sender and time. */
const together = (a, b) => a?.mine === b.mine && sameDay(a.at, b.at) && b.at - a.at < GROUP_MS;

/* ---------- Typing ---------- */

/** Tells the others, sparingly, when one types; and shows who else does. */
class Typing {
  #toldAt = -Infinity;
  #timer = 0;

  constructor(parts, send) {
    Object.assign(this, { parts, send });
  }

  /** The text in the composer has changed. */
  typed(text) {
    if (!text.trim()) return this.stopped();
    const now = performance.now();
    if (now - this.#toldAt > TYPING_EVERY_MS && this.send({ is_typing: true })) this.#toldAt = now;
  }

  stopped() {
    if (this.#toldAt > -Infinity) this.send({ is_typing: false });
    this.#toldAt = -Infinity;
  }

  /** Someone else has started or stopped; `null`: nobody types any more. */
  heard(name) {
    clearTimeout(this.#timer);
    if (name) this.#timer = setTimeout(() => this.heard(null), TYPING_SHOWN_MS);
    this.name = name;
    this.render();
  }

  /** The connection has changed: what was said before no longer counts. */
  reset() {
    this.#toldAt = -Infinity;
    this.heard(null);
  }

  render() {
    this.parts.typing.hidden = !this.name;
    this.parts['typing-text'].textContent = t('typing', { name: this.name });
  }
}

/* ---------- Notifications ---------- */

/** The bell, its list, and the toasts. */
class Inbox {
  /** The last notification: where a socket resumes. */
  cursor = 0;
  #items = new Map(); // notification_id → frame
  #unread = 0;

  /** `isShown(frame)`: whether the person is looking at what it is about, and needs no toast. */
  constructor(parts, { send, isShown, onOpen }) {
    Object.assign(this, { parts, send, isShown, onOpen });
    parts.inbox.id = `inbox-${randomId()}`;
    parts.bell.setAttribute('aria-controls', parts.inbox.id);
    parts.bell.addEventListener('click', () => this.#toggle(parts.inbox.hidden));
    parts['read-all'].addEventListener('click', () => send({ type: 'read_all' }));
    parts.phone.addEventListener('keydown', ({ key }) => {
      if (key !== 'Escape' || parts.inbox.hidden) return;
      this.#toggle(false);
      parts.bell.focus();
    });
    document.addEventListener('pointerdown', ({ target }) => {
      if (!parts.inbox.contains(target) && !parts.bell.contains(target)) this.#toggle(false);
    });
  }

  /** The newest page of the inbox. */
  load(items) {
    for (const frame of items) this.#items.set(frame.notification_id, frame);
    this.cursor = Math.max(0, ...this.#items.keys());
    this.#unread = [...this.#items.values()].filter((frame) => !frame.is_read).length;
    this.render();
  }

  /** A frame of the socket: a notification, or what has been read. */
  heard(frame) {
    if (frame.type === 'error' || frame.type === 'auth') return;
    if (frame.type === 'read') this.#markRead(frame.notification_id, frame.all);
    else this.#add(frame);
    this.#unread = frame.unread_count;
    this.render();
  }

  render() {
    const { badge, bell, notifications } = this.parts;
    const unread = this.#unread > 0;
    badge.hidden = !unread;
    badge.textContent = this.#unread > 99 ? '99+' : this.#unread;
    bell.ariaLabel = t('bell', { n: this.#unread });
    this.parts['read-all'].hidden = !unread;
    this.parts['inbox-empty'].hidden = this.#items.size > 0;
    notifications.replaceChildren(...this.#listed().map((frame) => this.#row(frame)));
  }

  /** Newest first. The last one about a conversation's messages stands for those before it. */
  #listed() {
    const conversations = new Set();
    const newestFirst = [...this.#items.values()].sort((a, b) => b.notification_id - a.notification_id);
    const listed = newestFirst.filter(({ type, data }) => {
      if (type !== 'message_received') return true;
      const { size } = conversations;
      return conversations.add(data.conversation_id).size > size;
    });
    return listed.slice(0, PAGE);
  }

  #toggle(open) {
    const { inbox, bell, toasts } = this.parts;
    if (open === !inbox.hidden) return;
    inbox.hidden = !open;
    bell.ariaExpanded = open;
    toasts.replaceChildren(); // The list says the same.
  }

  #add(frame) {
    const isNew = !this.#items.has(frame.notification_id);
    this.#items.delete(frame.replaces);
    this.#items.set(frame.notification_id, frame);
    this.cursor = Math.max(this.cursor, frame.notification_id);
    if (!isNew || frame.is_read) return;
    this.parts.bell.classList.remove('ring');
    requestAnimationFrame(() => this.parts.bell.classList.add('ring'));
    if (!this.isShown(frame)) this.#toast(frame);
  }

  #markRead(id, upTo) {
    for (const [key, frame] of this.#items) if (key === id || (upTo && key < id)) frame.is_read = true;
  }

  #toast(frame) {
    const toast = element('button', 'toast');
    toast.append(...this.#face(frame));
    toast.addEventListener('click', () => this.#open(frame, toast.remove()));
    this.parts.toasts.prepend(toast);
    this.parts.toasts.children[2]?.remove();
    setTimeout(() => toast.remove(), 7000);
  }

  #row(frame) {
    const [row, button] = [element('li'), element('button', frame.is_read ? 'notification' : 'notification unread')];
    const at = new Date(frame.created_at);
    const day = at.toLocaleDateString(locale(), { day: 'numeric', month: 'short' });
    button.append(...this.#face(frame), element('time', '', sameDay(at, new Date()) ? timeText(at) : day));
    if (!frame.is_read) button.append(element('span', 'visually-hidden', t('unread')));
    button.addEventListener('click', () => this.#open(frame));
    row.append(button);
    return row;
  }

  /** Icon, title and message, as the server worded them. */
  #face({ type, title, message }) {
    const icons = { message_received: 'chat', payment_completed: 'card', listing_published: 'tag' };
    const texts = element('span', 'texts');
    texts.append(element('strong', '', title), element('span', '', message));
    return [icon(icons[type] ?? 'bell'), texts];
  }

  #open(frame) {
    this.send({ type: 'read', notification_id: frame.notification_id });
    this.#toggle(false);
    this.onOpen(frame);
  }
}

/* ---------- Writing ---------- */

/** The field to write in: Enter sends, Shift+Enter is a new line. */
class Composer {
  constructor(parts, { onSend, onType, onStop }) {
    Object.assign(this, { parts, onSend, onStop });
    parts.text.addEventListener('input', () => {
      this.render();
      onType(parts.text.value);
    });
    parts.text.addEventListener('blur', () => onStop());
    parts.text.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    parts.send.addEventListener('click', () => this.#submit());
  }

  disable() {
    this.parts.text.disabled = true;
    this.render();
  }

  render() {
    const { text, send } = this.parts;
    send.disabled = text.disabled || !text.value.trim();
    text.style.height = 'auto';
    text.style.height = `${text.scrollHeight + 2}px`;
  }

  #submit() {
    const { text, send } = this.parts;
    if (send.disabled) return;
    const content = text.value.trim();
    text.value = '';
    this.render();
    this.onStop();
    this.onSend(content);
    text.focus();
  }
}

/* ---------- One person ---------- */

/** One side of the page: a person, their sockets, and what they see. */
class Pane {
  #inView = true;
  #readSent = 0;

  /** `peer` is who the other token speaks for; what the server says of the conversation comes first. */
  constructor(me, peer, conversation, hue) {
    Object.assign(this, { me, peer, conversation, title: '' });
    this.history = `/api/conversations/${conversation}/messages?limit=${PAGE}`;
    this.root = document.getElementById('pane-template').content.firstElementChild.cloneNode(true);
    this.root.dataset.userId = me.id;
    this.parts = {};
    for (const node of this.root.querySelectorAll('[data-part]')) this.parts[node.dataset.part] = node;
    this.parts.avatar.classList.add(`hue-${hue}`);
    this.parts['peer-avatar'].classList.add(`hue-${1 - hue}`);
    this.#makeParts();
    this.#makeChannels();
    this.#watchView();
  }

  #makeParts() {
    this.thread = new Thread(this.parts, this.me, {
      onRetry: (item) => this.#transmit(item),
      onSeen: () => this.#sendRead(),
    });
    this.typing = new Typing(this.parts, (frame) => this.typingChannel.send(frame));
    this.inbox = new Inbox(this.parts, {
      send: (frame) => this.inboxChannel.send(frame),
      isShown: (frame) => this.#isHere(frame) && this.#isLooking(),
      onOpen: (frame) => this.#isHere(frame) && this.parts.text.focus(),
    });
    this.composer = new Composer(this.parts, {
      onSend: (content) => this.#transmit(this.thread.draft(content)),
      onType: (text) => this.typing.typed(text),
      onStop: () => this.typing.stopped(),
    });
  }

  #makeChannels() {
    const { token } = this.me;
    this.chat = new Channel(`/ws/chat/${this.conversation}/`, () => ({ token, after: this.thread.cursor }),
      (frame) => this.#onChat(frame), () => this.#onChatState());
    this.inboxChannel = new Channel('/ws/notifications/', () => ({ token, after: this.inbox.cursor }),
      (frame) => this.inbox.heard(frame), () => this.#onInboxState());
    this.typingChannel = new Channel(`/ws/typing/${this.conversation}/`, () => ({ token }),
      (frame) => frame.type === 'typing' && this.typing.heard(frame.is_typing ? frame.username : null),
      () => (this.typing.reset(), this.#showConnection()));
    this.channels = [this.chat, this.inboxChannel, this.typingChannel];
  }

  #watchView() {
    new IntersectionObserver(([{ intersectionRatio }]) => {
      this.#inView = intersectionRatio >= 0.5;
      this.#sendRead();
    }, { threshold: 0.5 }).observe(this.parts.thread);
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.wake();
      this.#sendRead();
    });
    window.addEventListener('online', () => this.wake());
  }

  /** History first, then each socket from there on: nothing falls between. */
  start() {
    this.typingChannel.connect();
    this.#insist(this.history, ({ items }) => {
      items.forEach((frame) => this.thread.store(frame));
      this.thread.render();
      this.chat.connect();
    });
    this.#insist(NOTIFICATIONS, ({ items }) => {
      this.inbox.load(items);
      this.inboxChannel.connect();
    });
    this.#get(`/api/conversations/${this.conversation}`).then(({ title, participants }) => {
      const others = participants.filter(({ user_id: id }) => String(id) !== this.me.id);
      this.title = title ?? '';
      this.peer = { ...this.peer, name: others.map(({ username }) => username).join(', ') };
      this.render();
    }, () => {}); // It only names things; the chat goes without.
  }

  wake() {
    for (const channel of this.channels) channel.wake();
  }

  /** Everything that has words in it. */
  render() {
    const { parts, me, peer, title } = this;
    translate(this.root);
    parts['side-name'].textContent = t('side', { name: me.name });
    parts.avatar.textContent = initials(me.name);
    parts['peer-name'].textContent = peer.name;
    parts['peer-avatar'].textContent = initials(peer.name);
    parts.listing.textContent = title;
    parts['listing-line'].hidden = !title;
    for (const part of [this.thread, this.typing, this.inbox, this.composer]) part.render();
    this.#showConnection();
  }

  /** The JSON at `path`. Rejects with `status`: 0 when there was no answer. */
  async #get(path) {
    const headers = { Authorization: `Bearer ${this.me.token}`, 'Accept-Language': lang };
    const answer = await fetch(path, { headers, signal: AbortSignal.timeout(10_000) }).catch(() => ({ status: 0 }));
    if (!answer.ok) throw Object.assign(new Error(`HTTP ${answer.status}`), { status: answer.status });
    return answer.json();
  }

  /** Asks for a page until there is an answer. A refusal counts as an empty one: the socket then says why. */
  #insist(path, use, attempt = 0) {
    this.#get(path).then(use, ({ status }) => {
      if (status >= 400 && status < 500 && status !== 429) use({ items: [] });
      else setTimeout(() => this.#insist(path, use, attempt + 1), backoffMs(attempt));
    });
  }

  #onChat(frame) {
    if (frame.type === 'message') return this.#onMessage(frame);
    if (frame.type === 'read') this.thread.markRead(frame.user_id, frame.seq);
    if (frame.type === 'error') this.#onError(frame);
    this.thread.render();
  }

  /** Sends carry a `client_id`; so an error without one is of a receipt, which nobody waits for. */
  #onError({ client_id: clientId, code }) {
    if (clientId) this.thread.setState(this.thread.draftOf(clientId), 'failed', code);
    else if (code === 'unavailable' || code === 'rate_limited') setTimeout(() => this.#sendReadAgain(), RETRY_READ_MS);
  }

  #onMessage(frame) {
    const isNew = !this.thread.has(frame.message_id);
    this.thread.store(frame);
    this.thread.render();
    if (String(frame.sender_id) === this.me.id) return;
    this.typing.heard(null);
    if (isNew) this.parts.announcer.textContent = `${frame.sender_username}: ${frame.content}`;
  }

  #onChatState() {
    const { state } = this.chat;
    for (const item of this.thread.unsent()) {
      if (state === 'online') this.#transmit(item);
      else clearTimeout(item.timer); // It goes out again, with the same client_id, when the connection is back.
      if (state === 'closed') this.thread.setState(item, 'failed');
    }
    if (state === 'closed') this.composer.disable();
    if (state === 'online') this.#catchUp();
    this.#showConnection();
  }

  #onInboxState() {
    this.#showConnection();
    if (this.inboxChannel.state !== 'online') return;
    this.#get(NOTIFICATIONS).then(({ items }) => this.inbox.load(items), () => {}); // What was read meanwhile.
  }

  /** `after` brings the messages that were missed; what was read of the older ones is asked for. */
  async #catchUp() {
    this.#sendReadAgain();
    const { items } = await this.#get(this.history).catch(() => ({ items: [] }));
    items.filter((frame) => this.thread.has(frame.message_id)).forEach((frame) => this.thread.store(frame));
    this.thread.render();
  }

  /** Sends a message: now, or when the connection is back. */
  #transmit(item) {
    this.thread.setState(item, 'sending');
    clearTimeout(item.timer);
    if (!this.chat.send({ message: item.content, client_id: item.key })) return;
    item.timer = setTimeout(() => this.thread.setState(item, 'failed', 'timeout'), ACK_MS);
  }

  #isHere({ type, data }) {
    return type === 'message_received' && String(data.conversation_id) === this.conversation;
  }

  /** Whether the end of the conversation is on the screen. */
  #isLooking() {
    return document.visibilityState === 'visible' && this.#inView && this.thread.atEnd;
  }

  /** Tells the server, once, that the newest message of someone else has been seen. */
  #sendRead() {
    const newest = this.thread.unanswered();
    if (newest <= this.#readSent || !this.#isLooking()) return;
    if (this.chat.send({ type: 'read', message_id: newest })) this.#readSent = newest;
  }

  #sendReadAgain() {
    this.#readSent = 0;
    this.#sendRead();
  }

  /** One state for the three sockets: the worst. The banner stays until all is well again. */
  #showConnection() {
    const { status, banner } = this.parts;
    const states = this.channels.map((channel) => channel.state);
    const state = ['closed', 'offline', 'connecting', 'online'].find((one) => states.includes(one));
    this.root.dataset.state = state;
    status.textContent = t(state);
    banner.classList.toggle('fatal', state === 'closed');
    if (state === 'online') banner.replaceChildren();
    if (state === 'closed') banner.textContent = t(`close_${this.channels[states.indexOf('closed')].code}`);
    if (state === 'offline') {
      const retry = element('button', 'link', t('retry'));
      retry.addEventListener('click', () => this.wake());
      banner.replaceChildren(element('span', '', t('lost')), retry);
    }
  }
}

/* ---------- The page ---------- */

/** The command that notifies one of the two from outside. */
function showCommand({ people, nats }) {
  const [code, copy, choices] = ['try-command', 'try-copy', 'try-people'].map((id) => document.getElementById(id));
  const choose = (chosen) => {
    for (const choice of choices.children) choice.ariaPressed = choice.dataset.id === chosen.id;
    const server = nats && `-s ${nats} `;
    const event = `{"user_id":${chosen.id},"data":{"payment_id":789}}`;
    code.textContent = `nats ${server}pub events.payment_completed '${event}'`;
  };
  for (const person of people) {
    const choice = element('button', '', person.name);
    choice.dataset.id = person.id;
    choice.addEventListener('click', () => choose(person));
    choices.append(choice);
  }
  copy.addEventListener('click', () => {
    getSelection().selectAllChildren(code);
    if (!document.execCommand('copy')) return; // `navigator.clipboard` is missing on plain http.
    copy.textContent = t('copied');
    setTimeout(() => (copy.textContent = t('copy')), 1600);
  });
  document.getElementById('try').hidden = false;
  choose(people[0]);
}

/** Switches the page, and notes the language in the address, so that it survives a reload. */
function setLanguage(next, panes) {
  lang = next;
  document.documentElement.lang = lang;
  for (const button of languageButtons) button.ariaPressed = button.dataset.lang === lang;
  translate(document);
  for (const pane of panes) pane.render();
  const noted = fragment();
  noted.set('lang', lang);
  history.replaceState(null, '', `#${noted}`);
}

/** Both people, and what the page says where the address is for neither. */
function makePanes() {
  const [stage, welcome, reason] = ['stage', 'welcome', 'welcome-reason'].map((id) => document.getElementById(id));
  const address = readAddress();
  stage.hidden = !address?.people;
  welcome.hidden = !stage.hidden;
  reason.hidden = !address?.broken;
  if (stage.hidden) return [];
  const [a, b] = address.people;
  const panes = [new Pane(a, b, address.conversation, 0), new Pane(b, a, address.conversation, 1)];
  stage.append(...panes.map((pane) => pane.root));
  showCommand(address);
  return panes;
}

const panes = makePanes();
const languageButtons = document.querySelectorAll('button[data-lang]');
for (const button of languageButtons) button.addEventListener('click', () => setLanguage(button.dataset.lang, panes));
window.addEventListener('hashchange', () => location.reload());
setLanguage(fragment().get('lang') === 'en' ? 'en' : 'fr', panes);
for (const pane of panes) pane.start();
