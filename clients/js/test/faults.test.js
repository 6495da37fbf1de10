/** What the client does when something breaks: parts of the stack, or the line to it. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { connect } from '@vyzio/realtime';
import { HASTE, ask, client, contents, pair, someone, stored, tokenOf, until } from './stack.js';

const live = (...people) =>
  until('all to be live', () => people.every(({ chat }) => chat.state === 'live'), ...people.map(({ chat }) => chat));

test('a gateway that is killed takes nothing with it', async (context) => {
  const { id, ada, ben } = await pair(context);
  await live(ada, ben);
  const sends = [];
  for (let at = 0; at < 10; at += 1) sends.push(ada.chat.send(`before ${at}`), ben.chat.send(`too ${at}`));
  await ask('kill', { part: 'gateway', index: 0 });
  for (let at = 0; at < 10; at += 1) sends.push(ada.chat.send(`without ${at}`));
  await until('the loss', () => ada.rt.state !== 'online');
  ben.line.gateway = 1;
  await ask('restart', { part: 'gateway', index: 0 });
  const sent = await Promise.all(sends);
  assert.ok(
    sent.every(({ state }) => state !== 'failed'),
    JSON.stringify(sent),
  );
  await until('all', () => [ada, ben].every(({ chat }) => chat.messages.length === 30), ada.chat, ben.chat);
  const log = (await stored(ada.rt, id)).map(({ content }) => content);
  assert.deepEqual([contents(ada.chat), contents(ben.chat)], [log, log]);
  assert.equal(new Set(log).size, 30);
});

test('a gateway that is stopped says so, and the client comes back soon', async (context) => {
  const { ada, ben } = await pair(context);
  await live(ada, ben);
  ada.line.gateway = ben.line.gateway = 1; // As a load balancer would.
  const stopping = ask('terminate', { part: 'gateway', index: 0 });
  await until('both to come back', () => ada.line.count > 1 && ben.line.count > 1);
  await live(ada, ben);
  assert.equal((await ada.chat.send('here again')).state, 'sent');
  assert.equal(await stopping, 0);
  await ask('restart', { part: 'gateway', index: 0 });
});

test('without chat-service a message waits, then fails, and can be sent again', async (context) => {
  const { id, ada, ben } = await pair(context);
  await live(ada, ben);
  await ask('kill', { part: 'chat-service', index: 0 });
  const failed = await ada.chat.send('anyone there?');
  assert.deepEqual([failed.state, failed.error.code], ['failed', 'unavailable']);
  assert.equal(ada.rt.state, 'online');
  await ask('restart', { part: 'chat-service', index: 0 });
  assert.equal((await ada.chat.retry(failed.key)).state, 'sent');
  await until('it', () => ben.chat.messages.length === 1, ben.chat);
  assert.equal((await stored(ada.rt, id)).length, 1);
});

test('a NATS that is killed is waited for', async (context) => {
  const { ada, ben } = await pair(context);
  await live(ada, ben);
  await ask('kill', { part: 'nats', index: 0 });
  const sending = ada.chat.send('through');
  await ask('restart', { part: 'nats', index: 0 });
  let sent = await sending;
  if (sent.state === 'failed') sent = await ada.chat.retry(sent.key);
  assert.notEqual(sent.state, 'failed');
  await until('it', () => contents(ben.chat).join() === 'through', ben.chat);
});

test('a line that is open and silent is found out and left', async (context) => {
  const timing = { ...HASTE, idle: 400, answer: 400 };
  const { ada, ben } = await pair(context, { timing });
  await live(ada, ben);
  ada.line.frozen = true;
  await until('it to be found out', () => ada.rt.state === 'connecting' || ada.rt.state === 'offline');
  await ben.chat.send('meanwhile');
  ada.line.frozen = false;
  ada.line.cut();
  await until('what was missed', () => contents(ada.chat).join() === 'meanwhile', ada.chat);

  ada.line.frozen = true;
  const sending = ada.chat.send('into the void');
  await until('it to be found out again', () => ada.rt.state !== 'online');
  ada.line.frozen = false;
  ada.line.cut();
  assert.notEqual((await sending).state, 'failed');
  await until('it', () => ben.chat.messages.length === 2, ben.chat);
});

test('a line that is quiet and well is kept', async (context) => {
  const { rt, line } = await client(context, someone(), { timing: { ...HASTE, idle: 100, answer: 2_000 } });
  await until('it', () => rt.state === 'online');
  await new Promise((done) => setTimeout(done, 1_000)); // Ten times its patience with silence.
  assert.deepEqual([rt.state, line.count], ['online', 1]);
});

test('what was read or came while away is there afterwards', async (context) => {
  const { ada, ben } = await pair(context);
  await live(ada, ben);
  await ada.chat.send('one');
  const inbox = ben.rt.notifications();
  await until('its notification', () => inbox.unread === 1, inbox);
  ben.line.refusal = 'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\n\r\n';
  ben.line.cut();
  await until('the loss', () => ben.rt.state === 'offline');
  const elsewhere = await client(context, ben.user);
  const chat = elsewhere.rt.conversation(ben.chat.id);
  await until('it elsewhere', () => chat.state === 'live', chat);
  chat.read();
  await until('the receipt', () => ada.chat.messages[0].state === 'read', ada.chat);
  await ada.chat.send('two');
  ben.line.refusal = '';
  ben.rt.reconnect();
  await until('all', () => ben.chat.messages.length === 2 && ben.chat.unread === 1, ben.chat);
  await until('the inbox', () => inbox.unread === 1 && inbox.items[0].data.message_id === ben.chat.messages[1].message_id, inbox);
});

/** Numbers that look random, the same for the same seed. */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('whatever the lines do, each sees the log: all of it, once, in order', { timeout: 120_000 }, async (context) => {
  const seed = Number(process.env.SEED ?? Date.now() % 100_000);
  context.diagnostic(`SEED=${seed}`);
  const next = random(seed);
  const { id, ada, ben } = await pair(context, { timing: { ...HASTE, idle: 300, answer: 700 } });
  const people = [ada, ben];
  const sends = [];
  const broken = [];
  for (const { chat } of people) {
    chat.on('change', () => {
      // At every moment: an unbroken part of the log, each once.
      const seqs = chat.messages.filter(({ seq }) => seq !== null).map(({ seq }) => seq);
      if (seqs.some((seq, index) => index && seq !== seqs[index - 1] + 1)) broken.push(seqs);
    });
  }
  for (let round = 0; round < 120; round += 1) {
    const { chat, line } = people[next(2)];
    const what = next(10);
    if (what < 5) sends.push(chat.send(`${round}`));
    else if (what < 7) line.cut();
    else if (what === 7) line.gateway = next(2);
    else if (what === 8) line.frozen = !line.frozen;
    else chat.read();
    await new Promise((done) => setTimeout(done, next(30)));
  }
  for (const { line } of people) {
    line.frozen = false;
    line.cut(); // What was dropped while it was frozen has torn the streams.
  }
  const sent = await Promise.all(sends);
  assert.ok(
    sent.every(({ state }) => state !== 'failed'),
    JSON.stringify(sent.filter(({ error }) => error)),
  );
  await until('all', () => people.every(({ chat }) => chat.messages.length === sends.length), ada.chat, ben.chat);
  const log = await stored(ada.rt, id);
  assert.equal(log.length, sends.length, 'stored once each');
  assert.equal(new Set(log.map(({ content }) => content)).size, sends.length);
  for (const { chat, user } of people) {
    assert.deepEqual(
      chat.messages.map(({ message_id: at }) => at),
      log.map(({ message_id: at }) => at),
    );
    const own = log.filter(({ sender_id: sender }) => sender === user).map(({ content }) => Number(content));
    assert.deepEqual(
      own,
      [...own].sort((a, b) => a - b),
      'each sender’s in the order sent',
    );
  }
  assert.deepEqual(broken, []);
});

