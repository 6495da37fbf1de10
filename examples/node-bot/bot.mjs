// Answers each new message of a conversation, and after a lost connection also the missed ones.

import { connect } from '@vyzio/realtime';
import WebSocket from 'ws';

const { URL = 'http://127.0.0.1:8000', TOKEN, CONVERSATION } = process.env;

const rt = connect({ url: URL, token: () => TOKEN, WebSocket });
const chat = rt.conversation(CONVERSATION);

async function answer(message) {
  await chat.send(`Vous avez dit : ${message.content}`);
  chat.read();
}
chat.on('message', answer);
chat.on('missed', (messages) => messages.forEach(answer));
rt.on('state', (state) => {
  console.log(state, rt.error?.detail ?? '');
  if (state === 'closed') process.exitCode = 1; // It does not reconnect any more.
});
