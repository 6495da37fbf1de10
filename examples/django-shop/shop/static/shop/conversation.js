// A conversation: messages, typing, and offers with what the user may do about them.

import { amount, arrange, element, rt } from './realtime.js';

const page = JSON.parse(document.querySelector('#page').textContent);
const csrf = document.querySelector('[name=csrfmiddlewaretoken]').value;
const log = document.querySelector('#log');
const messages = document.querySelector('#messages');
const problem = document.querySelector('#problem');
const chat = rt.conversation(page.conversation);

const STATES = {
  open: 'en attente',
  accepted: 'acceptée',
  declined: 'refusée',
  withdrawn: 'retirée',
  expired: 'expirée',
};
// What the user may do about an offer in a state: the new state, and the button.
const ACTIONS = page.isBuyer
  ? { open: [['withdrawn', 'Retirer']], accepted: [['paid', 'Payer']] }
  : {
      open: [
        ['accepted', 'Accepter'],
        ['declined', 'Refuser'],
      ],
    };
const TICKS = { sending: '…', sent: '✓', read: '✓✓', failed: 'non envoyé' };

/** Asks Django. Resolves to whether it did it; otherwise the page shows the reason. */
async function ask(path, fields = {}) {
  const body = new URLSearchParams(fields);
  const answer = await fetch(path, { method: 'POST', headers: { 'X-CSRFToken': csrf }, body }).catch(() => null);
  const { detail = 'Réessayez dans un instant.' } = answer?.ok ? {} : ((await answer?.json().catch(() => null)) ?? {});
  problem.textContent = detail;
  problem.hidden = answer?.ok ?? false;
  return answer?.ok ?? false;
}

function offerOf({ data }) {
  const card = element('div', '', 'offer');
  card.append(element('span', 'Offre'), element('strong', amount(data.amount)));
  card.append(element('span', STATES[data.state] ?? data.state, `state ${data.state}`));
  for (const [state, label] of (data.offer_id && !page.isSold && ACTIONS[data.state]) || []) {
    const button = element('button', label, state === 'accepted' || state === 'paid' ? 'main' : '');
    button.dataset.to = state;
    button.addEventListener('click', async () => {
      button.disabled = true;
      // The new state comes with the message; a sale changes the page.
      if ((await ask(`/offers/${data.offer_id}/${state}/`)) && state === 'paid') location.reload();
      button.disabled = false;
    });
    card.append(button);
  }
  return card;
}

async function report(message, button) {
  const reason = prompt('Pourquoi signalez-vous ce message ?');
  if (!reason) return;
  const sent = await rt.call('POST', '/api/reports', { message_id: message.message_id, reason });
  button.textContent = sent.ok ? 'Signalé' : sent.error.detail;
}

function row(message) {
  const made = element('li', '', message.mine ? 'mine' : message.system ? 'system' : 'theirs');
  if (message.deleted) made.append(element('p', 'Message supprimé', 'deleted'));
  else if (message.kind === 'offer' && message.data) made.append(offerOf(message));
  else made.append(element('p', message.content));
  const time = message.created_at ? new Date(message.created_at) : new Date();
  const under = element('small', time.toLocaleTimeString('fr', { hour: '2-digit', minute: '2-digit' }));
  if (message.mine) under.append(` ${TICKS[message.state] ?? ''}`);
  else if (!message.system && !message.deleted) {
    const button = element('button', 'Signaler', 'link');
    button.addEventListener('click', () => report(message, button));
    under.append(' ', button);
  }
  made.append(under);
  return made;
}

/** The rows on the page, by the keys of their messages: only what has changed is made anew. */
const rows = new Map();

function show() {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const hadFocus = messages.contains(document.activeElement);
  const keys = new Set(chat.messages.map((message) => message.key));
  for (const key of rows.keys()) if (!keys.has(key)) rows.delete(key);
  for (const message of chat.messages) {
    if (rows.get(message.key)?.message !== message) rows.set(message.key, { message, row: row(message) });
  }
  arrange(
    messages,
    chat.messages.map((message) => rows.get(message.key).row),
  );
  log.ariaBusy = chat.state === 'loading';
  // The row of a button that was pressed is another one now.
  if (hadFocus && !messages.contains(document.activeElement)) log.focus();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
  const typists = chat.typists.map((person) => person.username);
  document.querySelector('#typing').textContent = typists.length > 0 ? `${typists.join(', ')} écrit…` : '';
  if (chat.unread > 0 && document.visibilityState === 'visible') chat.read();
}

chat.on('change', show);
document.addEventListener('visibilitychange', show);
show();

const send = document.querySelector('#send');
send.addEventListener('submit', (event) => {
  event.preventDefault();
  chat.send(send.text.value);
  send.reset();
});
send.addEventListener('input', () => chat.type());

const offer = document.querySelector('#offer');
let key = crypto.randomUUID();
// Another amount is another offer.
offer?.addEventListener('input', () => (key = crypto.randomUUID()));
offer?.addEventListener('submit', async (event) => {
  event.preventDefault();
  // If it fails, the next attempt with this amount has the same key: at most one offer is made.
  if (await ask(`/messages/${page.conversation}/offers/`, { key, amount: offer.amount.value })) {
    offer.reset();
    key = crypto.randomUUID();
  }
});