describe('servers that do one thing', { concurrency: true }, () => {
  /** A server that closes every connection with a code, until it is told not to. */
  async function closing(context, code, options = {}) {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
    const times = [];
    server.on('connection', (socket) => {
      times.push(Date.now());
      socket.on('error', () => {});
      socket.close(code);
    });
    await once(server, 'listening');
    const token = await tokenOf(someone());
    const rt = connect({ url: `ws://127.0.0.1:${server.address().port}`, token, WebSocket, timing: HASTE, ...options });
    context.after(() => (rt.close(), server.close()));
    return { rt, times };
  }

  for (const code of [1003, 1009, 4403]) {
    test(`${code} is for good`, async (context) => {
      const { rt, times } = await closing(context, code);
      await until('the end', () => rt.state === 'closed');
      assert.deepEqual([rt.error.code, times.length], ['refused', 1]);
    });
  }

  for (const code of [1011, 1013]) {
    test(`after ${code} it comes back, less and less often`, async (context) => {
      const { rt, times } = await closing(context, code, { timing: { ...HASTE, backoff: 60, backoffMax: 5_000 } });
      await until('five attempts', () => times.length === 5);
      assert.notEqual(rt.state, 'closed');
      // Half to all of 60 ms doubled three times.
      assert.ok(times[4] - times[3] >= 240, `${times}`);
    });
  }

  test('after 4429 it waits long', async (context) => {
    const { times } = await closing(context, 4429);
    await until('two attempts', () => times.length === 2);
    assert.ok(times[1] - times[0] >= HASTE.limited - 5, `${times}`);
  });

  /** A token that only the client reads. */
  function unsigned(seconds) {
    const iat = Math.floor(Date.now() / 1000);
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    return [part({ alg: 'none' }), part({ user_id: 1, iat, exp: iat + seconds }), 'none'].join('.');
  }

  test('a token is renewed before it ends, on the same connection; one that is refused ends it', async (context) => {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
    const heard = [];
    let connections = 0;
    server.on('connection', (socket) => {
      connections += 1;
      socket.on('message', (data) => {
        const { op, token, ref } = JSON.parse(data);
        if (op !== 'auth') return socket.send(JSON.stringify({ op: 'ok', ref }));
        heard.push(token);
        const answer = heard.length < 3 ? { op: 'ok' } : { op: 'error', code: 'unauthorized', detail: 'another user’s' };
        socket.send(JSON.stringify({ ...answer, ref }));
      });
    });
    await once(server, 'listening');
    const given = [];
    const asked = [];
    const token = ({ refresh }) => (asked.push(refresh), given[given.push(unsigned(2)) - 1]);
    const rt = connect({ url: `ws://127.0.0.1:${server.address().port}`, token, WebSocket, timing: HASTE });
    context.after(() => (rt.close(), server.close()));
    await until('two renewals', () => heard.length === 2);
    assert.deepEqual([connections, asked, heard], [1, [false, true, true], given.slice(1)]);
    await until('a new connection', () => connections === 2);
    assert.deepEqual(asked.slice(3), [true, true]);
  });
});
