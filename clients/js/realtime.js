/**
 * The client of Vyzio Realtime, for browsers and Node: one socket that comes back by itself, and on it conversations,
 * notifications and typing. See README.md.
 *
 * From top to bottom: types, helpers, Tokens, Link (the socket), Conversation, Notifications, Conversations (the
 * list), Core (what these share), Realtime, `connect`. Fields of messages and notifications are named as on the wire.
 */

/**
 * Why something was not done. `code` is for programs: those of the server (`message_too_long`, `rate_limited`,
 * `blocked`, `forbidden`, `unauthorized`, `unavailable`, …) and the client's own: `network` (no answer),
 * `token_failed` (the callback threw), `queue_full` (too many messages wait), `refused` (the server ended the
 * connection for good), `closed` (by `close()`).
 * @typedef {{code: string, detail: string, retry_after_ms?: number}} Failure
 */
/**
 * What a call came to; calls never reject.
 * @template T
 * @typedef {{ok: true, data: T} | {ok: false, error: Failure}} Result
 */
/**
 * A message as a conversation shows it. A changed one is a new object; one that is the same object has not changed.
 * @typedef {object} Message
 * @property {string} key  the same before and after it is stored: what lists are keyed by
 * @property {number | null} message_id  null until it is stored
 * @property {number | null} seq  its place in the conversation, counted from 1; null until it is stored
 * @property {number} sender_id
 * @property {string} sender_username
 * @property {string} content
 * @property {string} created_at  RFC 3339; until it is stored, by this machine's clock
 * @property {string} [client_id]  of one's own
 * @property {boolean} mine
 * @property {'sending' | 'sent' | 'read' | 'failed' | 'received'} state  `received`: someone else's; `read`: by
 *   every other participant
 * @property {Failure} [error]  why it failed
 */
/** @typedef {{user_id: number, username: string}} Person */
/**
 * A conversation as the server describes it to the user.
 * @typedef {object} ConversationInfo
 * @property {number} conversation_id
 * @property {number | null} listing_id
 * @property {string | null} title
 * @property {string} created_at
 * @property {Person[]} participants
 * @property {WireMessage | null} last_message
 * @property {number} unread_count
 */
/**
 * @typedef {{conversation_id: number, message_id: number, seq: number, sender_id: number, sender_username: string,
 *   content: string, created_at: string, is_read: boolean, client_id?: string}} WireMessage
 */
/**
 * @typedef {object} Notification
 * @property {string} type
 * @property {number} notification_id
 * @property {number} seq
 * @property {string} title
 * @property {string} message
 * @property {any} data
 * @property {string} created_at
 * @property {boolean} is_read
 * @property {number} unread_count
 * @property {number} [replaces]  the notification that this one stands for from now on
 */
/** @typedef {'connecting' | 'online' | 'offline' | 'closed'} State */
/**
 * @typedef {object} Options
 * @property {string} url  where the gateway is, such as `https://rt.example.com` (a path before `/ws/` and `/api/` is kept)
 * @property {string | ((why: {refresh: boolean}) => string | null | undefined | Promise<string | null | undefined>)} token
 *   gives the user's JWT. With `refresh`, the one before has ended, ends soon or was refused: a cached one won't do.
 *   No token at all means that nobody is signed in: the connection closes.
 * @property {number} [userId]  whose token it is; by default the token's `user_id`
 * @property {any} [WebSocket]  what sockets are made of where the platform has none (Node before 22: `ws`)
 * @property {Partial<typeof TIMING>} [timing]  other times than the usual ones, in milliseconds
 */

/** Times, in milliseconds. */
const TIMING = {
  /** The first pause before reconnecting; it doubles from then on. */
  backoff: 500,
  /** The longest such pause. */
  backoffMax: 30_000,
  /** A connection that held so long was a good one: pauses start anew. */
  stable: 10_000,
  /** At most, after a restart of the server, before the first attempt: not everyone is to come at the same moment. */
  spread: 1_500,
  /** At least, when the server says that this is far too much. */
  limited: 10_000,
  /** Until a handshake is given up. */
  open: 15_000,
  /** Silence after which the server is asked for a sign of life: a browser can't ping. */
  idle: 20_000,
  /** Until an answer must have come, or the connection is dead. The server gives up after 5 s itself. */
  answer: 10_000,
  /** A page that comes back into view expects one sooner. */
  probe: 6_000,
  /** Once to twice: from the answer to a subscription until it is sure to be in force. */
  settle: 1_000,
  /** At most one `true` of typing in this time; the server forgets a typist after 6 s. */
  typing: 2_000,
  /** How long an HTTP call may take. */
  http: 10_000,
};
/** Messages of one conversation that wait to be sent. */
const QUEUE = 100;
/** Stored messages or notifications that are kept in memory; older ones can be loaded again. */
const KEEP = 2_000;
/** How often a message is tried that the server can't store for now. Each time it has tried for 5 s itself. */
const TRIES = 2;
/** Characters of a message. */
const CHARS = 4_000;
/** Closes that reconnecting can't mend. */
const FATAL = new Set([1003, 1009, 4400, 4403]);
/** Refusals in a row of tokens that were fresh. */
const REFUSALS = 3;
/** Answers to a question that asking again may mend. */
const PASSING = new Set(['network', 'unavailable', 'rate_limited', 'internal']);
/** A channel that nobody can be on: leaving it is answered, and changes nothing. */
const NOWHERE = 'typing/9007199254740991';

/** @type {{ok: false, error: Failure}} */
const NO_ANSWER = { ok: false, error: { code: 'network', detail: 'no answer from the server' } };
/** @type {Failure} */
const CLOSED = { code: 'closed', detail: 'the connection was closed by this client' };

/**
 * Waits, but not for ever.
 * @template T
 * @param {T | Promise<T>} value @param {number} ms
 * @returns {Promise<T>}
 */
function within(value, ms) {
  /** @type {any} */
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error('no answer in time')), ms)));
  return /** @type {Promise<T>} */ (Promise.race([value, late])).finally(() => clearTimeout(timer));
}

/** 128 random bits in hex; unlike `randomUUID`, on plain http too. */
const randomId = () =>
  [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16).padStart(8, '0')).join('');

/** The claims of a token. Whether it is genuine is for the server to say. @param {string} token */
function claimsOf(token) {
  try {
    const payload = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (char) => char.charCodeAt(0)))) ?? {};
  } catch {
    return {};
  }
}

/** Tells the listeners. @type {(emitter: Emitter<any>, type: string, value?: any) => void} */
let emit;

/**
 * Something that tells its listeners.
 * @template {Record<string, any>} Events
 */
