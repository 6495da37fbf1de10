/** The dialogs with the user's own settings: of the open conversation, and of everything. */

import { isMuted, preferencesOf, setMine } from '/client/settings.js';
import { closable } from './actions.js';
import { element, parts } from './dom.js';
import { actionErrorText, t } from './words.js';

/** Types of notifications, and the channel of the reminders that the dialog offers. */
const TYPES = ['message_received', 'payment_completed', 'listing_published'];
const CHANNEL = 'mail';

/** Runs steps until one fails, and shows why. */
async function saved(form, error, steps) {
  if (form.ariaBusy === 'true') return false;
  form.ariaBusy = 'true';
  error.textContent = '';
  let answer = { ok: true };
  for (const step of steps) answer = answer.ok ? await step() : answer;
  form.ariaBusy = 'false';
  if (!answer.ok) error.textContent = actionErrorText(answer.error);
  return answer.ok;
}

/** What the user does with the open conversation: muted, pinned, archived. */
export class ConversationSettings {
  #item = null;

  /** `onChange()`: something was changed. */
  constructor(rt, { onChange }) {
    const dialog = closable('mine');
    parts.mine.addEventListener('click', () => {
      parts['mine-error'].textContent = '';
      parts['mine-muted'].checked = isMuted(this.#item ?? {});
      parts['mine-pinned'].checked = !!this.#item?.pinned;
      parts['mine-archived'].checked = !!this.#item?.archived;
      dialog.showModal();
    });
    parts['mine-form'].addEventListener('submit', async (event) => {
      event.preventDefault();
      const [muted, pinned, archived] = ['muted', 'pinned', 'archived'].map((name) => parts[`mine-${name}`].checked);
      const mute = muted === isMuted(this.#item) ? {} : { muted_until: muted ? 'forever' : null };
      const set = () => setMine(rt, this.#item.conversation_id, { ...mute, pinned, archived });
      if (!(await saved(parts['mine-form'], parts['mine-error'], [set]))) return;
      dialog.close();
      onChange();
    });
  }

  /** The open conversation, as the list knows it. */
  show(item) {
    this.#item = item ?? null;
    parts.mine.hidden = !item;
  }
}

/** What the user wants to hear of, when, and who sees that they are online. */
export class Settings {
  #boxes = new Map();

  constructor(rt) {
    this.rt = rt;
    const dialog = closable('settings');
    parts.settings.hidden = false;
    parts.settings.addEventListener('click', () => this.#open(dialog));
    parts['quiet-on'].addEventListener('change', () => this.#renderQuiet());
    parts['settings-form'].addEventListener('submit', async (event) => {
      event.preventDefault();
      if (await saved(parts['settings-form'], parts['settings-error'], this.#steps())) dialog.close();
    });
  }

  async #open(dialog) {
    const preferences = preferencesOf(this.rt);
    parts['settings-error'].textContent = '';
    const answer = await preferences.reload();
    if (!answer.ok) parts['settings-error'].textContent = actionErrorText(answer.error);
    const { quiet, mandatory, presence, loaded } = preferences.snapshot;
    parts['presence-setting'].hidden = presence === null;
    parts['presence-on'].checked = !!presence;
    for (const type of TYPES) {
      const { box } = this.#boxes.get(type);
      box.checked = preferences.isOn(type, CHANNEL);
      box.disabled = mandatory.includes(type);
    }
    parts['quiet-on'].checked = !!quiet;
    parts['quiet-from'].value = quiet?.from ?? '22:00';
    parts['quiet-to'].value = quiet?.to ?? '08:00';
    parts['settings-save'].disabled = !loaded;
    this.#renderQuiet();
    dialog.showModal();
  }

  /** Everything that has words in it. */
  render() {
    if (!this.#boxes.size) {
      for (const type of TYPES) {
        const [row, box, text] = [element('label', 'check'), element('input'), element('span')];
        box.type = 'checkbox';
        row.append(box, text);
        parts.reminders.append(row);
        this.#boxes.set(type, { box, text });
      }
    }
    for (const [type, { text }] of this.#boxes) text.textContent = t(`type_${type}`);
  }

  #renderQuiet() {
    parts['quiet-hours'].disabled = !parts['quiet-on'].checked;
  }

  /** The calls for what was changed in the dialog. */
  #steps() {
    const preferences = preferencesOf(this.rt);
    const { presence, quiet } = preferences.snapshot;
    const steps = [];
    const shown = parts['presence-on'].checked;
    if (presence !== null && shown !== presence) steps.push(() => preferences.showPresence(shown));
    for (const [type, { box }] of this.#boxes) {
      if (!box.disabled && box.checked !== preferences.isOn(type, CHANNEL))
        steps.push(() => preferences.set(type, CHANNEL, box.checked));
    }
    const { timeZone: tz } = Intl.DateTimeFormat().resolvedOptions();
    const wanted = parts['quiet-on'].checked ? { from: parts['quiet-from'].value, to: parts['quiet-to'].value, tz } : null;
    if (JSON.stringify(wanted) !== JSON.stringify(quiet)) steps.push(() => preferences.setQuiet(wanted));
    return steps;
  }
}
