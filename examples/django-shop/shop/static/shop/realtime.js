// The connection of every page: notifications, badges, and a line while there is no connection.

const { url, client, token, user } = JSON.parse(document.querySelector('#vyzio-realtime').textContent);

/** The client, or null if nobody is signed in. */
export const rt = user ? await connectTo() : null;

async function connectTo() {
  const { connect } = await import(client);
  return connect({ url, token: ({ refresh }) => fetch(token, { cache: refresh ? 'no-store' : 'default' }) });
}

/** Makes `parent` hold exactly `children`, in order, moving only what is out of place: what has the focus keeps it. */
export function arrange(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    const there = parent.children[index];
    if (child !== there) parent.insertBefore(child, there ?? null);
  });
}

/** An element with this text, and perhaps a class. */
export function element(name, text, className = '') {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

export function amount(cents) {
  const digits = cents % 100 === 0 ? 0 : 2;
  return (cents / 100).toLocaleString('fr', { style: 'currency', currency: 'EUR', minimumFractionDigits: digits });
}

/** Where a notification leads. */
function target({ type, data }) {
  if (type === 'message_received') return `/messages/${data.conversation_id}/`;
  return data?.listing_id ? `/listings/${data.listing_id}/` : '/';
}

function notice(item) {
  const link = element('a', '');
  link.href = target(item);
  link.append(element('strong', item.title), element('span', item.message));
  const made = document.createElement('li');
  made.append(link);
  return made;
}

function badge(selector, count) {
  const found = document.querySelector(selector);
  found.textContent = count;
  found.hidden = count === 0;
}

/** This browser gets no more pushes, and shows none to the next user. */
async function forgetPushes() {
  const worker = await navigator.serviceWorker?.getRegistration();
  const subscription = await worker?.pushManager?.getSubscription();
  await subscription?.unsubscribe();
  for (const shown of (await worker?.getNotifications()) ?? []) shown.close();
}

if (rt) {
  rt.on('state', (state) => {
    const line = document.querySelector('#offline');
    line.hidden = state === 'online' || state === 'connecting';
    line.textContent = `Pas de connexion : ${rt.error?.detail ?? ''}`;
  });
  const inbox = rt.notifications();
  inbox.on('change', () => {
    badge('#bell .badge', inbox.unread);
    document.querySelector('#bell ul').replaceChildren(...inbox.items.slice(0, 8).map(notice));
  });
  document.querySelector('#bell').addEventListener('toggle', ({ target }) => target.open && inbox.readAll());
  inbox.on('notification', (item) => {
    // The conversation that is open shows its messages itself.
    if (target(item) === location.pathname) return;
    const toast = notice(item);
    document.querySelector('#toasts').append(toast);
    setTimeout(() => toast.remove(), 8000);
  });
  document.querySelector('#sign-out').addEventListener('submit', async (event) => {
    event.preventDefault();
    await forgetPushes().catch((error) => console.warn(error));
    event.target.submit();
  });
  const list = rt.conversations();
  list.on('change', () =>
    badge(
      '#unread',
      list.items.reduce((sum, item) => sum + item.unread_count, 0),
    ),
  );
}
