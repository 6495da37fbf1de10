/** Hooks for React 18 and later: the state of the client, as it is. */

import { type ReactNode, createContext, createElement, useContext, useMemo, useSyncExternalStore } from 'react';
import type { Conversation, ConversationSnapshot } from './conversation.js';
import type { Conversations, ConversationsSnapshot } from './conversations.js';
import { idOf } from './ids.js';
import type { Realtime } from './index.js';
import type { InboxSnapshot, Notifications } from './notifications.js';
import { type Presence, type PresenceSnapshot, openPresence, presenceOf } from './presence.js';
import {
  type MineChanges,
  NO_PREFERENCES,
  type Preferences,
  type PreferencesSnapshot,
  archiveNotification,
  markSeen,
  preferencesOf,
  setMine,
} from './settings.js';
import type { Failure, Result, State } from './types.js';

/** The state of the connection. */
export interface ConnectionSnapshot {
  state: State;
  /** Why it is offline or closed. */
  error: Failure | null;
  /** The user; null until it is known. */
  userId: number | null;
}

type Actions<Part, Name extends keyof Part> = { readonly [Key in Name]: Part[Key] };
/** What `useConnection` returns. */
export type UseConnection = Readonly<ConnectionSnapshot> & Actions<Realtime, 'reconnect'>;
/** What `useConversation` returns. */
export type UseConversation = Readonly<ConversationSnapshot> &
  Actions<Conversation, 'send' | 'retry' | 'discard' | 'edit' | 'delete' | 'read' | 'type' | 'loadOlder'>;
/** What `useConversations` returns. */
export type UseConversations = Readonly<ConversationsSnapshot> &
  Actions<Conversations, 'reload' | 'loadOlder'> & {
    /** Mutes, archives or pins a conversation, for this user only. */
    readonly setMine: (id: number, changes: MineChanges) => Promise<Result<null>>;
  };
/** What `useInbox` returns. */
export type UseInbox = Readonly<InboxSnapshot> &
  Actions<Notifications, 'read' | 'readAll' | 'loadOlder'> & {
    /** The user has seen the notifications that are here: `unseen` becomes 0. */
    readonly markSeen: () => Promise<Result<null>>;
    /** Archives a notification, which also marks it as read. */
    readonly archive: (id: number) => Promise<Result<null>>;
  };
/** What `usePresence` returns. */
export type UsePresence = Readonly<PresenceSnapshot>;
/** What `usePreferences` returns. */
export type UsePreferences = Readonly<PreferencesSnapshot> &
  Actions<Preferences, 'reload' | 'isOn' | 'set' | 'setQuiet' | 'showPresence'>;

const Context = createContext<Realtime | null>(null);

