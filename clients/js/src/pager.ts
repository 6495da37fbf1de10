/** A list that the server has in pages. */

import { DONE, KEEP } from './constants.js';
import type { Result } from './types.js';

/** A page as the server sends it, newest first. `next` is the cursor of the next page. */
export interface Page<Item> {
  items: Item[];
  next: number | null;
}

export interface LogOptions<Item> {
  id(item: Item): number;
  /** The order of the list, newest first. */
  compare(a: Item, b: Item): number;
  /** The cursor after an item. By default, its id. */
  cursor?(item: Item): number;
  load(before: number | null, limit: number): Promise<Result<Page<Item>>>;
  onChange(): void;
}

export interface PagerOptions<Item> extends LogOptions<Item> {
  /** Combines two states of one item. By default, the one that came last wins. */
  merge?(known: Item, fresh: Item): Item;
}

/** The most items that the server puts into a page. */
const PAGE = 200;

/**
 * The newest part of the server's list, without a gap. Each item is there once.
 *
 * Items beyond the last loaded page are known, but not shown before their page is loaded.
 */
export class Log<Item> {
  /** Whether the first page is here. */
  loaded = false;
  protected readonly _options: LogOptions<Item>;
  protected readonly _all = new Map<number, Item>();
  /** The cursor of the next page, as the server gave it; null at the end. */
  protected _next: number | null = null;
  /** Grows with each `clear`, after which pages that are on their way are dropped. */
  protected _epoch = 0;
  #shown: readonly Item[] | null = null;
  /** The last item of the last page, as it was in that page. */
  #end: Item | null = null;
  #keep = KEEP;
  /** The request for a page, if one is on its way. */
  _older: Promise<Result<null>> | null = null;

  constructor(options: LogOptions<Item>) {
    this._options = options;
  }

  /** Newest first. The same array until the list changes. */
  get items(): readonly Item[] {
    if (!this.#shown) {
      const { compare } = this._options;
      const shown = [...this._all.values()].filter((item) => !this.hasOlder || compare(item, this.#end!) <= 0).sort(compare);
      if (shown.length > this.#keep) this.#trim(shown);
      this.#shown = Object.freeze(shown);
    }
    return this.#shown;
  }

  /** Whether there are older items to load. */
  get hasOlder(): boolean {
    return this._next !== null;
  }

  /** The item with this id, even if it is not shown yet. */
  find(id: number): Item | undefined {
    return this._all.get(id);
  }

  /** Adds items, or later states of items. */
  put(items: readonly Item[]) {
    for (const item of items) this._set(item);
    this.#changed();
  }

  #changed() {
    this.#shown = null;
    if (this._all.size > 2 * this.#keep) void this.items; // Nobody looks at the list, which trims it.
    this._options.onChange();
  }

  protected _set(item: Item) {
    this._all.set(this._options.id(item), item);
  }

  /** Forgets everything. */
  clear() {
    this._all.clear();
    this._next = this.#end = null;
    this.#keep = KEEP;
    this.loaded = false;
    this._epoch += 1;
    this.put([]);
  }

  /** Loads the next page. Calls at the same time load it once. */
  loadOlder(limit = 50): Promise<Result<null>> {
    if (this.loaded && !this.hasOlder) return Promise.resolve(DONE);
    return (this._older ??= this._loadOlder(limit).finally(() => (this._older = null)));
  }

  protected async _loadOlder(limit: number): Promise<Result<null>> {
    const [before, epoch] = [this._next, this._epoch];
    const page = await this._options.load(before, limit);
    if (!page.ok) return page;
    if (before !== this._next || epoch !== this._epoch) return DONE; // The list is another one meanwhile.
    // What the page asked for must not be cut off by the next item.
    if (this.loaded) this.#keep += page.data.items.length;
    this._add(page.data);
    return DONE;
  }

  /** Adds a page at the end. */
  protected _add({ items, next }: Page<Item>) {
    this._next = next;
    this.#end = items.at(-1) ?? this.#end;
    this.loaded = true;
    for (const item of items) this._set(item);
    this.#changed();
  }

  /** Forgets the oldest items. They can be loaded again. */
  #trim(shown: Item[]) {
    const { id, cursor = id } = this._options;
    for (const item of shown.splice(this.#keep)) this._all.delete(id(item));
    this.#end = shown.at(-1)!;
    this._next = cursor(this.#end);
  }
}

/** A list whose items change, so that it is loaded again. */
export class Pager<Item> extends Log<Item> {
  /** Grows with each change from outside the pages. */
  _version = 0;
  readonly #merge: PagerOptions<Item>['merge'];
  #reload: Promise<Result<null>> | null = null;
  /** Items that came in while the list is loaded again. */
  #fresh = new Set<number>();

  constructor(options: PagerOptions<Item>) {
    super(options);
    this.#merge = options.merge;
  }

  override put(items: readonly Item[]) {
    this._version += 1;
    if (this.#reload) for (const item of items) this.#fresh.add(this._options.id(item));
    super.put(items);
  }

  protected override _set(item: Item) {
    const known = this.find(this._options.id(item));
    super._set(known && this.#merge ? this.#merge(known, item) : item);
  }

  protected override async _loadOlder(limit: number): Promise<Result<null>> {
    const epoch = this._epoch;
    await this.#reload;
    return epoch === this._epoch ? super._loadOlder(limit) : DONE;
  }

  /** Loads everything that is shown again, from the newest item on: at least a page. */
  reload(limit = 50): Promise<Result<null>> {
    return (this.#reload ??= this.#loadAgain(limit).finally(() => (this.#reload = null)));
  }

  async #loadAgain(limit: number): Promise<Result<null>> {
    const wanted = Math.max(limit, this.items.length);
    const epoch = this._epoch;
    const items: Item[] = [];
    let next: number | null = null;
    this.#fresh.clear();
    do {
      const page: Result<Page<Item>> = await this._options.load(next, Math.min(PAGE, wanted - items.length));
      if (!page.ok) return page;
      if (epoch !== this._epoch) return DONE;
      items.push(...page.data.items);
      next = page.data.next;
    } while (next !== null && items.length < wanted);
    for (const known of this._all.keys()) if (!this.#fresh.has(known)) this._all.delete(known);
    this._add({ items, next });
    return DONE;
  }
}
