// An inbox in React: the list, a conversation and the bell. The address has the gateway and the token:
// http://localhost:5173/#url=http://127.0.0.1:8000&token=<jwt>

import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { connect } from '@vyzio/realtime';
import { RealtimeProvider } from '@vyzio/realtime/react';
import { Inbox } from './inbox.jsx';

const settings = new URLSearchParams(location.hash.slice(1));
// Outside of the components, so that there is one client for the page's life.
const client = connect({ url: settings.get('url'), token: () => settings.get('token') });

createRoot(document.getElementById('root')).render(
  <StrictMode>
    <RealtimeProvider client={client}>
      <Inbox />
    </RealtimeProvider>
  </StrictMode>,
);
