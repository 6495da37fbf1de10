/**
 * Connects a user. It goes on connecting until it is closed, here or by the server for good.
 * @param {Options} options
 * @returns {Realtime}
 */
export function connect(options: Options): Realtime;
/**
 * Why something was not done. `code` is for programs: those of the server (`message_too_long`, `rate_limited`,
 * `blocked`, `forbidden`, `unauthorized`, `unavailable`, …) and the client's own: `network` (no answer),
 * `token_failed` (the callback threw), `queue_full` (too many messages wait), `refused` (the server ended the
 * connection for good), `closed` (by `close()`).
 */
export type Failure = {
    code: string;
    detail: string;
    retry_after_ms?: number;
};
/**
 * What a call came to; calls never reject.
 */
export type Result<T> = {
    ok: true;
    data: T;
} | {
    ok: false;
    error: Failure;
};
/**
 * A message as a conversation shows it. A changed one is a new object; one that is the same object has not changed.
 */
export type Message = {
    /**
     * the same before and after it is stored: what lists are keyed by
     */
    key: string;
    /**
     * null until it is stored
     */
    message_id: number | null;
    /**
     * its place in the conversation, counted from 1; null until it is stored
     */
    seq: number | null;
    sender_id: number;
    sender_username: string;
    content: string;
    /**
     * RFC 3339; until it is stored, by this machine's clock
     */
    created_at: string;
    /**
     * of one's own
     */
    client_id?: string | undefined;
    mine: boolean;
    /**
     * `received`: someone else's; `read`: by
     * every other participant
     */
    state: "sending" | "sent" | "read" | "failed" | "received";
    /**
     * why it failed
     */
    error?: Failure | undefined;
};
export type Person = {
    user_id: number;
    username: string;
};
/**
 * A conversation as the server describes it to the user.
 */
export type ConversationInfo = {
    conversation_id: number;
    listing_id: number | null;
    title: string | null;
    created_at: string;
    participants: Person[];
    last_message: WireMessage | null;
    unread_count: number;
};
export type WireMessage = {
    conversation_id: number;
    message_id: number;
    seq: number;
    sender_id: number;
    sender_username: string;
    content: string;
    created_at: string;
    is_read: boolean;
    client_id?: string;
};
export type Notification = {
    type: string;
    notification_id: number;
    seq: number;
    title: string;
    message: string;
    data: any;
    created_at: string;
    is_read: boolean;
    unread_count: number;
    /**
     * the notification that this one stands for from now on
     */
    replaces?: number | undefined;
};
export type State = "connecting" | "online" | "offline" | "closed";
export type Options = {
    /**
     * where the gateway is, such as `https://rt.example.com` (a path before `/ws/` and `/api/` is kept)
     */
    url: string;
    /**
     *   gives the user's JWT. With `refresh`, the one before has ended, ends soon or was refused: a cached one won't do.
     *   No token at all means that nobody is signed in: the connection closes.
     */
    token: string | ((why: {
        refresh: boolean;
    }) => string | null | undefined | Promise<string | null | undefined>);
    /**
     * whose token it is; by default the token's `user_id`
     */
    userId?: number | undefined;
    /**
     * what sockets are made of where the platform has none (Node before 22: `ws`)
     */
    WebSocket?: any;
    /**
     * other times than the usual ones, in milliseconds
     */
    timing?: Partial<{
        /** The first pause before reconnecting; it doubles from then on. */
        backoff: number;
        /** The longest such pause. */
        backoffMax: number;
        /** A connection that held so long was a good one: pauses start anew. */
        stable: number;
        /** At most, after a restart of the server, before the first attempt: not everyone is to come at the same moment. */
        spread: number;
        /** At least, when the server says that this is far too much. */
        limited: number;
        /** Until a handshake is given up. */
        open: number;
        /** Silence after which the server is asked for a sign of life: a browser can't ping. */
        idle: number;
        /** Until an answer must have come, or the connection is dead. The server gives up after 5 s itself. */
        answer: number;
        /** A page that comes back into view expects one sooner. */
        probe: number;
        /** Once to twice: from the answer to a subscription until it is sure to be in force. */
        settle: number;
        /** At most one `true` of typing in this time; the server forgets a typist after 6 s. */
        typing: number;
        /** How long an HTTP call may take. */
        http: number;
    }> | undefined;
};
/**
 * What is subscribed to over the socket.
 */
export type Channel = {
    name: string;
    /**
     * where to resume
     */
    after: () => number | undefined;
    onEvent: (data: any) => void;
    onJoined?: (() => void) | undefined;
    onLost?: (() => void) | undefined;
    /**
     * for good
     */
    onRefused?: ((error: Failure) => void) | undefined;
};
/**
 * A message of one's own that is not yet in the log.
 */
export type Draft = {
    shown: Message;
    tries: number;
    stored: boolean;
    settle: (message: Message) => void;
};
/**
 * The connection of one user. Events: `state`, and `error` for what goes wrong on the way and is tried again.
 * @extends {Emitter<{state: State, error: Failure}>}
 */
