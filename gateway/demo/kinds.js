/** Structured messages: how their data are shown, the dialog that makes one, and the messages to which others reply. */

import { kindsOf, original, originalHere } from '/client/kinds.js';
import { closable } from './actions.js';
import { element, nameText, parts } from './dom.js';
import { dateText, moneyText, language, t } from './words.js';

/** The text of each kind that the page knows, from its data. */
const TEXTS = {
  offer: ({ amount, currency }) => moneyText(amount, currency),
  order: ({ order_id, carrier, tracking }) => [t('order', { n: order_id }), carrier, tracking].filter(Boolean).join(' · '),
  appointment: ({ starts_at, place }) => `${dateText(new Date(starts_at))} · ${place}`,
  location: ({ latitude, longitude, label }) => [label, `${latitude}, ${longitude}`].filter(Boolean).join(' · '),
};

export class Kinds {
  #schemas = new Map();

  /** `onChange()`: what messages show has changed. */
  constructor(rt, { onChange }) {
    Object.assign(this, { rt, onChange });
    rt.on('state', (state) => state === 'online' && this.#load());
  }

  async #load() {
    const kinds = await kindsOf(this.rt);
    if (kinds.ok) this.#schemas = kinds.data;
    this.onChange();
  }

  /** What is shown of a message: its title, text and state. `null`: a plain one, or of a kind that the page does not know. */
  card({ kind, data, deleted }) {
    if (deleted || !data || !Object.hasOwn(TEXTS, kind)) return null;
    const labels = this.#schemas.get(kind)?.['x-vyzio']?.labels?.[language()];
    const { state } = data;
    const label = labels && Object.hasOwn(labels, state) ? labels[state] : state;
    return { title: t(`kind_${kind}`), text: TEXTS[kind](data), state, label };
  }

  /** The text in one line. */
  line(message) {
    if (message.deleted) return t('deleted');
    const card = this.card(message);
    return card ? [card.title, card.text, card.label].filter(Boolean).join(' · ') : message.content;
  }

  /**
   * Shows in a button the message to which another one replies, once it is known. The button then says who wrote it, and
   * what.
   */
  async quote(button, chat, message) {
    const show = (found) => {
      const name = element('span', 'quote-name', nameText(found.sender_username));
      button.replaceChildren(name, element('span', 'quote-text', this.line(found)));
      button.title = t('go_to_original');
    };
    const here = originalHere(chat, message);
    if (here) return show(here);
    const found = await original(this.rt, chat, message);
    if (found.ok && found.data) show(found.data);
    else button.textContent = t('original_unknown');
  }
}

/** The dialog that makes an offer or an appointment. `onMade({kind, data})`: it is to be sent. */
export function prepareKindDialog(onMade) {
  const dialog = closable('kind');
  const [kind, amount, time, place] = ['kind-field', 'kind-amount', 'kind-time', 'kind-place'].map((id) => parts[id]);
  const choose = () => {
    for (const group of dialog.querySelectorAll('[data-kind]')) {
      group.hidden = group.dataset.kind !== kind.value;
      for (const field of group.querySelectorAll('input')) field.disabled = group.hidden;
    }
  };
  kind.addEventListener('change', choose);
  parts.attach.addEventListener('click', () => {
    parts['kind-form'].reset();
    choose();
    dialog.showModal();
  });
  parts['kind-form'].addEventListener('submit', (event) => {
    event.preventDefault();
    dialog.close();
    const data =
      kind.value === 'offer'
        ? { amount: Math.round(Number(amount.value) * 100), currency: 'EUR', state: 'open' }
        : { starts_at: new Date(time.value).toISOString(), place: place.value.trim(), state: 'proposed' };
    onMade({ kind: kind.value, data });
  });
}
