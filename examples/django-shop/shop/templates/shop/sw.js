// Shows pushes, and removes them once they are read elsewhere.

self.addEventListener('push', (event) => {
  const { show, close = [] } = event.data.json();
  event.waitUntil(show ? showOne(show) : closeAll(close));
});

function showOne({ tag, title, body, link }) {
  return self.registration.showNotification(title, { tag, body, data: { link } });
}

async function closeAll(tags) {
  for (const tag of tags) {
    for (const shown of await self.registration.getNotifications({ tag })) shown.close();
  }
}

self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(self.clients.openWindow(event.notification.data.link));
});