/** Gives a client to the hooks below it. `null`, for example while the server renders: everything is `loading`. */
export function RealtimeProvider({ client, children }: { client: Realtime | null; children?: ReactNode }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** State that a hook follows. */
interface Source<Snapshot> {
  readonly snapshot: Snapshot;
  on(type: 'change', listener: () => void): () => void;
}

/** How a hook gets its part of the client. */
interface Access<Part> {
  /** The part, if it is open. Opens nothing, because React may render without mounting. */
  peek(client: Realtime): Part | null;
  open(client: Realtime): Part;
  close?(part: Part): void;
}

/** Follows a part of the client while the component is mounted. */
function usePart<Snapshot extends object, Part extends Source<Snapshot>, Name extends keyof Part>(
  access: Access<Part>,
  /** Shown by the server, and before the part is open. */
  empty: Snapshot,
  names: readonly Name[],
  key?: unknown,
): Readonly<Snapshot> & Actions<Part, Name> {
  const client = useContext(Context);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `key` stands for `access` and `empty`, which are new at each call.
  const store = useMemo(() => {
    let mounted: Part | null = null;
    const act = (name: Name, values: unknown[]) => {
      if (mounted) return (mounted[name] as any)(...values);
      const part = access.open(client!); // For example in an effect of a child, which runs first.
      const result = (part[name] as any)(...values);
      access.close?.(part);
      return result;
    };
    return {
      subscribe(onChange: () => void) {
        if (!client) return () => {};
        const part = (mounted = access.open(client));
        const stop = part.on('change', onChange);
        return () => {
          mounted = null;
          stop();
          access.close?.(part);
        };
      },
      get: () => (mounted ?? (client && access.peek(client)))?.snapshot ?? empty,
      server: () => empty,
      actions: Object.fromEntries(names.map((name) => [name, (...values: unknown[]) => act(name, values)])),
    };
  }, [client, key]);
  const snapshot = useSyncExternalStore(store.subscribe, store.get, store.server);
  return useMemo(() => ({ ...snapshot, ...store.actions }) as any, [snapshot, store]);
}

/** Functions that need a client: bound to that of the provider. */
function useBound<Functions extends Record<string, (client: Realtime, ...values: any[]) => unknown>>(functions: Functions) {
  const client = useContext(Context);
  type Bound = {
    readonly [Name in keyof Functions]: Functions[Name] extends (client: Realtime, ...values: infer Values) => infer Value
      ? (...values: Values) => Value
      : never;
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: `functions` are constants.
  return useMemo(
    () =>
      Object.fromEntries(
        Object.entries(functions).map(([name, call]) => [name, (...values: unknown[]) => call(client!, ...values)]),
      ) as Bound,
    [client],
  );
}

const CONNECTION: ConnectionSnapshot = { state: 'connecting', error: null, userId: null };

function connectionOf(client: Realtime): Source<ConnectionSnapshot> & Pick<Realtime, 'reconnect'> {
  let last = CONNECTION;
  return {
    get snapshot() {
      const { state, error, userId } = client;
      if (state !== last.state || error !== last.error || userId !== last.userId) last = { state, error, userId };
      return last;
    },
    on(_, listener) {
      const stops = [client.on('state', listener), client.on('error', listener)];
      return () => {
        for (const stop of stops) stop();
      };
    },
    reconnect: () => client.reconnect(),
  };
}

/** The state of the connection. */
export function useConnection(): UseConnection {
  const access = useMemo(() => {
    const known = new WeakMap<Realtime, ReturnType<typeof connectionOf>>();
    const open = (client: Realtime) => {
      if (!known.has(client)) known.set(client, connectionOf(client));
      return known.get(client)!;
    };
    return { open, peek: open };
  }, []);
  return usePart(access, CONNECTION, ['reconnect']);
}

/** A conversation. All components that use it share it; it closes 5 s after the last one is gone. */
export function useConversation(id: number | string): UseConversation {
  const key = idOf(id);
  const empty = useMemo<ConversationSnapshot>(
    () => ({ id: key, state: 'loading', error: null, info: null, messages: [], typists: [], unread: 0, hasOlder: false }),
    [key],
  );
  const access: Access<Conversation> = {
    peek: (client) => client.opened.conversation(key),
    open: (client) => client.conversation(key),
    close: (chat) => chat.close(),
  };
  return usePart(access, empty, ['send', 'retry', 'discard', 'edit', 'delete', 'read', 'type', 'loadOlder'], key);
}

const LIST_SETTINGS = { setMine };
const INBOX_SETTINGS = { markSeen, archive: archiveNotification };

const LIST: ConversationsSnapshot = { items: [], loaded: false, error: null, hasOlder: false };

/** The list of the user's conversations. */
export function useConversations(): UseConversations {
  const access: Access<Conversations> = {
    peek: (client) => client.opened.conversations,
    open: (client) => client.conversations(),
  };
  const list = usePart(access, LIST, ['reload', 'loadOlder']);
  const own = useBound(LIST_SETTINGS);
  return useMemo(() => ({ ...list, ...own }), [list, own]);
}

const INBOX: InboxSnapshot = { state: 'loading', error: null, items: [], unread: 0, unseen: 0, hasOlder: false };

/** The user's notifications. */
export function useInbox(): UseInbox {
  const access: Access<Notifications> = {
    peek: (client) => client.opened.notifications,
    open: (client) => client.notifications(),
  };
  const inbox = usePart(access, INBOX, ['read', 'readAll', 'loadOlder']);
  const own = useBound(INBOX_SETTINGS);
  return useMemo(() => ({ ...inbox, ...own }), [inbox, own]);
}

const NOBODY: PresenceSnapshot = { people: [], error: null };

/** The presence of the other participants of a conversation. All components that use it share it. */
export function usePresence(id: number | string): UsePresence {
  const key = idOf(id);
  const access: Access<Presence> = {
    peek: (client) => openPresence(client, key),
    open: (client) => presenceOf(client, key),
    close: (presence) => presence.close(),
  };
  return usePart(access, NOBODY, [], key);
}

/** The user's preferences. */
export function usePreferences(): UsePreferences {
  const access: Access<Preferences> = { peek: () => null, open: preferencesOf };
  return usePart(access, NO_PREFERENCES, ['reload', 'isOn', 'set', 'setQuiet', 'showPresence']);
}