declare class Realtime extends Emitter<{
    state: State;
    error: Failure;
}> {
    /** @param {Options} options */
    constructor(options: Options);
    /** @returns {State} `connecting`, `online`, `offline` (it will try again) or `closed` (it won't; see `error`) */
    get state(): State;
    /** Why it is closed. @returns {Failure | null} */
    get error(): Failure | null;
    /** Whose connection it is; `NaN` until there is a token. */
    get userId(): number;
    /** Opens a conversation, or gives the one that is open. @param {number} id */
    conversation(id: number): Conversation;
    /** The user's notifications. */
    notifications(): Notifications;
    /** The user's conversations. */
    conversations(): Conversations;
    /**
     * Calls the HTTP API.
     * @param {string} method
     * @param {string} path  such as `/api/unread`
     * @param {object} [body]
     * @returns {Promise<Result<any>>} what was answered, or the problem; never rejects
     */
    call(method: string, path: string, body?: object): Promise<Result<any>>;
    /** Tries now what would be tried later; opens again what was refused. */
    reconnect(): void;
    /** Ends everything. */
    close(): void;
    #private;
}
/**
 * Something that tells its listeners.
 * @template {Record<string, any>} Events
 */
declare class Emitter<Events extends Record<string, any>> {
    /**
     * Calls `listener` whenever this happens.
     * @template {keyof Events} Type
     * @param {Type} type
     * @param {(value: Events[Type]) => void} listener
     * @returns {() => void} ends it
     */
    on<Type extends keyof Events>(type: Type, listener: (value: Events[Type]) => void): () => void;
    #private;
}
/**
 * A message of one's own that is not yet in the log.
 * @typedef {{shown: Message, tries: number, stored: boolean, settle: (message: Message) => void}} Draft
 */
/**
 * A conversation: an unbroken part of its log, up to its end, then what is on its way. Events: `change` (anything),
 * `message` (someone else's has just come in).
 * @extends {Emitter<{change: undefined, message: Message}>}
 */
declare class Conversation extends Emitter<{
    change: undefined;
    message: Message;
}> {
    /** @param {any} core  of the connection: conversations come from `rt.conversation(id)` @param {number} id */
    constructor(core: any, id: number);
    /** What the server says of it, once it has. @type {ConversationInfo | null} */
    info: ConversationInfo | null;
    /** `loading` until the first messages are here, `live`, `waiting` for the connection, or `closed` for good.
     * @type {'loading' | 'live' | 'waiting' | 'closed'} */
    state: "loading" | "live" | "waiting" | "closed";
    /** Why it is closed. @type {Failure | null} */
    error: Failure | null;
    /** Who else types. @type {Person[]} */
    typists: Person[];
    id: number;
    /** Oldest first; the last ones may still be on their way. The array is a new one after each change. */
    get messages(): readonly Message[];
    /** How many messages the user has not read. */
    get unread(): number;
    /** Whether there are messages before the first one that is here. */
    get hasOlder(): boolean;
    /**
     * Sends a message. It is in `messages` at once; when there is no connection, it goes out once there is.
     * @param {string} text
     * @returns {Promise<Message>} as it became: `sent` (stored), or `failed` with `error`; never rejects
     */
    send(text: string): Promise<Message>;
    /**
     * Sends again what failed; as it has the same `client_id`, it can't be stored twice.
     * @param {string} key
     * @returns {Promise<Message> | null} as of `send`; null where no such message failed
     */
    retry(key: string): Promise<Message> | null;
    /** Forgets a message that failed. @param {string} key */
    discard(key: string): void;
    /** The user has read everything that is here, or all up to a message. @param {number} [messageId] */
    read(messageId?: number): void;
    /**
     * The user types, or has stopped. May be called on every key: it is passed on sparingly, and ends by itself.
     * @param {boolean} [isTyping]
     */
    type(isTyping?: boolean): void;
    /** Loads messages before the first one. @param {number} [limit] @returns {Promise<Result<null>>} */
    loadOlder(limit?: number): Promise<Result<null>>;
    /** Leaves it. What is on its way is still sent. */
    close(): void;
    #private;
}
/**
 * The user's notifications. Events: `change` (anything), `notification` (a new one: in one tab only, of all that the
 * user has open in this browser; so it is for sounds and banners).
 * @extends {Emitter<{change: undefined, notification: Notification}>}
 */
declare class Notifications extends Emitter<{
    change: undefined;
    notification: Notification;
}> {
    /** @param {any} core  of the connection: they come from `rt.notifications()` */
    constructor(core: any);
    /** Newest first; the last one about a conversation's messages stands for those before it. @type {readonly Notification[]} */
    items: readonly Notification[];
    /** How many are unread, whether they are here or not. */
    unread: number;
    /** Whether there are older ones. */
    hasOlder: boolean;
    /** @type {Conversation['state']} */
    state: Conversation["state"];
    /** Marks one as read. @param {number} id @returns {Promise<Result<null>>} */
    read(id: number): Promise<Result<null>>;
    /** Marks all as read. @returns {Promise<Result<null>>} */
    readAll(): Promise<Result<null>>;
    /** Loads older ones. @param {number} [limit] @returns {Promise<Result<null>>} */
    loadOlder(limit?: number): Promise<Result<null>>;
    /** Hears no more of them: `close` of the connection does so. */
    close(): void;
    #private;
}
/**
 * The user's conversations, kept up to date: by the notifications of new messages, and by the conversations that are
 * open. Events: `change`.
 * @extends {Emitter<{change: undefined}>}
 */
declare class Conversations extends Emitter<{
    change: undefined;
}> {
    /** @param {any} core  of the connection: the list comes from `rt.conversations()` */
    constructor(core: any);
    /** Newest activity first. @type {readonly ConversationInfo[]} */
    items: readonly ConversationInfo[];
    /** Whether there are older ones. */
    hasOlder: boolean;
    /** Whether the first are here. */
    loaded: boolean;
    /** Reads the newest again. @returns {Promise<Result<null>>} */
    reload(): Promise<Result<null>>;
    /** Loads older ones. @returns {Promise<Result<null>>} */
    loadOlder(): Promise<Result<null>>;
    #private;
}
export {};