class Emitter {
  /** @type {Map<any, Set<(value: any) => void>>} */
  #listeners = new Map();

  /**
   * Calls `listener` whenever this happens.
   * @template {keyof Events} Type
   * @param {Type} type
   * @param {(value: Events[Type]) => void} listener
   * @returns {() => void} ends it
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  static {
    emit = (emitter, type, value) => {
      for (const listener of [...(emitter.#listeners.get(type) ?? [])]) {
        try {
          listener(value);
        } catch (error) {
          queueMicrotask(() => { throw error; }); // As an event's: it is reported, and nothing here stops for it.
        }
      }
    };
  }
}

/* ---------- The token ---------- */

/** The user's token: asked for once, however many need it. */
class Tokens {
  /** @type {Promise<string | null> | null} */
  #asked = null;
  #token = '';
  #endsAt = Infinity;

  /** @param {Options['token']} source @param {number} patience */
  constructor(source, patience) {
    this.source = source;
    this.patience = patience;
  }

  /**
   * @param {boolean} refresh  whether the one that is here won't do
   * @returns {Promise<string | null>} rejects where the callback fails
   */
  get(refresh = false) {
    if (!refresh && this.#token && Date.now() < this.#endsAt) return Promise.resolve(this.#token);
    this.#asked ??= this.#ask(refresh || !!this.#token).finally(() => (this.#asked = null));
    return this.#asked;
  }

  /** @param {boolean} refresh */
  async #ask(refresh) {
    const { source } = this;
    const token = (typeof source === 'function' ? await within(source({ refresh }), this.patience) : source) || '';
    const { exp, iat, user_id: userId } = claimsOf(token);
    // A clock that is wrong must not make a token live longer than it was issued for.
    const left = Math.min(exp * 1000 - Date.now(), (exp - (iat ?? -Infinity)) * 1000);
    this.#token = token;
    this.#endsAt = Number.isFinite(left) ? Date.now() + left : Infinity;
    this.userId = Number(userId);
    return token || null;
  }

  /** In how long a fresh one is due: a minute before the end, or a fifth of a short life. */
  dueIn() {
    const left = this.#endsAt - Date.now();
    // Where it seems to have ended and the server has taken it, a clock is wrong: no reason to ask all the time.
    return left > 0 ? Math.min(Math.max(left - Math.min(60_000, left / 5), 1_000), 2 ** 31 - 1) : 30_000;
  }
}

/* ---------- The socket ---------- */

/**
 * What is subscribed to over the socket.
 * @typedef {object} Channel
 * @property {string} name
 * @property {() => number | undefined} after  where to resume
 * @property {(data: any) => void} onEvent
 * @property {() => void} [onJoined]
 * @property {() => void} [onLost]
 * @property {(error: Failure) => void} [onRefused]  for good
 */

/** One socket for everything, which comes back by itself. */
class Link {
  /** @type {State} */
  state = 'connecting';
  /** @type {Failure | null} */
  error = null;
  /** What wants to know when the connection is there: the queues of messages. @type {Set<() => void>} */
  waiting = new Set();
  /** @type {Map<string, Channel>} */
  #channels = new Map();
  /** Channels whose subscription was answered. @type {Set<Channel>} */
  #joined = new Set();
  /** @type {Map<number, (answer: any) => void>} */
  #asked = new Map();
  /** @type {any} */
  #socket = null;
  #open = false;
  #ref = 0;
  #attempt = 0;
  #refusals = 0;
  #tokenFailures = 0;
  #openedAt = 0;
  #heardAt = 0;
  #askedAt = 0;
  #patience = 0;
  /** @type {any} */
  #retryTimer = 0;
  /** @type {any} */
  #openTimer = 0;
  /** @type {any} */
  #tokenTimer = 0;
  /** @type {any} */
  #watch = 0;

  /**
   * @param {URL} url @param {Tokens} tokens @param {any} WebSocket @param {typeof TIMING} timing
   * @param {(type: 'state' | 'error', value: any) => void} tell
   */
  constructor(url, tokens, WebSocket, timing, tell) {
    this.url = url;
    this.tokens = tokens;
    this.WebSocket = WebSocket;
    this.timing = timing;
    this.tell = tell;
    this.#connect();
  }

  /** Half to all of a growing time, so that many clients don't come back at the same moment. @param {number} attempt */
  backoff(attempt) {
    return Math.min(this.timing.backoffMax, this.timing.backoff * 2 ** attempt) * (0.5 + Math.random() / 2);
  }

