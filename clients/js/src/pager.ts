/** A list that the server has in pages. */

import { DONE, KEEP } from './constants.js';
import type { Result } from './types.js';

/** A page as the server sends it, newest first. `next` is the cursor of the next page. */
export interface Page<Item> {
  items: Item[];
  next: number | null;
}

export interface PagerOptions<Item> {
  id(item: Item): number;
  /** The order of the list, newest first. */
  compare(a: Item, b: Item): number;
  /** The cursor after an item. By default, its id. */
  cursor?(item: Item): number;
  /** Combines two states of one item. By default, the later one wins. */
  merge?(known: Item, fresh: Item): Item;
  load(before: number | null, limit: number): Promise<Result<Page<Item>>>;
  onChange(): void;
}

/** The most items that the server puts into a page. */
const PAGE = 200;

/**
 * The newest part of the server's list, without a gap. Each item is there once.
 *
 * Items beyond the last loaded page are known, but not shown before their page is loaded.
 */
export class Pager<Item> {
  /** Whether the first page is here. */
  loaded = false;
  readonly #options: PagerOptions<Item>;
  #all = new Map<number, Item>();
  #shown: readonly Item[] | null = null;
  /** The cursor of the next page, as the server gave it; null at the end. */
  #next: number | null = null;
  /** The last item of the last page, as it was in that page. */
  #end: Item | null = null;
  #keep = KEEP;
  #older: Promise<Result<null>> | null = null;
  #reload: Promise<Result<null>> | null = null;
  /** Items that came in while the list is loaded again. */
  #fresh: Set<number> | null = null;
  #version = 0;
  /** Grows with each `clear`, after which pages that are on their way are dropped. */
  #epoch = 0;

  constructor(options: PagerOptions<Item>) {
    this.#options = options;
  }

  /** Newest first. The same array until the list changes. */
  get items(): readonly Item[] {
    if (!this.#shown) {
      const { compare } = this.#options;
      const end = this.#next === null ? null : this.#end;
      const shown = [...this.#all.values()].filter((item) => end === null || compare(item, end) <= 0).sort(compare);
      if (shown.length > this.#keep) this.#trim(shown);
      this.#shown = Object.freeze(shown);
    }
    return this.#shown;
  }

  /** Whether there are older items to load. */
  get hasOlder(): boolean {
    return this.#next !== null;
  }

  /** Grows with each change from outside the pages. */
  get version(): number {
    return this.#version;
  }

  /** The item with this id, even if it is not shown yet. */
  find(id: number): Item | undefined {
    return this.#all.get(id);
  }

  /** Adds items, or later states of items. */
  put(items: Iterable<Item>) {
    const { id, merge } = this.#options;
    this.#version += 1;
    for (const item of items) {
      const known = this.#all.get(id(item));
      this.#all.set(id(item), known && merge ? merge(known, item) : item);
      this.#fresh?.add(id(item));
    }
    this.#changed();
  }

  /** Changes each item that is here. */
  update(change: (item: Item) => Item) {
    const fresh = [...this.#all.values()].map((item) => [item, change(item)] as const);
    const changed = fresh.filter(([before, after]) => before !== after);
    if (changed.length) this.put(changed.map(([, after]) => after));
  }

  /** Forgets everything. */
  clear() {
    this.#all.clear();
    this.#next = this.#end = null;
    this.#keep = KEEP;
    this.loaded = false;
    this.#epoch += 1;
    this.#version += 1;
    this.#changed();
  }

  /** Loads the next page. Calls at the same time load it once. */
  loadOlder(limit = 50): Promise<Result<null>> {
    if (this.loaded && this.#next === null) return Promise.resolve(DONE);
    return (this.#older ??= this.#loadOlder(limit).finally(() => (this.#older = null)));
  }

  async #loadOlder(limit: number): Promise<Result<null>> {
    const epoch = this.#epoch;
    await this.#reload;
    if (epoch !== this.#epoch) return DONE;
    const before = this.#next;
    const page = await this.#options.load(before, limit);
    if (!page.ok) return page;
    if (before !== this.#next || epoch !== this.#epoch) return DONE; // The list was loaded again meanwhile.
    this.#add(page.data);
    // What the page asked for must not be cut off by the next item.
    if (this.loaded) this.#keep += page.data.items.length;
    this.loaded = true;
    this.#changed();
    return DONE;
  }

  /** Loads everything that is shown again, from the newest item on: at least a page. */
  reload(limit = 50): Promise<Result<null>> {
    return (this.#reload ??= this.#loadAgain(limit).finally(() => (this.#reload = this.#fresh = null)));
  }

  async #loadAgain(limit: number): Promise<Result<null>> {
    const wanted = Math.max(limit, this.items.length);
    const [fresh, epoch] = [(this.#fresh = new Set<number>()), this.#epoch];
    const pages: Page<Item>[] = [];
    let count = 0;
    for (let before: number | null = null; ; ) {
      const page: Result<Page<Item>> = await this.#options.load(before, Math.min(PAGE, wanted - count));
      if (!page.ok) return page;
      if (epoch !== this.#epoch) return DONE;
      pages.push(page.data);
      count += page.data.items.length;
      before = page.data.next;
      if (before === null || count >= wanted) break;
    }
    for (const known of [...this.#all.keys()]) if (!fresh.has(known)) this.#all.delete(known);
    this.#end = null;
    this.#next = null;
    for (const page of pages) this.#add(page);
    this.loaded = true;
    this.#changed();
    return DONE;
  }

  #add({ items, next }: Page<Item>) {
    const { id, merge } = this.#options;
    for (const item of items) {
      const known = this.#all.get(id(item));
      // Without `merge`, an item that came in while the page was on its way is the later one.
      if (!known || merge) this.#all.set(id(item), known ? merge!(known, item) : item);
    }
    this.#next = next;
    this.#end = items.at(-1) ?? this.#end;
  }

  #changed() {
    this.#shown = null;
    if (this.#all.size > 2 * this.#keep) void this.items; // Nobody looks at the list, which trims it.
    this.#options.onChange();
  }

  /** Forgets the oldest items. They can be loaded again. */
  #trim(shown: Item[]) {
    const { id, cursor = id } = this.#options;
    for (const item of shown.splice(this.#keep)) this.#all.delete(id(item));
    this.#end = shown.at(-1)!;
    this.#next = cursor(this.#end);
  }
}
