/** A user's own settings, for pages that import it: of conversations, notifications, reminders and presence. */

import { ARCHIVED, DONE } from './constants.js';
import { Emitter } from './emitter.js';
import type { Realtime } from './index.js';
import type { Failure, Notification, Result } from './types.js';

export { isMuted } from './muted.js';

/** What `setMine` changes. What is absent stays. */
export interface MineChanges {
  /** A time (RFC 3339), `forever`, or null to end a mute. */
  muted_until?: string | null;
  archived?: boolean;
  pinned?: boolean;
}

/** Mutes, archives or pins a conversation, for this user only. Never rejects. */
export async function setMine(rt: Realtime, id: number, changes: MineChanges): Promise<Result<null>> {
  const answer = await rt.call('PUT', `/api/conversations/${id}/mine`, changes);
  const { _list: list } = rt._core;
  const item = list?.find(id);
  // The server sends a frame, too. A page that polls gets none.
  if (answer.ok && item) {
    const { muted_until: until = item.muted_until } = changes;
    list!._onMine(id, { ...item, ...changes, muted_until: until ?? undefined });
  }
  return answer;
}

/**
 * The user has seen the notifications that are here, or all, if the client has not loaded them: `unseen` becomes 0. They stay
 * unread. Never rejects.
 */
export async function markSeen(rt: Realtime): Promise<Result<null>> {
  const inbox = rt.opened.notifications;
  let newest: Notification | undefined;
  if (inbox?.state === 'live' || inbox?.state === 'waiting') {
    newest = inbox.unseen ? inbox.items[0] : undefined;
  } else {
    const page = await rt._core._page('/api/notifications', null, 1);
    if (!page.ok) return page;
    [newest] = page.data.items;
  }
  if (!newest) return DONE;
  return rt.call('POST', '/api/notifications/seen', { notification_id: newest.notification_id });
}

/** Archives a notification, which also marks it as read. Never rejects. */
export async function archiveNotification(rt: Realtime, id: number): Promise<Result<null>> {
  const answer = await rt.call('POST', `/api/notifications/${id}/archive`);
  if (answer.ok) rt.opened.notifications?._onEvent({ type: ARCHIVED, notification_id: id });
  return answer;
}

/** Hours without reminders, on every day, such as from `22:00` to `08:00`. */
export interface QuietHours {
  from: string;
  to: string;
  /** A time zone of the IANA list, such as `Europe/Paris`. */
  tz: string;
}

/** For each type of notification, or `*`, and each channel of reminders, such as `mail`: whether it is on. */
export type TypeSettings = Readonly<Record<string, Readonly<Record<string, boolean>>>>;

/** The user's preferences at one moment. */
export interface PreferencesSnapshot {
  loaded: boolean;
  /** Why the last call failed; null after the next success. */
  error: Failure | null;
  /** The user's settings. */
  types: TypeSettings;
  /** What applies without one. What is in neither is on. */
  defaults: TypeSettings;
  /** Types that ignore the settings. */
  mandatory: readonly string[];
  quiet: QuietHours | null;
  /** Whether others see the user's presence; null if presence is switched off. */
  presence: boolean | null;
}

const PATH = '/api/me/preferences';
/** Preferences that are not loaded. @internal */
export const NO_PREFERENCES: PreferencesSnapshot = Object.freeze({
  loaded: false,
  error: null,
  types: {},
  defaults: {},
  mandatory: [],
  quiet: null,
  presence: null,
});

/** The preferences of a client's user. */
export class Preferences extends Emitter<{ change: void }> {
  /** The current state, which is the same object until it changes. */
  snapshot: Readonly<PreferencesSnapshot> = NO_PREFERENCES;
  readonly #rt: Realtime;
  /** Whose preferences these are, as the client knew it. */
  #user: number | null = null;

  /** @internal */
  constructor(rt: Realtime) {
    super();
    this.#rt = rt;
    rt.on('state', () => this.#follow());
    this.#load();
  }

  /** Reads everything for the first time. */
  #load() {
    this.#rt._core._repeat(
      () => this.reload(),
      () => !this.snapshot.loaded,
    );
  }

  /** Nothing of a user's stays for the next one. */
  #follow() {
    const isAnother = this.snapshot.loaded && this.#user !== this.#rt.userId;
    if (isAnother || this.#rt._core._connection._ended) this.#become(NO_PREFERENCES);
    if (isAnother) this.#load();
  }

  /** Reads everything again. */
  async reload(): Promise<Result<null>> {
    const [own, presence] = await Promise.all([this.#rt.call('GET', PATH), this.#rt.call('GET', '/api/me/presence')]);
    this.#user = this.#rt.userId;
    const off = !presence.ok && presence.error.code === 'invalid_request';
    if (!presence.ok && !off) return this.#failed(presence);
    return this.#take(own, { presence: presence.ok ? presence.data.shown : null });
  }

  /** Whether reminders of a type are sent over a channel: the most specific setting wins. */
  isOn(type: string, channel: string): boolean {
    const { types, defaults, mandatory } = this.snapshot;
    const id = type.replaceAll('.', '-'); // As the operator's texts name it.
    const known = (settings: TypeSettings, type: string) => settings[type]?.[channel] ?? settings['*']?.[channel];
    return mandatory.includes(id) || (known(types, type) ?? known(defaults, id) ?? true);
  }

  /** Switches reminders of a type, or of all (`*`), over a channel on or off. `null` removes the user's setting. */
  async set(type: string, channel: string, on: boolean | null): Promise<Result<null>> {
    return this.#patch({ types: { [type]: { [channel]: on } } });
  }

  /** Sets the quiet hours; `null`: none. */
  async setQuiet(quiet: QuietHours | null): Promise<Result<null>> {
    return this.#patch({ quiet });
  }

  /** Shows the user's presence to others, or hides it. Users who hide see nobody's. */
  async showPresence(shown: boolean): Promise<Result<null>> {
    const answer = await this.#rt.call('PUT', '/api/me/presence', { shown });
    if (!answer.ok) return this.#failed(answer);
    this.#become({ presence: shown, error: null });
    return DONE;
  }

  async #patch(changes: object): Promise<Result<null>> {
    return this.#take(await this.#rt.call('PATCH', PATH, changes), {});
  }

  /** Takes the preferences in an answer. */
  #take(answer: Result<any>, more: Partial<PreferencesSnapshot>): Result<null> {
    if (!answer.ok) return this.#failed(answer);
    const { types, defaults, mandatory, quiet } = answer.data;
    this.#become({ loaded: true, error: null, types, defaults, mandatory, quiet, ...more });
    return DONE;
  }

  #failed(answer: Result<any> & { ok: false }): Result<null> {
    this.#become({ error: answer.error });
    return answer;
  }

  #become(state: Partial<PreferencesSnapshot>) {
    const ended = this.#rt._core._connection._ended;
    this.snapshot = ended ? NO_PREFERENCES : Object.freeze({ ...this.snapshot, ...state });
    this._emit('change', undefined);
  }
}

/** Under this key, a client has its preferences: the same for all copies of this module. */
const KEY = Symbol.for('@vyzio/realtime/preferences');

/** The preferences of a client's user, which are read once. */
export function preferencesOf(rt: Realtime): Preferences {
  const client = rt as Realtime & { [KEY]?: Preferences };
  return (client[KEY] ??= new Preferences(rt));
}
