import { connect } from '@vyzio/realtime';

const rt = connect({
  url: 'http://127.0.0.1:42425',
  // Your backend's JWT for the user, as text or JSON. `refresh`: the last one ends, so a cached answer won't do.
  token: ({ refresh }) => fetch('/realtime-token', { cache: refresh ? 'no-store' : 'default' }),
});

rt.on('state', (state) => showConnection(state, rt.error)); // connecting, online, offline (it retries) or closed

const chat = rt.conversation(268);

chat.on('change', () => {
  showMessages(chat.messages); // oldest first; those being sent are at the end
  showTypists(chat.typists.map((person) => person.username));
  showUnread(chat.unread);
});

const message = await chat.send('Bonjour !'); // in chat.messages at once, online or not
if (message.state === 'failed') showError(message.error.code);

const inbox = rt.notifications();

inbox.on('change', () => showBell(inbox.unread, inbox.items)); // newest first
inbox.on('notification', (item) => ring(item.title, item.message)); // once, however many tabs are open
bell.addEventListener('click', () => inbox.readAll());

const list = rt.conversations();

list.on('change', () => showList(list.items)); // newest activity first

const opened = await rt.call('POST', '/api/conversations', { participant_ids: [457], listing_id: 12 });
if (opened.ok) openConversation(opened.data.conversation_id);
else showError(opened.error.code);

export { rt, chat, inbox };
