/**
 * The stack that these tests run against, and may break: it comes with the variable `STACK`, from the test that starts
 * it (e2e/tests/client). Clients reach it through a line of their own, which can be cut, frozen and refused.
 */

import net from 'node:net';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { connect } from '@vyzio/realtime';

const { gateways, control } = JSON.parse(process.env.STACK ?? 'null') ?? {};

/** Pauses of a client that is in a hurry. */
export const HASTE = {
  backoff: 30,
  backoffMax: 300,
  spread: 100,
  limited: 300,
  stable: 1_000,
  settle: 200,
  linger: 50,
  poll: 100,
  blocked: 400,
};

const line = net.connect(control, '127.0.0.1');
const answers = createInterface({ input: line })[Symbol.asyncIterator]();
line.unref();
let turn = Promise.resolve();

/** Asks the stack's keeper for something: see `Ask` in e2e/tests/client/control.rs. */
export function ask(what, values = {}) {
  turn = turn
    .catch(() => {})
    .then(async () => {
      line.ref();
      line.write(`${JSON.stringify({ ask: what, ...values })}\n`);
      const { value } = await answers.next();
      line.unref();
      const answer = JSON.parse(value);
      if (answer?.error) throw new Error(answer.error);
      return answer;
    });
  return turn;
}

let users = Date.now() % 1_000_000_000;
/** Someone new. */
export const someone = () => (users += 1);

/** A token of a user's, for an hour or so many seconds. */
export function tokenOf(user, seconds = 3600, claims = {}) {
  const now = Math.floor(Date.now() / 1000);
  return ask('token', { claims: { user_id: user, username: `name-${user}`, iat: now, exp: now + seconds, ...claims } });
}

/** Waits until `look()`, which may be a call, gives something, looking again whenever one of these changes. */
export async function until(what, look, ...watched) {
  const end = Date.now() + 20_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited 20 s for ${what}`);
    const stops = [];
    await new Promise((done) => {
      stops.push(...watched.map((one) => one.on('change', done)));
      setTimeout(done, 20); // Some states change without an event.
    });
    for (const stop of stops) stop();
  }
}

/** Creates conversations as a backend does, which has no rate limit. Each list has the ids of the users. */
export async function conversations(...lists) {
  const payloads = lists.map((users) => ({ participants: users.map((id) => ({ user_id: id, username: `name-${id}` })) }));
  const answers = await ask('call', { subject: 'chat.conversations.create', payloads });
  return answers.map(({ conversation_id: id }) => id);
}

/** Sends messages as a backend does. */
export function messages(id, sender, texts) {
  const payloads = texts.map((message) => ({ conversation_id: id, sender_id: sender, message }));
  return ask('call', { subject: 'chat.messages.send', payloads });
}

/** Ends all sessions of a user, and refuses the tokens so far. */
export const revoke = (user) => ask('call', { subject: 'sessions.revoke', payloads: [{ user_id: user }] });

/** Answer of a line that refuses connections. */
export const REFUSED = 'HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n';

/** HTTP past a line, so that only sockets are refused. */
export const pastLine = (url, options) => fetch(String(url).replace(/^http:\/\/[^/]+/, `http://${gateways[0]}`), options);

/** A line to the gateways, which a test can break. */
export class Line {
  #pairs = new Set();
  #server;
  /** Which gateway new connections reach. */
  gateway = 0;
  /** What a new connection is told instead of being let through. */
  refusal = '';
  /** Whether connections stay open and nothing passes. */
  frozen = false;
  /** How many connections came. */
  count = 0;

  static async open() {
    const opened = new Line();
    opened.#server = net
      .createServer((socket) => opened.#accept(socket))
      .listen(0, '127.0.0.1')
      .unref();
    await once(opened.#server, 'listening');
    return opened;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  #accept(near) {
    this.count += 1;
    near.on('error', () => {});
    if (this.refusal) return near.end(this.refusal);
    const [host, port] = gateways[this.gateway].split(':');
    const far = net.connect(Number(port), host);
    const pair = [near, far];
    this.#pairs.add(pair);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ]) {
      from.on('data', (data) => this.frozen || to.write(data));
      from.on('error', () => {});
      from.on('close', () => {
        to.destroy();
        this.#pairs.delete(pair);
      });
    }
  }

  /** Cuts every connection. */
  cut() {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  close() {
    this.cut();
    this.#server.close();
  }
}

/** A client on a line of its own, gone when the test ends. With `blocked`, only HTTP reaches the server. */
export async function client(context, user, { blocked = false, ...options } = {}) {
  const line = await Line.open();
  if (blocked) {
    line.refusal = REFUSED;
    options.fetch = pastLine;
  }
  const token = await tokenOf(user);
  const rt = connect({ url: line.url, token: async () => token, WebSocket, timing: HASTE, ...options });
  const gone = () => {
    rt.close();
    line.close();
  };
  context.after(gone);
  return { rt, line };
}

/** Two people in a conversation, each with a client. */
export async function pair(context, options = {}) {
  const [ada, ben] = [someone(), someone()];
  const id = await ask('conversation', { users: [ada, ben] });
  const [a, b] = [await client(context, ada, options), await client(context, ben, options)];
  return { id, ada: { user: ada, ...a, chat: a.rt.conversation(id) }, ben: { user: ben, ...b, chat: b.rt.conversation(id) } };
}

/** What the server has stored of a conversation, oldest first. */
export async function stored(rt, id) {
  const all = [];
  for (let after = 0; ; ) {
    const page = await rt.call('GET', `/api/conversations/${id}/messages?after=${after}&limit=200`);
    if (!page.ok) throw new Error(JSON.stringify(page.error));
    all.push(...page.data.items);
    if (page.data.next === null) return all;
    after = page.data.next;
  }
}

export const contents = (chat) => chat.messages.map(({ content }) => content);
