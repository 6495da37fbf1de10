// The list of conversations, newest activity first.

import { element, rt } from './realtime.js';

const me = JSON.parse(document.querySelector('#vyzio-realtime').textContent).user.id;
const list = rt.conversations();

function row(item) {
  const other = item.participants.find((person) => person.user_id !== me);
  const link = element('a', '');
  link.href = `/messages/${item.conversation_id}/`;
  link.append(element('strong', other?.username ?? ''), element('small', item.title ?? ''));
  link.append(element('span', item.last_message?.content ?? '', 'last'));
  if (item.unread_count > 0) link.append(element('span', item.unread_count, 'badge'));
  const made = document.createElement('li');
  made.append(link);
  return made;
}

function show() {
  document.querySelector('#inbox').replaceChildren(...list.items.map(row));
  document.querySelector('#empty').hidden = !list.loaded || list.items.length > 0;
  document.querySelector('#failed').hidden = list.loaded || !list.error;
}

list.on('change', show);
show();
