/** Whether the other person of the open conversation is online, or when they were last. */

import { presenceOf } from '/client/presence.js';
import { parts } from './dom.js';
import { agoText, t } from './words.js';

/** How often “5 minutes ago” is brought up to date. */
const MINUTE = 60_000;

export class PresenceLine {
  #presence = null;
  #stop = () => {};

  constructor(rt) {
    this.rt = rt;
    setInterval(() => this.render(), MINUTE);
  }

  /** Follows a conversation; null: none. */
  open(id) {
    this.#stop();
    this.#presence?.close();
    this.#presence = id && presenceOf(this.rt, id);
    this.#stop = this.#presence?.on('change', () => this.render()) ?? (() => {});
    this.render();
  }

  /** With several people, the number of those who are online. */
  render() {
    const people = this.#presence?.people ?? [];
    const online = people.filter((person) => person.online).length;
    const [{ last_seen: lastSeen } = {}] = people.length === 1 ? people : [];
    let text = '';
    if (people.length > 1) text = online ? t('online_many', { n: online }) : '';
    else if (online) text = t('is_online');
    else if (lastSeen) text = t('seen', { when: agoText(new Date(lastSeen)) });
    parts.presence.hidden = !text;
    parts.presence.dataset.online = online > 0;
    parts['presence-text'].textContent = text;
  }
}
