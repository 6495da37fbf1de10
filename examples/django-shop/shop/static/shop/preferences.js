// Subscribes this browser to pushes.

const page = JSON.parse(document.querySelector('#page').textContent);
const csrf = document.querySelector('[name=csrfmiddlewaretoken]').value;
const button = document.querySelector('#push');

button.hidden = !('serviceWorker' in navigator && 'PushManager' in window) || Notification.permission === 'denied';
button.addEventListener('click', async () => {
  button.disabled = true;
  button.textContent = (await subscribe().catch(() => false)) ? 'Activé sur cet appareil' : 'Cela n’a pas fonctionné';
});

async function subscribe() {
  const worker = await navigator.serviceWorker.register(page.worker);
  const options = { userVisibleOnly: true, applicationServerKey: page.push_key };
  const subscription = await worker.pushManager.subscribe(options);
  const headers = { 'X-CSRFToken': csrf, 'Content-Type': 'application/json' };
  const answer = await fetch(page.push_url, { method: 'POST', headers, body: JSON.stringify(subscription) });
  return answer.ok;
}
