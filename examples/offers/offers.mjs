// A backend of offers, over HTTP: accepts those of at least MINIMUM cents, declines others, and announces the orders in
// the name of the marketplace. Webhooks tell it about sent and changed messages. A repeat of anything, after a crash
// too, changes nothing.

import { createServer } from 'node:http';
import { Webhook } from 'standardwebhooks';

const { REALTIME_URL: url = 'http://127.0.0.1:8000', REALTIME_KEY: key, WEBHOOK_SECRET, MINIMUM = '4000' } = process.env;
const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
const webhook = new Webhook(WEBHOOK_SECRET);

/** Resolves to the gateway's answer; rejects with its reason. */
async function call(method, path, body) {
  const options = { method, headers, body: JSON.stringify(body), signal: AbortSignal.timeout(3000) };
  const response = await fetch(`${url}/backend/conversations/${path}`, options);
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return response.json();
}

/** Decides an open offer. If another backend, or a cancellation, was faster, the answer is `conflict`. */
async function decide({ conversation_id, message_id, data, change = 0 }) {
  const state = data.amount >= Number(MINIMUM) ? 'accepted' : 'declined';
  const path = `${conversation_id}/messages/${message_id}`;
  const offer = await call('PATCH', path, { data: { ...data, state }, if_change: change });
  console.log(`offer ${message_id}: ${state}`);
  return offer;
}

/** Announces the order of an accepted offer. The `client_id` makes it one message, however often it is sent. */
async function announce({ conversation_id, message_id, data: { amount, currency } }) {
  const order = { order_id: message_id, state: 'placed', amount, currency };
  const message = { system: true, kind: 'order', data: order, client_id: `order-${message_id}` };
  await call('POST', `${conversation_id}/messages`, message);
}

/** Looks at a message as it is now: events come in any order. */
async function look({ conversation_id, message_id }) {
  const page = await call('GET', `${conversation_id}/messages?after=${message_id - 1}&before=${message_id + 1}`);
  let [message] = page.items;
  if (message?.kind !== 'offer' || message.deleted_at) return;
  if (message.data.state === 'open') message = await decide(message);
  if (message.data.state === 'accepted') await announce(message);
}

/** Whether an event may concern an offer. Those of changes don't have the kind. */
const concerns = ({ type, data }) => (type === 'chat.sent' && data.kind === 'offer') || type === 'chat.changed';

createServer(async (request, response) => {
  let event;
  try {
    const body = Buffer.concat(await request.toArray());
    event = webhook.verify(body.toString(), request.headers);
  } catch {
    return response.writeHead(401).end();
  }
  try {
    if (concerns(event)) await look(event.data);
    response.writeHead(204).end();
  } catch (error) {
    console.log(`message ${event.data.message_id}: ${error.message}`);
    response.writeHead(503).end(); // The event comes again, after pauses that grow, for three days.
  }
}).listen(Number(process.env.PORT ?? 8081), '127.0.0.1');
