// A backend of offers: accepts those of at least MINIMUM cents in a conversation of the seller, declines others, and
// announces the order in the name of the marketplace. A repeat of anything, after a crash too, changes nothing.

import { connect as connectNats } from '@nats-io/transport-node';
import { connect } from '@vyzio/realtime';
import WebSocket from 'ws';

const { URL: url = 'http://127.0.0.1:8000', TOKEN, CONVERSATION, MINIMUM = '4000' } = process.env;
const servers = (process.env.NATS_URL ?? 'nats://127.0.0.1:4222').split(',');
const { username, password } = new URL(servers[0]);
const nats = await connectNats({ servers, ...(username && { user: username, pass: password }), maxReconnectAttempts: -1 });

/** Resolves to the answer of a service; rejects with its reason. */
async function request(subject, body) {
  const reply = await nats.request(subject, JSON.stringify(body), { timeout: 5000 });
  const code = reply.headers?.get('Nats-Service-Error-Code');
  if (code) throw new Error(reply.headers.get('Nats-Service-Error'));
  return reply.json();
}

/** Decides an open offer. If another backend, or a cancellation, was faster, the answer is `conflict`. */
async function decide({ conversation_id, message_id, data, change = 0 }) {
  const state = data.amount >= Number(MINIMUM) ? 'accepted' : 'declined';
  await request('chat.messages.update', { conversation_id, message_id, data: { ...data, state }, if_change: change });
  console.log(`offer ${message_id}: ${state}`);
}

/** Announces the order of an accepted offer. The `client_id` makes it one message, however often it is sent. */
async function announce({ conversation_id, message_id, data: { amount, currency } }) {
  const order = { order_id: message_id, state: 'placed', amount, currency };
  const message = { conversation_id, system: true, kind: 'order', data: order, client_id: `order-${message_id}` };
  await request('chat.messages.send', message);
  announced.add(message_id);
}

const rt = connect({ url, token: () => TOKEN, WebSocket });
const chat = rt.conversation(CONVERSATION);
const announced = new Set();
let working = false;
let changed = false;

/** Looks at all offers that are here; also after a reconnect, and after a change that another backend made. */
async function look() {
  changed = true;
  if (working) return;
  working = true;
  while (changed) {
    changed = false;
    for (const message of chat.messages) {
      if (message.kind !== 'offer' || message.mine || message.deleted || message.message_id === null) continue;
      try {
        if (message.data.state === 'open') await decide(message);
        if (message.data.state === 'accepted' && !announced.has(message.message_id)) await announce(message);
      } catch (error) {
        console.log(`offer ${message.message_id}: ${error.message}`);
      }
    }
  }
  working = false;
}

chat.on('change', look);
rt.on('state', (state) => {
  console.log(state, rt.error?.detail ?? '');
  if (state === 'closed') process.exit(1); // It does not reconnect any more.
});
