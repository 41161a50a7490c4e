// The list of open auctions: a query whose result client.live keeps current. Each row
// has one element, which is updated in place.
import type { Client, LiveQuery, Row } from "@ganglion-es/client";
import type { Contract } from "../../domain/api/contract.js";
import { at, cents, flash, make, money, remaining } from "./page.js";

type Listing = Contract["$queries"]["open_auctions"]["row"];

/** Shows the list. A click on a row calls `open` with its lot; `mark` marks the lot that is open. */
export function showList(client: Client<Contract>, open: (lot: string) => void): { mark(lot: string): void } {
  const items = new Map<string, Item>(); // by the row's key, which is the lot
  let marked = "";
  let live: LiveQuery<Listing> | undefined;

  /** Follows the auctions up to a price in cents; 0 is any price. */
  async function search(budget: number): Promise<void> {
    live?.close(); // ends the loop of the search before, whose rows stay until this one has its own
    live = client.live("open_auctions", { budget });
    at("unlisted").textContent = budget ? `Nothing up to ${money(budget)}.` : "Nothing is for sale.";
    try {
      // The library resumes after a lost connection. Until then the last rows stay.
      for await (const { rows } of live) render(rows);
    } catch (e) {
      at("problem").textContent = (e as Error).message;
    }
  }

  function render(rows: readonly Row<Listing>[]): void {
    const focused = document.activeElement as HTMLElement | null;
    const keys = new Set(rows.map(({ key }) => key));
    for (const [key, item] of items) {
      if (keys.has(key)) continue;
      item.element.remove();
      items.delete(key);
    }
    rows.forEach((row, place) => {
      let item = items.get(row.key);
      if (!item) items.set(row.key, (item = new Item(row.key, open)));
      item.show(row);
      const there = at("list").children[place] ?? null;
      if (there !== item.element) at("list").insertBefore(item.element, there);
    });
    if (focused?.isConnected) focused.focus({ preventScroll: true }); // a row that moves loses the focus
    tick();
  }

  /** Shows the remaining times, and marks a row. A query has no clock, so auctions stay in it until they are closed. */
  function tick(): void {
    let count = 0;
    for (const [lot, { element, link, note, row }] of items) {
      const left = remaining(row!.data.closes_at);
      note.textContent = `Lot ${lot} · ${left}`;
      element.hidden = left === undefined;
      if (left) count++;
      link.ariaCurrent = lot === marked ? "true" : null;
    }
    at("listed").textContent = count ? String(count) : "";
    at("unlisted").hidden = count > 0 || live?.getSnapshot().status === "connecting";
  }
  setInterval(tick, 1000);

  const budget = at<HTMLInputElement>("budget");
  let typing = 0;
  budget.oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => cents(budget.value) >= 0 && search(cents(budget.value)), 150);
  };
  void search(cents(budget.value) || 0); // a reload may keep the amount

  return {
    mark(lot) {
      marked = lot;
      tick();
    },
  };
}

/** The element of one row. */
class Item {
  readonly element = make("li");
  readonly link = make("a");
  readonly note = make("small");
  readonly #name = make("span");
  readonly #price = make("b");
  row: Row<Listing> | undefined;

  constructor(lot: string, open: (lot: string) => void) {
    this.link.href = linkTo(lot);
    this.link.onclick = (e) => {
      if (e.metaKey || e.ctrlKey || e.shiftKey) return; // opens another tab or window
      e.preventDefault();
      open(lot);
    };
    this.link.append(this.#name, this.#price, this.note);
    this.element.append(this.link);
  }

  show(row: Row<Listing>): void {
    if (row === this.row) return; // unchanged: it is the same object
    this.#name.textContent = row.data.item;
    this.#price.textContent = money(row.data.price);
    if (this.row && this.row.data.price !== row.data.price) flash(this.#price);
    this.row = row;
  }
}

/** Returns the address of this page with another lot. */
export function linkTo(lot: string): string {
  const url = new URL(location.href);
  url.searchParams.set("lot", lot);
  return url.href;
}
