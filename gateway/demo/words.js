/** Words and dates, in French and English. Words that always stand in one place are in the HTML: `data-fr`, `data-en`. */

const WORDS = {
  title: ['Messages · Vyzio', 'Messages · Vyzio'],
  title_unread: ['({n}) Messages · Vyzio', '({n}) Messages · Vyzio'],
  today: ['Aujourd’hui', 'Today'],
  yesterday: ['Hier', 'Yesterday'],
  you: ['Vous', 'You'],
  signed_in: ['Vous êtes {name}', 'You are {name}'],
  other: ['Ouvrir la fenêtre de {name}', 'Open {name}’s window'],
  typing: ['{name} écrit…', '{name} is typing…'],
  typing_many: ['{name} et d’autres écrivent…', '{name} and others are typing…'],
  sending: ['Envoi en cours', 'Sending'],
  sent: ['Envoyé', 'Sent'],
  read: ['Lu', 'Read'],
  failed: ['Non envoyé', 'Not sent'],
  retry: ['Réessayer', 'Try again'],
  discard: ['Supprimer', 'Delete'],
  actions: ['Actions sur ce message', 'Actions for this message'],
  reply: ['Répondre', 'Reply'],
  replying: ['Réponse à {name}\u00a0: {text}', 'Reply to {name}: {text}'],
  go_to_original: ['Aller au message d’origine', 'Go to the original message'],
  original_unknown: ['Message introuvable', 'Message not found'],
  kind_offer: ['Offre', 'Offer'],
  kind_order: ['Commande', 'Order'],
  kind_appointment: ['Rendez-vous', 'Appointment'],
  kind_location: ['Position', 'Location'],
  order: ['n° {n}', 'no. {n}'],
  edit: ['Modifier', 'Edit'],
  delete: ['Supprimer', 'Delete'],
  edited: ['modifié', 'edited'],
  deleted: ['Message supprimé', 'Message deleted'],
  send: ['Envoyer', 'Send'],
  save: ['Enregistrer', 'Save'],
  online: ['Connecté', 'Connected'],
  connecting: ['Connexion…', 'Connecting…'],
  offline: ['Hors ligne', 'Offline'],
  closed: ['Déconnecté', 'Disconnected'],
  lost: ['Connexion perdue. Nouvel essai…', 'Connection lost. Trying again…'],
  is_online: ['En ligne', 'Online'],
  online_many: ['{n} personne en ligne|{n} personnes en ligne', '{n} person online|{n} people online'],
  seen: ['Vu {when}', 'Seen {when}'],
  muted: ['Sans alerte', 'Muted'],
  pinned: ['Épinglée', 'Pinned'],
  archive: ['Archiver\u00a0: {title}', 'Archive: {title}'],
  type_message_received: ['Nouveaux messages', 'New messages'],
  type_payment_completed: ['Paiements', 'Payments'],
  type_listing_published: ['Annonces publiées', 'Published listings'],
  bell: ['Notifications\u00a0: {n} non lue|Notifications\u00a0: {n} non lues', 'Notifications: {n} unread'],
  unread: ['Non lue', 'Unread'],
  unread_messages: ['non lu|non lus', 'unread'],
  nothing_said: ['Pas encore de message', 'No messages yet'],
  copied: ['Copié', 'Copied'],
  copy: ['Copier', 'Copy'],
  error: ['Le message n’est pas parti.', 'The message did not go out.'],
  error_blocked: ['Cette personne vous a bloqué.', 'This person has blocked you.'],
  error_invalid_message: ['Ce message ne peut pas être envoyé tel quel.', 'This message can’t be sent as it is.'],
  error_message_too_long: ['4\u202f000 caractères au plus.', '4,000 characters at most.'],
  error_rate_limited: ['Trop de messages à la fois. Patientez un peu.', 'Too many messages at once. Give it a moment.'],
  error_queue_full: ['Trop de messages attendent déjà.', 'Too many messages wait already.'],
  error_unavailable: ['Service indisponible pour le moment.', 'Unavailable for the moment.'],
  error_forbidden: [
    'Cette conversation n’existe pas, ou vous n’y participez pas.',
    'This conversation does not exist, or you are not part of it.',
  ],
  error_edit: ['Le message n’a pas pu être modifié.', 'The message could not be edited.'],
  error_edit_too_late: ['Il est trop tard pour modifier ce message.', 'It is too late to edit this message.'],
  error_delete: ['Le message n’a pas pu être supprimé.', 'The message could not be deleted.'],
  error_delete_too_late: ['Il est trop tard pour supprimer ce message.', 'It is too late to delete this message.'],
  error_list: ['La liste n’a pas pu être chargée.', 'The list could not be loaded.'],
  block: ['Bloquer {name}', 'Block {name}'],
  unblock: ['Débloquer {name}', 'Unblock {name}'],
  blocked: ['{name} ne peut plus vous écrire.', '{name} can’t write to you any more.'],
  unblocked: ['{name} peut de nouveau vous écrire.', '{name} can write to you again.'],
  report: ['Signaler {name}', 'Report {name}'],
  reported: ['Merci, le signalement est transmis.', 'Thank you, the report has been passed on.'],
  error_action: ['Cela n’a pas fonctionné. Réessayez.', 'That did not work. Try again.'],
  lost_no_websocket: [
    'Le serveur répond, mais pas aux WebSockets\u00a0: un proxy les bloque peut-être.',
    'The server answers, but not to WebSockets: a proxy may block them.',
  ],
  lost_origin_not_allowed: [
    'Le serveur n’accepte pas cette page\u00a0: ajoutez son origine à ALLOWED_ORIGINS. Nouvel essai…',
    'The server does not accept this page: add its origin to ALLOWED_ORIGINS. Trying again…',
  ],
  closed_user_changed: ['Une autre personne s’est connectée. Rechargez la page.', 'Another user has signed in. Reload the page.'],
  closed_unauthorized: [
    'Cet accès a expiré. Ouvrez la nouvelle adresse que donne «\u202fcargo xtask up\u202f».',
    'This access has expired. Open the new address that “cargo xtask up” prints.',
  ],
  closed_refused: ['Le serveur a refusé ce que cette page envoie.', 'The server refused what this page sends.'],
};

