/** Making elements. What people wrote only ever becomes text, never markup. */

/** The elements with an id, by it. */
export const parts = Object.fromEntries([...document.querySelectorAll('[id]')].map((node) => [node.id, node]));

export function element(tag, className = '', text = '') {
  const node = document.createElement(tag);
  if (tag === 'button') node.type = 'button';
  node.className = className;
  node.textContent = text;
  return node;
}

/** One of the icons in the page's sprite. */
export function icon(name) {
  const [svg, use] = ['svg', 'use'].map((tag) => document.createElementNS('http://www.w3.org/2000/svg', tag));
  use.setAttribute('href', `#icon-${name}`);
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** Makes `parent` hold exactly `children`, in order, moving only what is out of place. */
export function arrange(parent, children) {
  const kept = new Set(children);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  children.forEach((child, index) => {
    const there = parent.children[index];
    if (child !== there) parent.insertBefore(child, there ?? null);
  });
}

/** Elements by key, each made once and brought up to date whenever it is shown. */
export class Rows {
  #rows = new Map();

  /** `make(item)` gives a row with its `node`; `update(row, item)` brings it up to date. */
  constructor(make, update) {
    Object.assign(this, { make, update });
  }

  /** The elements for these keys and items, in order; those of others are forgotten. */
  show(entries) {
    const before = this.#rows;
    this.#rows = new Map(entries.map(([key, item]) => [key, before.get(key) ?? this.make(item)]));
    return entries.map(([key, item]) => {
      const row = this.#rows.get(key);
      this.update(row, item);
      return row.node;
    });
  }
}

const HUES = 6;

/** Shows a person by initials, in a colour of their own. */
export function showAvatar(node, { user_id: id, username }) {
  node.textContent = username
    .split(/[\s._-]+/, 2)
    .map((part) => [...part][0] ?? '')
    .join('')
    .toUpperCase();
  node.dataset.hue = id % HUES;
}

/** A name as people write it: the demo's are plain words. */
export const nameText = (name) => name.charAt(0).toUpperCase() + name.slice(1);
