/** The connection: reasons, clocks and signs of life. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { connect } from '@vyzio/realtime';
import { HASTE, REFUSED, client, pastLine, someone, tokenOf, until } from './stack.js';

/** A server that does what `onConnection` says. */
async function server(context, onConnection, options = {}) {
  const listening = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  const opened = { times: [] };
  listening.on('connection', (socket) => {
    opened.times.push(performance.now());
    socket.on('error', () => {});
    onConnection(socket);
  });
  await once(listening, 'listening');
  const token = await tokenOf(someone());
  opened.rt = connect({ url: `ws://127.0.0.1:${listening.address().port}`, token, WebSocket, timing: HASTE, ...options });
  context.after(() => (opened.rt.close(), listening.close()));
  return opened;
}

/** Accepts a socket as a gateway does. */
function greet(socket, seconds = 3600) {
  const [now, end] = [Date.now(), Date.now() + seconds * 1000].map((time) => new Date(time).toISOString());
  socket.send(JSON.stringify({ op: 'hello', user_id: 1, server_time: now, expires_at: end }));
}

describe('the connection', { concurrency: true }, () => {
  test('while it retries, it says why; if only sockets fail, it says that', async (context) => {
    const { rt, line } = await client(context, someone(), { fetch: pastLine });
    await until('it', () => rt.state === 'online');
    assert.equal(rt.error, null);
    const errors = [];
    rt.on('error', ({ code, close_code }) => errors.push([code, close_code, rt.state]));
    line.refusal = 'HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n'; // As for an origin that is not allowed.
    line.cut();
    await until('a reason', () => errors.length);
    assert.deepEqual(errors[0], ['network', 1006, 'offline']);
    await until('a better one', () => rt.error.code === 'no_websocket');
    assert.ok(line.count >= 4, 'after the third refusal');
    assert.match(rt.error.detail, /ALLOWED_ORIGINS/);
    assert.equal(errors.filter(([code]) => code === 'no_websocket').length, 1);
    await until('another attempt', () => line.count >= 6);
    assert.equal(rt.error.code, 'no_websocket', 'it stays');
    line.refusal = '';
    await until('a socket', () => rt.state === 'online' && rt.error === null);
  });

  test('if nothing answers, it is the network', async (context) => {
    const { rt, line } = await client(context, someone());
    await until('it', () => rt.state === 'online');
    line.refusal = ' ';
    line.cut();
    const codes = [];
    rt.on('error', ({ code }) => codes.push(code));
    await until('six attempts', () => codes.length >= 6);
    assert.deepEqual([...new Set(codes)], ['network']);
  });

  test('the reason of a close is there', async (context) => {
    const { rt } = await server(context, (socket) => socket.close(1013, 'the server is overloaded'));
    await until('it', () => rt.error);
    const { code, close_code: closed, close_reason: reason } = rt.error;
    assert.deepEqual([code, closed, reason], ['unavailable', 1013, 'the server is overloaded']);
  });

  for (const code of [1002, 1007]) {
    test(`${code} is for good`, async (context) => {
      const { rt, times } = await server(context, (socket) => socket.close(code));
      await until('the end', () => rt.state === 'closed');
      assert.deepEqual([rt.error.code, rt.error.close_code, times.length], ['refused', code, 1]);
    });
  }

  test('a wake-up does not shorten the pause after 4429', async (context) => {
    const { rt, times } = await server(context, (socket) => socket.close(4429));
    await until('the first', () => rt.state === 'offline');
    const end = performance.now() + HASTE.limited / 2;
    while (performance.now() < end) {
      rt.reconnect();
      await new Promise((done) => setTimeout(done, 10));
    }
    await until('the second', () => times.length === 2);
    assert.ok(times[1] - times[0] >= HASTE.limited - 5, `${times}`);
  });

  test('it asks for a sign of life with a ping, and for nothing else', async (context) => {
    const ops = [];
    const { rt } = await server(
      context,
      (socket) => {
        greet(socket);
        socket.on('message', (data) => {
          const { op, ref } = JSON.parse(data);
          ops.push(op);
          socket.send(JSON.stringify({ op: 'ok', ref }));
        });
      },
      { timing: { ...HASTE, idle: 50 } },
    );
    await until('five', () => ops.length >= 5);
    assert.deepEqual([...new Set(ops)], ['ping']);
    assert.equal(rt.userId, 1);
  });

  test('custom fetch, storage and logger are used', async (context) => {
    const lines = [];
    const logger = { debug: (...words) => lines.push(words), warn: (...words) => lines.push(words) };
    const urls = [];
    const { rt, line } = await client(context, someone(), {
      logger,
      fetch: (url, options) => (urls.push(url), fetch(url, options)),
    });
    await until('it', () => rt.state === 'online');
    assert.ok((await rt.call('GET', '/api/unread')).ok);
    assert.deepEqual(urls, [`${line.url}/api/unread`]);
    assert.equal(lines[0][0], 'connecting to');
    assert.ok(!JSON.stringify(lines).includes(await tokenOf(1).then((token) => token.split('.')[0])), 'no token in a log');
    line.refusal = REFUSED;
    line.cut();
    await until('the loss', () => lines.some(([text]) => text.startsWith('offline')));
  });
});

test('a clock that is wrong causes no requests for tokens, and no lost connection', async (context) => {
  const { now } = Date;
  const user = someone();
  const token = await tokenOf(user, 300);
  context.after(() => (Date.now = now));
  Date.now = () => now() + 600_000;
  let count = 0;
  const { rt, line } = await client(context, user, { token: () => ((count += 1), token) });
  for (let at = 0; at < 5; at += 1) assert.ok((await rt.call('GET', '/api/unread')).ok);
  await until('it', () => rt.state === 'online');
  for (let at = 0; at < 5; at += 1) assert.ok((await rt.call('GET', '/api/unread')).ok);
  assert.equal(count, 1);
  Date.now = () => now() + 7_200_000; // Someone sets it.
  assert.ok((await rt.call('GET', '/api/unread')).ok);
  assert.deepEqual([count, line.count > 0, rt.state], [1, true, 'online']);
});
