// Serves the page's endpoint, and prints what it answers to someone and to nobody.

import { createServer } from 'node:http';
import { realtimeToken } from './endpoint.mjs';

const server = createServer((request, response) => {
  if (request.url === '/someone') request.user = { id: 456, name: 'john_doe' };
  realtimeToken(request, response);
}).listen(0, '127.0.0.1', async () => {
  const answers = [];
  for (const path of ['/someone', '/nobody']) {
    const answer = await fetch(`http://127.0.0.1:${server.address().port}${path}`);
    answers.push([answer.status, await answer.text()]);
  }
  console.log(JSON.stringify(answers));
  server.close();
});
