import { useEffect, useState } from 'react';
import { useConnection, useConversation, useConversations, useInbox } from '@vyzio/realtime/react';

export function Inbox() {
  const { state, userId } = useConnection();
  const { unread } = useInbox();
  const { items, hasOlder, loadOlder } = useConversations();
  const [open, setOpen] = useState(null);
  return (
    <main>
      <p id="status">
        {state}, {unread} unread
      </p>
      <ul id="conversations">
        {items.map(({ conversation_id: id, participants, last_message: last, unread_count: count }) => (
          <li key={id}>
            <button type="button" data-conversation={id} onClick={() => setOpen(id)}>
              {participants
                .filter((person) => person.user_id !== userId)
                .map((person) => person.username)
                .join(', ')}
              {count > 0 && <b> {count}</b>}: {last?.content}
            </button>
          </li>
        ))}
      </ul>
      {hasOlder && (
        <button type="button" onClick={() => loadOlder()}>
          Older
        </button>
      )}
      {open && <Thread key={open} id={open} />}
    </main>
  );
}

function Thread({ id }) {
  const { messages, typists, unread, hasOlder, send, type, read, retry, loadOlder } = useConversation(id);
  const [text, setText] = useState('');
  useEffect(() => void (unread && read()), [unread, read]);
  const submit = (event) => {
    event.preventDefault();
    if (text.trim()) send(text);
    setText('');
  };
  return (
    <section id="thread">
      {hasOlder && (
        <button type="button" onClick={() => loadOlder()}>
          Older
        </button>
      )}
      <ol>
        {messages.map(({ key, content, state }) => (
          <li key={key} data-state={state}>
            {content}{' '}
            {state === 'failed' && (
              <button type="button" onClick={() => retry(key)}>
                Try again
              </button>
            )}
          </li>
        ))}
      </ol>
      <p id="typing">{typists.map((person) => person.username).join(', ')}</p>
      <form onSubmit={submit}>
        <input id="text" value={text} onChange={(event) => (setText(event.target.value), type())} />
      </form>
    </section>
  );
}
