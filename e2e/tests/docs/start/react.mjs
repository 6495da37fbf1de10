// Renders the page's component, sends a message with its form, and prints the messages that it shows.

import { act, createElement } from 'react';
import { create } from 'react-test-renderer';
import WebSocket from 'ws';

globalThis.WebSocket ??= WebSocket;
const { fetch } = globalThis;
globalThis.fetch = (url, options) => (url === '/realtime/token' ? new Response(process.env.TOKEN) : fetch(url, options));

const { App } = await import('./app.bundle.mjs');
let page;
globalThis.IS_REACT_ACT_ENVIRONMENT = true;
await act(async () => (page = create(createElement(App))));
globalThis.IS_REACT_ACT_ENVIRONMENT = false; // The rest renders when its messages arrive.
const shown = () => page.root.findAllByType('li').map((item) => item.children.join(''));

async function until(count) {
  const end = Date.now() + 20_000;
  while (shown().length < count) {
    if (Date.now() > end) throw new Error(`waited 20 s for ${count} messages`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

await until(1);
const field = { value: 'Bonjour' };
const target = { text: field, reset: () => (field.value = '') };
page.root.findByType('form').props.onSubmit({ preventDefault() {}, target });
await until(2);
console.log(JSON.stringify({ shown: shown(), left: field.value }));
process.exit();