let lang = 'fr';

/** The page's language: `fr` or `en`. */
export const language = () => lang;

/** Switches the words that the HTML holds; the rest asks `t` when it is next shown. */
export function setLanguage(next) {
  lang = next === 'en' ? 'en' : 'fr';
  document.documentElement.lang = lang;
  for (const node of document.querySelectorAll('[data-fr]')) node.textContent = node.dataset[lang];
  for (const node of document.querySelectorAll('[data-fr-label]')) {
    node.ariaLabel = node.dataset[`${lang}Label`];
    if ('placeholder' in node) node.placeholder = node.ariaLabel;
  }
}

/**
 * The text for a key in the current language, `{name}` and the like filled in. Of two forms, the first is the singular,
 * which French uses for 0 as well.
 */
export function t(key, values = {}) {
  const forms = WORDS[key][lang === 'fr' ? 0 : 1].split('|');
  const plural = 'n' in values && new Intl.PluralRules(lang).select(values.n) !== 'one';
  return forms[plural ? forms.length - 1 : 0].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The text for why something failed. */
export const reasonText = (error) => t(`error_${error?.code}` in WORDS ? `error_${error?.code}` : 'error');
/** The text for why an action failed. */
export const actionErrorText = (error) =>
  t(error.code !== 'forbidden' && `error_${error.code}` in WORDS ? `error_${error.code}` : 'error_action');
/** The text for why a message could not be changed; `action`: `edit` or `delete`. */
export const changeErrorText = (action, error) => {
  const known = [`error_${action}_${error.code}`, error.code !== 'forbidden' && `error_${error.code}`];
  return t(known.find((key) => key in WORDS) ?? `error_${action}`);
};
/** The text for why the list is not there. */
export const listErrorText = (error) => t(`error_${error.code}` in WORDS ? `error_${error.code}` : 'error_list');
/** The text for why the connection is lost. */
export const lostText = (error) => t(`lost_${error?.code}` in WORDS ? `lost_${error?.code}` : 'lost');
/** The text for why the connection is closed. */
export const closedText = (error) => t(`closed_${error?.code}` in WORDS ? `closed_${error?.code}` : 'closed');

const locale = () => (lang === 'fr' ? 'fr' : 'en-GB');

/** Whether two dates are on one day, here. */
export const sameDay = (a, b) => a.toDateString() === b.toDateString();

/** A number. */
export const numberText = (number) => number.toLocaleString(locale());

/** An amount in cents. */
export const moneyText = (cents, currency) => (cents / 100).toLocaleString(locale(), { style: 'currency', currency });

/** A day and a time. */
export const dateText = (date) => date.toLocaleString(locale(), { dateStyle: 'medium', timeStyle: 'short' });

/** The time of day. */
export const timeText = (date) => date.toLocaleTimeString(locale(), { hour: '2-digit', minute: '2-digit' });

/** The time of what happened today, the day of what didn't. */
export function whenText(date) {
  return sameDay(date, new Date()) ? timeText(date) : date.toLocaleDateString(locale(), { day: 'numeric', month: 'short' });
}

/** How long ago something was, in the largest unit that fits. */
export function agoText(date) {
  const minutes = Math.max(1, Math.round((Date.now() - date) / 60_000));
  const [count, unit] =
    minutes < 60
      ? [minutes, 'minute']
      : minutes < 1_440
        ? [Math.floor(minutes / 60), 'hour']
        : [Math.floor(minutes / 1_440), 'day'];
  return new Intl.RelativeTimeFormat(locale()).format(-count, unit);
}

/** The day, as a heading. */
export function dayText(date) {
  const yesterday = new Date();
  if (sameDay(date, yesterday)) return t('today');
  yesterday.setDate(yesterday.getDate() - 1);
  if (sameDay(date, yesterday)) return t('yesterday');
  return date.toLocaleDateString(locale(), { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });
}
