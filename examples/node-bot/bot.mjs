// Answers each new message of a conversation, and after a lost connection also the missed ones.

import { connect } from '@vyzio/realtime';
import WebSocket from 'ws';

const { URL = 'http://127.0.0.1:8000', TOKEN, CONVERSATION } = process.env;

const rt = connect({ url: URL, token: () => TOKEN, WebSocket });
const chat = rt.conversation(Number(CONVERSATION));

chat.on('message', async (message) => {
    await chat.send(`Vous avez dit : ${message.content}`);
    await chat.read();
});
rt.on('state', (state) => {
    console.log(state);
    if (state === 'closed') process.exitCode = 1; // It does not reconnect any more: rt.error has the reason.
});