  async #connect() {
    clearTimeout(this.#retryTimer);
    const turn = (this.#socket = {}); // Holds the place of the socket to be: whoever takes it over ends this attempt.
    this.#become('connecting');
    let token, socket;
    try {
      token = await this.tokens.get(this.#refusals > 0);
      this.#tokenFailures = 0;
    } catch (cause) {
      if (turn !== this.#socket) return;
      this.tell('error', { code: 'token_failed', detail: String(cause) });
      this.#socket = null;
      return this.#retry(this.backoff(this.#tokenFailures++));
    }
    if (turn !== this.#socket) return;
    if (!token) return this.#giveUp({ code: 'unauthorized', detail: 'there is no token' });
    try {
      // In the subprotocols it stays out of addresses, and so out of logs.
      socket = new this.WebSocket(this.url.href, ['bearer', token]);
    } catch (cause) {
      return this.#giveUp({ code: 'refused', detail: String(cause) });
    }
    this.#socket = socket;
    this.#openTimer = setTimeout(() => this.#lost(socket, 1006), this.timing.open);
    socket.onopen = () => socket === this.#socket && this.#opened();
    socket.onmessage = (/** @type {any} */ { data }) => socket === this.#socket && this.#heard(JSON.parse(data));
    socket.onclose = (/** @type {any} */ { code }) => this.#lost(socket, code);
    socket.onerror = () => {}; // A close follows.
  }

  #opened() {
    clearTimeout(this.#openTimer);
    this.#open = true;
    this.#openedAt = this.#heardAt = Date.now();
    this.#askedAt = 0;
    this.#watch = setInterval(() => this.#look(), Math.min(this.timing.idle, this.timing.probe) / 4);
    this.#refreshIn(this.tokens.dueIn());
    // Who is refused is let in first, as a browser couldn't read why otherwise: only an answer says that all is well.
    this.#probe(this.timing.answer);
    for (const channel of this.#channels.values()) this.#subscribe(channel);
  }

  /** @param {any} frame */
  #heard(frame) {
    this.#heardAt = Date.now();
    this.#askedAt = 0;
    if (this.state !== 'online') {
      this.#become('online');
      for (const wake of [...this.waiting]) wake();
    }
    if (frame.op === 'event') {
      const channel = this.#channels.get(frame.channel);
      // Before the answer to a subscription, what comes is of an earlier one.
      if (channel && this.#joined.has(channel)) channel.onEvent(frame.data);
    } else {
      this.#asked.get(frame.ref)?.(frame);
    }
  }

  /** Whether the server still says something. */
  #look() {
    const now = Date.now();
    if (this.#askedAt && now - this.#askedAt > this.#patience) this.#lost(this.#socket, 1006);
    else if (!this.#askedAt && now - this.#heardAt > this.timing.idle) this.#probe(this.timing.answer);
  }

  /** @param {number} patience */
  #probe(patience) {
    this.ask({ op: 'unsubscribe', channel: NOWHERE });
    this.#patience = patience;
  }

  /**
   * The connection is gone, or as good as gone.
   * @param {any} socket @param {number} code
   */
  #lost(socket, code) {
    if (socket !== this.#socket) return;
    this.#drop();
    const stable = this.#openedAt && Date.now() - this.#openedAt > this.timing.stable;
    if (stable) this.#attempt = this.#refusals = 0;
    this.#openedAt = 0;
    if (FATAL.has(code)) return this.#giveUp({ code: 'refused', detail: `closed with ${code}` });
    let wait = this.backoff(this.#attempt++);
    if (code === 4401) {
      if (++this.#refusals > REFUSALS) {
        return this.#giveUp({ code: 'unauthorized', detail: 'the server refuses the tokens' });
      }
      if (this.#refusals === 1) wait = 0;
    }
    if (code === 4429) wait = Math.max(wait, this.timing.limited);
    if (code === 1012 && this.#attempt === 1) wait = Math.random() * this.timing.spread;
    this.#retry(wait);
  }

  /** @param {number} wait */
  #retry(wait) {
    this.#retryTimer = setTimeout(() => this.#connect(), wait);
    this.#become('offline');
  }

  /** @param {Failure} error */
  #giveUp(error) {
    this.#drop();
    clearTimeout(this.#retryTimer);
    this.#become('closed', error);
    for (const wake of [...this.waiting]) wake();
  }

  /** Lets go of the socket. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#open = false;
    clearTimeout(this.#openTimer);
    clearTimeout(this.#tokenTimer);
    clearInterval(this.#watch);
    try {
      socket?.close?.();
    } catch {
      // It never was open.
    }
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const answer of asked) answer({ op: 'lost' });
    const joined = [...this.#joined];
    this.#joined.clear();
    for (const channel of joined) channel.onLost?.();
  }

  /** @param {State} state @param {Failure | null} error */
  #become(state, error = null) {
    if (state === this.state && !error) return;
    this.error = error;
    this.state = state;
    this.tell('state', state);
  }

  /** Asks for a fresh token while the old one is still good. @param {number} ms */
  #refreshIn(ms) {
    clearTimeout(this.#tokenTimer);
    this.#tokenTimer = setTimeout(() => this.#refresh(), ms);
  }

  async #refresh() {
    const socket = this.#socket;
    const token = await this.tokens.get(true).catch((cause) => {
      this.tell('error', { code: 'token_failed', detail: String(cause) });
      return undefined;
    });
    if (socket !== this.#socket) return;
    // Without a fresh one the server ends the connection in time, and what comes then is decided then.
    if (!token) return this.#refreshIn(this.backoff(this.#tokenFailures++));
    this.#tokenFailures = 0;
    const answer = await this.ask({ op: 'auth', token });
    if (socket !== this.#socket) return;
    if (answer.ok) return this.#refreshIn(this.tokens.dueIn());
    this.#lost(socket, 4401); // Another user's, or one that has ended already.
  }

  /**
   * Asks the server something over the socket.
   * @param {object} frame
   * @returns {Promise<Result<null>>}
   */
  ask(frame) {
    return new Promise((resolve) => {
      if (!this.#open) return resolve(NO_ANSWER);
      const ref = this.#put(frame);
      this.#asked.set(ref, (answer) => {
        this.#asked.delete(ref);
        resolve(answer.op === 'ok' ? { ok: true, data: null } : answer.op === 'lost' ? NO_ANSWER : failed(answer));
      });
    });
  }

  /** Says something that nobody waits for. @param {object} frame */
  say(frame) {
    if (this.#open) this.#put(frame);
    return this.#open;
  }

  /** @param {object} frame */
  #put(frame) {
    const ref = ++this.#ref;
    this.#patience = this.timing.answer;
    this.#askedAt ||= Date.now();
    this.#socket.send(JSON.stringify({ ...frame, ref }));
    return ref;
  }

  /** @param {Channel} channel */
  join(channel) {
    this.#channels.set(channel.name, channel);
    if (this.#open) this.#subscribe(channel);
  }

  /** @param {Channel} channel */
  leave(channel) {
    if (this.#channels.get(channel.name) !== channel) return;
    this.#channels.delete(channel.name);
    this.#joined.delete(channel);
    this.say({ op: 'unsubscribe', channel: channel.name });
  }

  /** Joins again from where the channel is. @param {Channel} channel */
  rejoin(channel) {
    this.leave(channel);
    this.join(channel);
  }

  /** @param {Channel} channel */
  #subscribe(channel, attempt = 0) {
    const socket = this.#socket;
    const ref = this.#put({ op: 'subscribe', channel: channel.name, after: channel.after() });
    // The answer stays expected: what was let in may still fail while it is sent what it missed.
    this.#asked.set(ref, (answer) => {
      if (this.#channels.get(channel.name) !== channel) return void this.#asked.delete(ref);
      if (answer.op === 'ok') {
        this.#joined.add(channel);
        return channel.onJoined?.();
      }
      this.#asked.delete(ref);
      if (answer.op === 'lost') return;
      if (this.#joined.delete(channel)) channel.onLost?.();
      const { error } = failed(answer);
      if (!PASSING.has(error.code)) {
        this.#channels.delete(channel.name);
        return channel.onRefused?.(error);
      }
      setTimeout(() => {
        const here = socket === this.#socket && this.#channels.get(channel.name) === channel;
        if (here && !this.#joined.has(channel)) this.#subscribe(channel, attempt + 1);
      }, Math.max(error.retry_after_ms ?? 0, this.backoff(attempt)));
    });
  }

  /** Tries now what would be tried later; whether a connection that seems to be there is, is asked. */
  wake() {
    if (this.state === 'online') return this.#probe(this.timing.probe);
    if (this.error === CLOSED || this.#socket) return;
    this.#refusals = 0;
    this.#connect();
  }

  /** There is no network: what is open now is not. */
  offline() {
    if (this.#socket) this.#lost(this.#socket, 1006);
  }

  close() {
    if (this.error !== CLOSED) this.#giveUp(CLOSED);
  }
}

/** @param {any} answer @returns {{ok: false, error: Failure}} */
function failed({ code, detail, retry_after_ms: wait }) {
  return { ok: false, error: wait === undefined ? { code, detail } : { code, detail, retry_after_ms: wait } };
}

/* ---------- A conversation ---------- */

/**
 * A message of one's own that is not yet in the log.
 * @typedef {{shown: Message, tries: number, stored: boolean, settle: (message: Message) => void}} Draft
 */

/**
 * A conversation: an unbroken part of its log, up to its end, then what is on its way. Events: `change` (anything),
 * `message` (someone else's has just come in).
 * @extends {Emitter<{change: undefined, message: Message}>}
 */
class Conversation extends Emitter {
  /** What the server says of it, once it has. @type {ConversationInfo | null} */
  info = null;
  /** `loading` until the first messages are here, `live`, `waiting` for the connection, or `closed` for good.
   * @type {'loading' | 'live' | 'waiting' | 'closed'} */
  state = 'loading';
  /** Why it is closed. @type {Failure | null} */
  error = null;
  /** Who else types. @type {Person[]} */
  typists = [];
  /** Stored, by `seq`, without a hole. @type {Message[]} */
  #log = [];
  /** @type {Draft[]} */
  #drafts = [];
  /** @type {readonly Message[] | null} */
  #shown = null;
  /** How far each user has read, by `seq`. @type {Map<number, number>} */
  #markers = new Map();
  /** What every other participant has read, by `seq`. */
  #readByAll = 0;
  /** The end of the log, which may be empty. */
  #last = { seq: 0, id: 0 };
  /** The message up to which this user has read, and what of that the server knows. */
  #read = { id: 0, told: 0, asking: false };
  #typedAt = -Infinity;
  #sending = false;
  /** @type {Promise<Result<null>> | null} */
  #older = null;
  /** @type {Core} */
  #core;
  /** @type {Link} */
  #link;
  /** @type {Channel} */
  #channel;
  /** @type {Channel} */
  #typing;

  /** @param {any} core  of the connection: conversations come from `rt.conversation(id)` @param {number} id */
  constructor(core, id) {
    super();
    this.id = id;
    this.#core = core;
    this.#link = core.link;
    const refused = (/** @type {Failure} */ error) => this.#become('closed', error);
    this.#channel = {
      name: `chat/${id}`,
      after: () => this.#last.id,
      onEvent: (frame) => this.#onEvent(frame),
      onJoined: () => (this.#become('live'), this.#tellRead()),
      onLost: () => this.state !== 'closed' && this.#become('waiting'),
      onRefused: refused,
    };
    this.#typing = {
      name: `typing/${id}`,
      after: () => undefined,
      onEvent: (frame) => this.#onTyping(frame),
      onJoined: () => (this.#typedAt = -Infinity),
      onLost: () => this.#setTypists([]),
    };
    this.#load();
  }

  /** Oldest first; the last ones may still be on their way. The array is a new one after each change. */
  get messages() {
    this.#shown ??= Object.freeze([...this.#log, ...this.#drafts.map((draft) => draft.shown)]);
    return this.#shown;
  }

  /** How many messages the user has not read. */
  get unread() {
    return Math.max(0, this.#last.seq - this.#markerOf(this.#core.userId));
  }

  /** Whether there are messages before the first one that is here. */
  get hasOlder() {
    return this.#log.length > 0 && Number(this.#log[0].seq) > 1;
  }

  /**
   * Sends a message. It is in `messages` at once; when there is no connection, it goes out once there is.
   * @param {string} text
   * @returns {Promise<Message>} as it became: `sent` (stored), or `failed` with `error`; never rejects
   */
  send(text) {
    const content = text.trim();
    const key = randomId();
    return new Promise((settle) => {
      /** @type {Message} */
      const shown = {
        key, message_id: null, seq: null, sender_id: this.#core.userId, sender_username: '', content,
        created_at: new Date().toISOString(), client_id: key, mine: true, state: 'sending',
      };
      const draft = { shown, tries: 0, stored: false, settle };
      const waiting = this.#drafts.filter((other) => other.shown.state === 'sending').length;
      this.#drafts.push(draft);
      this.type(false);
      if (!content) this.#fail(draft, { code: 'invalid_message', detail: 'the message is empty' });
      else if ([...content].length > CHARS) this.#fail(draft, { code: 'message_too_long', detail: `at most ${CHARS} characters` });
      else if (waiting >= QUEUE) this.#fail(draft, { code: 'queue_full', detail: `${QUEUE} messages wait to be sent` });
      else this.#start();
      this.#changed();
    });
  }

  /**
   * Sends again what failed; as it has the same `client_id`, it can't be stored twice.
   * @param {string} key
   * @returns {Promise<Message> | null} as of `send`; null where no such message failed
   */
  retry(key) {
    const draft = this.#drafts.find(({ shown }) => shown.key === key && shown.state === 'failed');
    if (!draft) return null;
    const { error: _, ...shown } = draft.shown;
    return new Promise((settle) => {
      Object.assign(draft, { shown: { ...shown, state: 'sending' }, tries: 0, settle });
      this.#start();
      this.#changed();
    });
  }

  /** Forgets a message that failed. @param {string} key */
  discard(key) {
    this.#drafts = this.#drafts.filter(({ shown }) => shown.key !== key || shown.state !== 'failed');
    this.#changed();
  }

  /** The user has read everything that is here, or all up to a message. @param {number} [messageId] */
  read(messageId = this.#last.id) {
    const seq = this.#log.findLast((message) => Number(message.message_id) <= messageId)?.seq ?? 0;
    if (seq <= this.#markerOf(this.#core.userId)) return;
    this.#mark(this.#core.userId, seq);
    this.#read.id = Math.max(this.#read.id, messageId);
    this.#tellRead();
    this.#changed();
  }

  /**
   * The user types, or has stopped. May be called on every key: it is passed on sparingly, and ends by itself.
   * @param {boolean} [isTyping]
   */
  type(isTyping = true) {
    const now = Date.now();
    if (isTyping ? now - this.#typedAt < this.#core.timing.typing : this.#typedAt === -Infinity) return;
    const said = this.#link.say({ op: 'send', channel: this.#typing.name, data: { is_typing: isTyping } });
    this.#typedAt = isTyping && said ? now : -Infinity;
  }

  /** Loads messages before the first one. @param {number} [limit] @returns {Promise<Result<null>>} */
  loadOlder(limit = 50) {
    this.#older ??= this.#loadOlder(limit).finally(() => (this.#older = null));
    return this.#older;
  }

  /** Leaves it. What is on its way is still sent. */
  close() {
    if (this.state === 'closed') return;
    this.type(false);
    this.#link.leave(this.#channel);
    this.#link.leave(this.#typing);
    this.#become('closed', CLOSED);
    this.#settleUnfollowed();
    if (this.#core.conversations.get(this.id) === this) this.#core.conversations.delete(this.id);
  }

  /** The first messages, then the socket from there on: nothing falls between. */
  async #load() {
    for (let attempt = 0; this.state === 'loading'; attempt += 1) {
      const path = `/api/conversations/${this.id}`;
      const [info, page] = await Promise.all([this.#core.call('GET', path), this.#core.call('GET', `${path}/messages`)]);
      if (this.state !== 'loading') return;
      if (info.ok && page.ok) {
        this.info = info.data;
        for (const wire of page.data.items.reverse()) this.#append(wire);
        this.#mark(this.#core.userId, (info.data.last_message?.seq ?? 0) - info.data.unread_count);
        this.#become('waiting');
        this.#link.join(this.#typing);
        return this.#link.join(this.#channel);
      }
      const error = !info.ok ? info.error : /** @type {any} */ (page).error;
      if (!(await this.#core.again(error, attempt))) return this.#become('closed', error);
    }
  }

  /** @param {number} limit @returns {Promise<Result<null>>} */
  async #loadOlder(limit) {
    if (!this.hasOlder) return { ok: true, data: null };
    const before = this.#log[0].message_id;
    const page = await this.#core.call('GET', `/api/conversations/${this.id}/messages?before=${before}&limit=${limit}`);
    if (!page.ok) return page;
    if (this.#log[0].message_id === before) {
      const older = page.data.items.reverse().map((/** @type {WireMessage} */ wire) => this.#shownOf(wire));
      this.#log.unshift(...older);
      this.#changed();
    }
    return { ok: true, data: null };
  }

  /** @param {any} frame */
  #onEvent(frame) {
    if (frame.type === 'message') {
      const isNew = this.#append(frame);
      if (isNew && !this.#isMine(frame)) {
        this.#setTypists(this.typists.filter(({ user_id: id }) => id !== frame.sender_id));
        emit(this, 'message', this.#log[this.#log.length - 1]);
      }
    } else if (frame.type === 'read') {
      this.#mark(frame.user_id, frame.seq);
    }
    this.#showRead();
    this.#changed();
  }

  /** @param {{user_id: number, username: string, is_typing: boolean}} frame */
  #onTyping({ user_id: id, username, is_typing: isTyping }) {
    const others = this.typists.filter((person) => person.user_id !== id);
    this.#setTypists(isTyping ? [...others, { user_id: id, username }] : others);
  }

  /** @param {Person[]} typists */
  #setTypists(typists) {
    if (!typists.length && !this.typists.length) return;
    this.typists = typists;
    this.#changed();
  }

  /** @param {WireMessage} wire @returns {boolean} whether it is new */
  #append(wire) {
    const { seq, message_id: id, sender_id: sender } = wire;
    const next = seq === this.#last.seq + 1 || !this.#log.length;
    if (seq > this.#last.seq && !next) {
      this.#link.rejoin(this.#channel); // The server never leaves a hole; if it did, this mends it.
      return false;
    }
    const isNew = seq > this.#last.seq;
    if (isNew) {
      this.#log.push(this.#shownOf(wire));
      if (this.#log.length > KEEP) this.#log.splice(0, this.#log.length - KEEP);
      this.#last = { seq, id };
      this.#mark(sender, seq); // Who writes has read what stands above; no frame says so.
    }
    this.#settle(wire);
    return isNew;
  }

  /** A draft has become this. @param {WireMessage} wire */
  #settle(wire) {
    if (!wire.client_id || !this.#isMine(wire)) return;
    const draft = this.#drafts.find(({ shown }) => shown.key === wire.client_id);
    if (!draft) return;
    this.#drafts.splice(this.#drafts.indexOf(draft), 1);
    draft.settle(this.#log.findLast(({ key }) => key === wire.client_id) ?? this.#shownOf(wire));
  }

  /** @param {WireMessage} wire @returns {Message} */
  #shownOf({ message_id, seq, sender_id, sender_username, content, created_at, client_id, is_read: isRead }) {
    const mine = sender_id === this.#core.userId;
    if (mine && isRead) this.#readByAll = Math.max(this.#readByAll, seq);
    return {
      key: (mine && client_id) || `message-${message_id}`, message_id, seq, sender_id, sender_username, content,
      created_at, ...(mine && client_id && { client_id }), mine,
      state: !mine ? 'received' : seq <= this.#readByAll ? 'read' : 'sent',
    };
  }

  /** @param {WireMessage} wire */
  #isMine(wire) {
    return wire.sender_id === this.#core.userId;
  }

  /** @param {number} user */
  #markerOf(user) {
    return this.#markers.get(user) ?? 0;
  }

  /** A marker moves forward only. @param {number} user @param {number} seq */
  #mark(user, seq) {
    this.#markers.set(user, Math.max(seq, this.#markerOf(user)));
  }

  /** Shows as read what every other participant has read. */
  #showRead() {
    const others = this.info?.participants.filter((person) => person.user_id !== this.#core.userId) ?? [];
    const read = Math.min(...others.map((person) => this.#markerOf(person.user_id)));
    if (others.length) this.#readByAll = Math.max(this.#readByAll, read);
    for (let at = this.#log.length - 1; at >= 0; at -= 1) {
      const message = this.#log[at];
      if (message.state === 'read') break; // And so is what stands above.
      if (message.state === 'sent' && Number(message.seq) <= this.#readByAll) this.#log[at] = { ...message, state: 'read' };
    }
  }

  /** Tells the server how far the user has read: once, and again where the answer got lost. */
  async #tellRead() {
    const read = this.#read;
    if (read.asking || read.told >= read.id || this.state !== 'live') return;
    read.asking = true;
    const upTo = read.id;
    const answer = await this.#link.ask({ op: 'send', channel: this.#channel.name, data: { type: 'read', message_id: upTo } });
    read.asking = false;
    if (answer.ok) read.told = upTo;
    else if (answer.error.code === 'network') return; // Told when the channel is joined again.
    else if (!(await this.#core.again(answer.error, 1))) read.told = upTo;
    this.#tellRead();
  }

  #start() {
    this.#link.waiting.add(this.#pump);
    this.#pump();
  }

  /** Sends what waits, one after the other: so the order stays, whatever has to be sent again. */
  #pump = async () => {
    if (this.#sending) return;
    this.#sending = true;
    let draft;
    while ((draft = this.#drafts.find(({ shown, stored }) => shown.state === 'sending' && !stored))) {
      if (this.#link.error) this.#fail(draft, this.#link.error);
      else if (!(await this.#transmit(draft))) break;
    }
    this.#sending = false;
    if (!draft) this.#link.waiting.delete(this.#pump);
  };

  /** Tries to send one. @param {Draft} draft @returns {Promise<boolean>} false when there is no connection */
  async #transmit(draft) {
    const data = { message: draft.shown.content, client_id: draft.shown.key };
    const answer = await this.#link.ask({ op: 'send', channel: this.#channel.name, data });
    if (!this.#drafts.includes(draft)) return true; // Its echo was faster.
    if (answer.ok) {
      draft.stored = true; // Its place is told by the log, where that is followed.
      this.#settleUnfollowed();
      return true;
    }
    if (answer.error.code === 'network') return this.#link.state === 'online' || this.#link.error !== null;
    if (answer.error.code !== 'rate_limited') draft.tries += 1;
    if (draft.tries >= TRIES || !(await this.#core.again(answer.error, draft.tries))) this.#fail(draft, answer.error);
    return true;
  }

  /** What is stored of a conversation that was left will not be told by its log. */
  #settleUnfollowed() {
    if (this.state !== 'closed') return;
    for (const draft of this.#drafts.filter(({ stored }) => stored)) {
      this.#drafts.splice(this.#drafts.indexOf(draft), 1);
      draft.settle({ ...draft.shown, state: 'sent' });
    }
  }

  /** @param {Draft} draft @param {Failure} error */
  #fail(draft, error) {
    draft.shown = { ...draft.shown, state: 'failed', error };
    draft.settle(draft.shown);
    this.#changed();
  }

  /** @param {Conversation['state']} state @param {Failure | null} error */
  #become(state, error = null) {
    this.state = state;
    this.error = error;
    this.#showRead();
    this.#changed();
  }

  #changed() {
    this.#shown = null;
    emit(this, 'change');
    this.#core.noticed(this);
  }
}

/* ---------- Notifications ---------- */

/**
 * The user's notifications. Events: `change` (anything), `notification` (a new one: in one tab only, of all that the
 * user has open in this browser; so it is for sounds and banners).
 * @extends {Emitter<{change: undefined, notification: Notification}>}
 */
class Notifications extends Emitter {
  /** Newest first; the last one about a conversation's messages stands for those before it. @type {readonly Notification[]} */
  items = [];
  /** How many are unread, whether they are here or not. */
  unread = 0;
  /** Whether there are older ones. */
  hasOlder = false;
  /** @type {Conversation['state']} */
  state = 'loading';
  #last = 0;
  #version = 0;
  #said = Promise.resolve();
  /** @type {any} */
  #timer = 0;
  /** @type {Core} */
  #core;
  /** @type {Link} */
  #link;
  /** @type {Channel} */
  #channel;

  /** @param {any} core  of the connection: they come from `rt.notifications()` */
  constructor(core) {
    super();
    this.#core = core;
    this.#link = core.link;
    this.#channel = {
      name: 'notifications',
      after: () => this.#last,
      onEvent: (frame) => this.#onEvent(frame),
      onJoined: () => (this.#become('live'), this.#lookSoon()),
      onLost: () => this.#become('waiting'),
    };
    this.#look().then((found) => found && this.state === 'loading' && (this.#become('waiting'), this.#link.join(this.#channel)));
  }

  /** Marks one as read. @param {number} id @returns {Promise<Result<null>>} */
  read(id) {
    return this.#ask({ type: 'read', notification_id: id });
  }

  /** Marks all as read. @returns {Promise<Result<null>>} */
  readAll() {
    return this.#ask({ type: 'read_all' });
  }

  /** Loads older ones. @param {number} [limit] @returns {Promise<Result<null>>} */
  async loadOlder(limit = 50) {
    const before = this.items.at(-1)?.notification_id;
    if (!before) return { ok: true, data: null };
    const page = await this.#core.call('GET', `/api/notifications?before=${before}&limit=${limit}`);
    if (!page.ok) return page;
    this.hasOlder = page.data.next !== null;
    this.#put(page.data.items);
    return { ok: true, data: null };
  }

  /** Hears no more of them: `close` of the connection does so. */
  close() {
    clearTimeout(this.#timer);
    this.#link.leave(this.#channel);
    this.#become('closed');
  }

  /** @param {object} data */
  #ask(data) {
    return this.#link.ask({ op: 'send', channel: this.#channel.name, data });
  }

  /** What was read elsewhere meanwhile has no place in the log: the newest are looked at again, once reads are heard of. */
  #lookSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.state === 'live' && this.#look(), this.#core.timing.settle * (1 + Math.random()));
  }

  /** Reads the newest, until nothing came in between. @returns {Promise<boolean>} */
  async #look() {
    for (let attempt = 0; this.state !== 'closed'; attempt += 1) {
      const version = this.#version;
      const page = await this.#core.call('GET', '/api/notifications');
      if (page.ok) {
        if (this.#last && version !== this.#version && attempt < 3) continue;
        /** @type {Notification[]} */
        const items = page.data.items;
        if (!this.#last) this.hasOlder = page.data.next !== null;
        if (this.state === 'loading') this.#last = items[0]?.notification_id ?? 0;
        this.unread = items[0]?.unread_count ?? 0;
        this.#put(items);
        return true;
      }
      if (!(await this.#core.again(page.error, attempt))) break;
    }
    return false;
  }

  /** @param {any} frame */
  #onEvent(frame) {
    // The user's own marker in a conversation, moved on any device: its count is of that conversation.
    if (frame.type === 'read' && 'conversation_id' in frame) return this.#core.moved(frame.conversation_id);
    this.#version += 1;
    if (frame.type === 'read') {
      const read = this.items.filter(({ is_read: isRead, notification_id: id }) =>
        !isRead && (id === frame.notification_id || (frame.all && id <= frame.notification_id)));
      this.#put(read.map((item) => ({ ...item, is_read: true })));
      this.#tellOf(read);
    } else if ('notification_id' in frame) {
      this.#last = Math.max(this.#last, frame.notification_id);
      this.#put([frame]);
      this.#tellOf([frame]);
      if (!frame.is_read) this.#say(frame);
    } else {
      return;
    }
    this.unread = frame.unread_count;
    emit(this, 'change');
  }

  /** Takes these in, in place of what they stand for. @param {Notification[]} fresh */
  #put(fresh) {
    const all = new Map(this.items.map((item) => [item.notification_id, item]));
    for (const item of fresh) {
      const known = all.get(item.notification_id);
      all.set(item.notification_id, known?.is_read ? known : item);
    }
    const conversations = new Set();
    this.items = Object.freeze([...all.values()].sort((a, b) => b.notification_id - a.notification_id).filter((item) => {
      if (item.type !== 'message_received') return true;
      const { size } = conversations;
      return conversations.add(item.data.conversation_id).size > size;
    }).slice(0, KEEP));
    emit(this, 'change');
  }

  /** Something has happened in the conversations that these are about. @param {Notification[]} items */
  #tellOf(items) {
    for (const { type, data } of items) if (type === 'message_received') this.#core.moved(data.conversation_id);
  }

  /** Tells of a new one, in one tab. @param {Notification} item */
  #say(item) {
    this.#said = this.#said.then(async () => {
      if (await isFirst(`${this.#link.url.host}/${this.#core.userId}`, item)) emit(this, 'notification', item);
    });
  }

  /** @param {Conversation['state']} state */
  #become(state) {
    if (this.state === 'closed') return;
    this.state = state;
    emit(this, 'change');
  }
}

/**
 * Whether no other tab of this browser has told of this one, or a later one. A tab in view comes first.
 * @param {string} name @param {Notification} item
 */
async function isFirst(name, { notification_id: id, created_at: at }) {
  const { document } = globalThis;
  if (!document) return true;
  const key = `vyzio-realtime/${name}`;
  const take = () => {
    // With the time, as ids start anew where a server does.
    const [told, toldAt] = JSON.parse(localStorage.getItem(key) ?? '[0, ""]');
    if (told >= id && toldAt >= at) return false;
    localStorage.setItem(key, JSON.stringify([id, at]));
    return true;
  };
  try {
    if (document.visibilityState !== 'visible') await new Promise((done) => setTimeout(done, 400));
    return navigator.locks ? await navigator.locks.request(key, take) : take(); // Locks are for secure pages only.
  } catch {
    return true; // Storage is full or forbidden: better twice than never.
  }
}

/* ---------- The list of conversations ---------- */

/**
 * The user's conversations, kept up to date: by the notifications of new messages, and by the conversations that are
 * open. Events: `change`.
 * @extends {Emitter<{change: undefined}>}
 */
class Conversations extends Emitter {
  /** Newest activity first. @type {readonly ConversationInfo[]} */
  items = [];
  /** Whether there are older ones. */
  hasOlder = false;
  /** Whether the first are here. */
  loaded = false;
  /** Where the next page begins; `null` at the end. @type {number | null} */
  #next = null;
  /** Asked for again in a moment. @type {Set<number>} */
  #moved = new Set();
  /** @type {Promise<Result<null>> | null} */
  #loading = null;
  /** @type {Core} */
  #core;

  /** @param {any} core  of the connection: the list comes from `rt.conversations()` */
  constructor(core) {
    super();
    this.#core = core;
    core.follow((/** @type {number} */ id) => this.#ask(id), (/** @type {number} */ id, /** @type {any} */ what) => this.#patch(id, what));
    core.on('state', (/** @type {State} */ state) => state === 'online' && this.reload()); // What happened meanwhile.
    this.reload();
  }

  /** Reads the newest again. @returns {Promise<Result<null>>} */
  reload() {
    this.#loading ??= this.#load().finally(() => (this.#loading = null));
    return this.#loading;
  }

  /** @returns {Promise<Result<null>>} */
  async #load() {
    for (let attempt = 0; ; attempt += 1) {
      const page = await this.#page('');
      if (page.ok || !(await this.#core.again(page.error, attempt))) return page;
    }
  }

  /** Loads older ones. @returns {Promise<Result<null>>} */
  async loadOlder() {
    if (!this.loaded) return this.reload();
    return this.#next === null ? { ok: true, data: null } : this.#page(`?before=${this.#next}`);
  }

  /** @param {string} query @returns {Promise<Result<null>>} */
  async #page(query) {
    const page = await this.#core.call('GET', `/api/conversations${query}`);
    if (!page.ok) return page;
    if (query || !this.loaded) this.#next = page.data.next;
    this.hasOlder = this.#next !== null;
    this.loaded = true;
    this.#put(page.data.items);
    return { ok: true, data: null };
  }

  /** @param {ConversationInfo[]} fresh */
  #put(fresh) {
    const all = new Map([...this.items, ...fresh].map((item) => [item.conversation_id, item]));
    const at = (/** @type {ConversationInfo} */ item) => item.last_message?.created_at ?? item.created_at;
    const later = (/** @type {ConversationInfo} */ a, /** @type {ConversationInfo} */ b) =>
      (at(a) < at(b) ? 1 : at(a) > at(b) ? -1 : b.conversation_id - a.conversation_id);
    this.items = Object.freeze([...all.values()].sort(later));
    emit(this, 'change');
  }

  /** Something happened in one that isn't open: it is asked for, soon and once. @param {number} id */
  async #ask(id) {
    if (this.#moved.has(id)) return;
    this.#moved.add(id);
    await new Promise((done) => setTimeout(done, 200 + Math.random() * 200));
    for (let attempt = 0; ; attempt += 1) {
      this.#moved.delete(id);
      const info = await this.#core.call('GET', `/api/conversations/${id}`);
      if (info.ok) return this.#put([info.data]);
      if (this.#moved.has(id) || !(await this.#core.again(info.error, attempt))) return;
    }
  }

  /** Something happened in one that is open. @param {number} id @param {Partial<ConversationInfo>} what */
  #patch(id, what) {
    const item = this.items.find(({ conversation_id: known }) => known === id);
    if (!item) return void (this.loaded && this.#ask(id));
    const told = (/** @type {Partial<ConversationInfo>} */ { unread_count: unread, last_message: last }) =>
      [unread, last?.message_id, last?.is_read].join();
    if (told(item) !== told(what)) this.#put([{ ...item, ...what }]);
  }
}

/* ---------- All of it ---------- */

/**
 * What the parts of a connection share.
 * @extends {Emitter<{state: State, error: Failure}>}
 */
class Core extends Emitter {
  /** What is open. @type {Map<number, Conversation>} */
  conversations = new Map();
  /** The list's, once there is one. @type {(id: number) => void} */
  #ask = () => {};
  /** @type {(id: number, what: Partial<ConversationInfo>) => void} */
  #patch = () => {};
  #userId;

  /** @param {Options} options */
  constructor({ url, token, userId, WebSocket = globalThis.WebSocket, timing }) {
    super();
    if (!WebSocket) throw new TypeError('this platform has no WebSocket: pass one as an option');
    this.#userId = userId;
    this.timing = { ...TIMING, ...timing };
    const base = new URL(url, globalThis.location?.href);
    this.base = `${base.origin === 'null' ? `${base.protocol}//${base.host}` : base.origin}${base.pathname}`;
    this.base = this.base.replace(/^ws/, 'http').replace(/\/+$/, '');
    this.tokens = new Tokens(token, this.timing.http);
    const socketUrl = new URL(`${this.base.replace(/^http/, 'ws')}/ws/`);
    this.link = new Link(socketUrl, this.tokens, WebSocket, this.timing, (type, value) => emit(this, type, value));
  }

  get userId() {
    return this.#userId ?? this.tokens.userId ?? NaN;
  }

  /**
   * @param {string} method @param {string} path @param {object} [body]
   * @returns {Promise<Result<any>>}
   */
  async call(method, path, body) {
    let token;
    for (let refresh = false; ; refresh = true) {
      try {
        token = await this.tokens.get(refresh);
      } catch (cause) {
        return { ok: false, error: { code: 'token_failed', detail: String(cause) } };
      }
      if (!token) return { ok: false, error: { code: 'unauthorized', detail: 'there is no token' } };
      const answer = await this.#fetch(method, path, token, body);
      if (answer.ok || answer.error.code !== 'unauthorized' || refresh) return answer;
    }
  }

  /** @param {string} method @param {string} path @param {string} token @param {object} [body] @returns {Promise<Result<any>>} */
  async #fetch(method, path, token, body) {
    try {
      const answer = await fetch(this.base + path, {
        method,
        headers: { Authorization: `Bearer ${token}`, ...(body && { 'Content-Type': 'application/json' }) },
        ...(body && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(this.timing.http),
      });
      const text = await answer.text();
      const data = text ? JSON.parse(text) : null;
      if (answer.ok) return { ok: true, data };
      return failed({ code: 'internal', detail: `HTTP ${answer.status}`, ...data });
    } catch {
      return NO_ANSWER; // No connection, no answer in time, or one that isn't the API's.
    }
  }

  /**
   * Whether to ask again, once it is time.
   * @param {Failure} error @param {number} attempt
   * @returns {Promise<boolean>}
   */
  async again(error, attempt) {
    if (!PASSING.has(error.code) && error.code !== 'token_failed') return false;
    const wait = Math.max(error.retry_after_ms ?? 0, this.link.backoff(attempt));
    await new Promise((done) => {
      const woken = error.code === 'network' ? this.on('state', (state) => state === 'online' && end()) : () => {};
      const timer = setTimeout(() => end(), wait);
      const end = () => done((clearTimeout(timer), woken()));
    });
    return this.link.error !== CLOSED;
  }

  /**
   * The list wants to hear what happens.
   * @param {(id: number) => void} ask  in a conversation that isn't open
   * @param {(id: number, what: Partial<ConversationInfo>) => void} patch  in one that is
   */
  follow(ask, patch) {
    this.#ask = ask;
    this.#patch = patch;
  }

  /** A notification is about a conversation. @param {number} id */
  moved(id) {
    if (this.conversations.get(id)?.state !== 'live') this.#ask(id);
  }

  /** A conversation that is open has changed. @param {Conversation} conversation */
  noticed({ id, state, messages, unread }) {
    if (state !== 'live') return;
    const last = messages.findLast(({ seq }) => seq !== null);
    const message = /** @type {any} */ (last && { ...last, conversation_id: id, is_read: last.state === 'read' });
    this.#patch(id, { last_message: message ?? null, unread_count: unread });
  }
}

/**
 * The connection of one user. Events: `state`, and `error` for what goes wrong on the way and is tried again.
 * @extends {Emitter<{state: State, error: Failure}>}
 */
class Realtime extends Emitter {
  #core;
  /** @type {Notifications | null} */
  #notifications = null;
  /** @type {Conversations | null} */
  #list = null;
  /** @type {(() => void)[]} */
  #unwatch = [];

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#core = new Core(options);
    this.#core.on('state', (state) => emit(this, 'state', state));
    this.#core.on('error', (error) => emit(this, 'error', error));
    this.#watchPage();
  }

  /** @returns {State} `connecting`, `online`, `offline` (it will try again) or `closed` (it won't; see `error`) */
  get state() {
    return this.#core.link.state;
  }

  /** Why it is closed. @returns {Failure | null} */
  get error() {
    return this.#core.link.error;
  }

  /** Whose connection it is; `NaN` until there is a token. */
  get userId() {
    return this.#core.userId;
  }

  /** Opens a conversation, or gives the one that is open. @param {number} id */
  conversation(id) {
    const { conversations } = this.#core;
    const known = conversations.get(id);
    if (known && known.state !== 'closed') return known;
    const opened = new Conversation(this.#core, id);
    conversations.set(id, opened);
    return opened;
  }

  /** The user's notifications. */
  notifications() {
    if (!this.#notifications || this.#notifications.state === 'closed') this.#notifications = new Notifications(this.#core);
    return this.#notifications;
  }

  /** The user's conversations. */
  conversations() {
    this.notifications(); // They say where something happens.
    this.#list ??= new Conversations(this.#core);
    return this.#list;
  }

  /**
   * Calls the HTTP API.
   * @param {string} method
   * @param {string} path  such as `/api/unread`
   * @param {object} [body]
   * @returns {Promise<Result<any>>} what was answered, or the problem; never rejects
   */
  call(method, path, body) {
    return this.#core.call(method, path, body);
  }

  /** Tries now what would be tried later; opens again what was refused. */
  reconnect() {
    this.#core.link.wake();
  }

  /** Ends everything. */
  close() {
    for (const end of this.#unwatch.splice(0)) end();
    for (const conversation of [...this.#core.conversations.values()]) conversation.close();
    this.#notifications?.close();
    this.#core.link.close();
  }

  /** Follows the network and the page's visibility, where there is a page. */
  #watchPage() {
    const { document, window } = globalThis;
    if (!window?.addEventListener || !document) return;
    const watch = (/** @type {EventTarget} */ target, /** @type {string} */ type, /** @type {() => void} */ listener) => {
      target.addEventListener(type, listener);
      this.#unwatch.push(() => target.removeEventListener(type, listener));
    };
    const { link } = this.#core;
    const wake = () => link.state !== 'closed' && link.wake();
    watch(window, 'online', wake);
    watch(window, 'offline', () => link.offline());
    watch(window, 'pageshow', wake);
    // A page that was frozen, or a machine that slept, may hold a socket that is dead.
    watch(document, 'visibilitychange', () => document.visibilityState === 'visible' && wake());
  }
}

/**
 * Connects a user. It goes on connecting until it is closed, here or by the server for good.
 * @param {Options} options
 * @returns {Realtime}
 */
export function connect(options) {
  return new Realtime(options);
}
