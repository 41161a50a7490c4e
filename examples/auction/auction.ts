// A live auction. Every page shows the same bids in the same order. The user's own bid
// is shown immediately as pending, until its event arrives. list.ts shows the other
// open auctions.
import { connect, RejectedError, type Client, type Event, type Subscription } from "@ganglion-es/client";
import type { Contract } from "../../domain/api/contract.js";
import { linkTo, showList } from "./list.js";
import { at, cents, flash, make, money, pick, remaining } from "./page.js";

const query = new URLSearchParams(location.search);

// Tokens are in the fragment, which browsers do not send: #token=…&house=…
// Without tokens the gateway accepts any name, as "ganglion dev" does.
const tokens = new URLSearchParams(location.hash.slice(1));
const token = tokens.get("token");
const subject = (jwt: string): string => JSON.parse(atob(jwt.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"))).sub;
const as = (name: string, jwt: string | null) => (jwt === null ? { client: name } : { token: () => Promise.resolve(jwt) });

// The user's name. A reload keeps it.
const me = (token === null ? query.get("as") : subject(token)) ?? (sessionStorage["me"] ??= pick(["Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Grete", "Hal"]) + Math.ceil(Math.random() * 99));
at("me").textContent = me;

// The page uses the cluster's gateways, or its own host if a load balancer hides their
// list.
const gateways: string[] = query.has("gateway")
  ? query.getAll("gateway")
  : await fetch("/v1/cluster")
      .then((r) => (r.ok ? r.json() : { members: [{ roles: ["gateway"], http: location.host }] }))
      .then(({ members }) => members.filter((m: any) => m.roles.includes("gateway") && m.http).map((m: any) => `${location.protocol.replace("http", "ws")}//${m.http}/v1/ws`));

/** Shows the gateway of the connection. */
class Socket extends WebSocket {
  constructor(url: string, protocols?: string | string[]) {
    super(url, protocols);
    this.addEventListener("open", () => (at("gateway").textContent = new URL(url).host));
  }
}
const client: Client<Contract> = connect<Contract>({ urls: gateways, ...as(me, token), WebSocket: Socket });

type Bid = { bidder: string; amount: number; time?: string };

/** The lot on the page, with what its events and the user's bids say. */
class Lot {
  readonly auction;
  readonly bids: Bid[] = []; // in the log
  readonly pending = new Map<string, Bid & { position?: number }>(); // sent and not in the log yet, by key
  opened: { item: string; seller: string; reserve: number; closes_at: string } | undefined;
  closed: { winner: string; amount: number; byItself: boolean } | undefined;
  live = false;
  shown = 0; // the highest amount so far
  readonly #events: Subscription<unknown>;

  constructor(readonly id: string) {
    this.auction = client.aggregate("auction", id);
    this.#events = this.auction.subscribe({
      from: "start",
      onEvent: (e) => {
        this.#apply(e);
        if (this.live) show();
      },
      onLive: () => {
        this.live = true;
        show();
      },
      onEnd: (error) => error && problem(error.message),
    });
  }

  #apply(e: Event<Contract["auction"]>): void {
    switch (e.event) {
      case "opened":
        this.opened = e.data;
        break;
      case "bid_placed":
        this.bids.push({ ...e.data, time: e.time });
        break;
      case "closed":
        this.closed = { ...e.data, byItself: e.cause.startsWith("~wake:") };
        break;
      default:
        e satisfies never;
    }
    // The event of our own bid has the bid's key as its cause. Bids whose position the
    // events have reached are no longer pending either.
    this.pending.delete(e.cause);
    for (const [key, bid] of this.pending) if (bid.position !== undefined && bid.position <= e.position) this.pending.delete(key);
  }

  async bid(amount: number): Promise<void> {
    problem("");
    const sending = this.auction.send("bid", { amount });
    this.pending.set(sending.key, { bidder: me, amount });
    show();
    try {
      const { position } = await sending;
      const ours = this.pending.get(sending.key); // undefined if the event came first
      if (ours) ours.position = position;
    } catch (e) {
      this.pending.delete(sending.key);
      const why = e instanceof RejectedError ? `Not accepted: ${e.message.replace(/(\d+) cents/, (_, cents) => money(Number(cents)))}.` : `Not sent: ${(e as Error).message}`;
      problem(this === lot ? why : `Lot ${this.id}: ${why}`);
      show();
    }
  }

  close(): void {
    this.#events.close();
  }
}

let lot = new Lot(query.get("lot") ?? "1");
const list = showList(client, visit);
list.mark(lot.id);
addEventListener("popstate", () => replace(new URLSearchParams(location.search).get("lot") ?? "1"));

/** Shows another lot, without loading the page again. */
function visit(id: string): void {
  if (id === lot.id) return;
  history.pushState(null, "", linkTo(id));
  replace(id);
}

function replace(id: string): void {
  lot.close();
  lot = new Lot(id);
  list.mark(id);
  problem("");
  show();
}

// A seller may not bid, so the house is the seller.
async function sell(id: string, reserve: number, minutes: number): Promise<void> {
  const house = connect<Contract>({ urls: gateways, ...as("house", tokens.get("house") ?? token) });
  try {
    await house.aggregate("auction", id).send("open", {
      item: pick(["Brass desk lamp, around 1930", "Reading lamp with a linen shade", "Workshop lamp, still warm", "Bedside lamp, one owner", "Ship's lamp with a dent"]),
      reserve,
      closes_at: new Date(Date.now() + minutes * 60_000).toISOString(),
    });
    visit(id);
  } catch (e) {
    problem((e as Error).message);
  } finally {
    house.close();
  }
}
at("open").onclick = () => sell(lot.id, 2000, 15);
at("another").onclick = () => sell(Math.random().toString(36).slice(2, 8), pick([800, 1200, 3500, 6000]), pick([1, 3, 15]));

at("form").onsubmit = (e) => {
  e.preventDefault();
  const input = at<HTMLInputElement>("amount");
  const amount = cents(input.value);
  if (!(amount > 0)) return problem("Enter an amount, such as 25.50.");
  input.value = "";
  void lot.bid(amount);
};

client.on("status", status);
function status(): void {
  const s = client.status;
  at("status").textContent = s.replace("-", " ");
  at("status").classList.toggle("live", s === "live");
  const waiting = lot.pending.size ? " Your bid is kept and will be sent once." : " You can continue bidding.";
  const banner = { connecting: "Reconnecting…" + waiting, offline: "No connection; trying again." + waiting, "catching-up": "Catching up with what you missed…", closed: "Disconnected: reload the page.", live: "" }[s];
  at("banner").hidden = banner === "" || (!lot.live && s !== "closed" && s !== "offline"); // no banner for the first connection
  at("banner").textContent = banner;
}

function problem(text: string): void {
  at("problem").textContent = text;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function show(): void {
  const { opened, closed, bids, pending } = lot;
  const open = opened !== undefined && !closed && remaining(opened.closes_at) !== undefined;
  const ours = [...pending.values()];
  // A pending bid counts only while the auction is open.
  const top = [...bids, ...(open ? ours : [])].reduce<Bid | undefined>((a, b) => (a && a.amount >= b.amount ? a : b), undefined);
  const settled = top !== undefined && bids.includes(top);
  at("lot").textContent = `Lot ${lot.id}`;
  at("item").textContent = opened?.item ?? (lot.live ? "Nothing is for sale yet" : "…");
  at("caption").textContent = !opened ? "The house has a lamp to sell. Put it up for sale below." : open ? (top ? "Highest bid" : "Bids begin at") : !closed ? "The auction ends…" : bids.length ? "Sold for" : "Not sold";
  at("top").textContent = top || opened ? money(top?.amount ?? opened!.reserve) : "–";
  at("top").hidden = !opened;
  at("leader").textContent = !top ? "\u00a0" : top.bidder === me ? (closed ? "to you" : settled ? "You are ahead" : "You would be ahead") : (closed ? "to " : "by ") + top.bidder;
  if ((top?.amount ?? 0) > lot.shown) {
    lot.shown = top!.amount;
    flash(at("top"));
  }
  at("open").hidden = !lot.live || opened !== undefined;
  at("another").hidden = !at("open").hidden;
  at("form").hidden = !open;
  const least = top ? top.amount + 100 : (opened?.reserve ?? 0);
  at("steps").replaceChildren(
    ...[least, least + 400, least + 1900].map((amount) => {
      const b = make("button", money(amount));
      b.type = "button";
      b.onclick = () => void lot.bid(amount);
      return b;
    }),
  );
  at("count").textContent = bids.length ? String(bids.length) : "";
  at("none").hidden = bids.length + ours.length > 0;
  at("bids").replaceChildren(...[...ours.reverse().map((b) => row(b, true)), ...bids.toReversed().slice(0, 100).map((b) => row(b, false))]);
  tick();
  status();
}

function row({ bidder, amount, time }: Bid, isPending: boolean): HTMLElement {
  const li = make("li");
  li.className = isPending ? "pending" : "";
  const badge = make("i", bidder.slice(0, 1));
  badge.style.background = `hsl(${[...bidder].reduce((h, c) => (h * 31 + c.charCodeAt(0)) % 360, 7)} 45% 42%)`;
  li.append(badge, make("span", bidder === me ? "You" : bidder), make("b", money(amount)), make("small", isPending ? "on its way…" : clock.format(new Date(time!))));
  return li;
}

/** Shows the remaining time. */
function tick(): void {
  const left = lot.opened && !lot.closed ? remaining(lot.opened.closes_at) : undefined;
  at("left").textContent = left ?? (lot.closed ? (lot.closed.byItself ? "Ended at its time" : "Closed by the seller") : lot.opened ? "Time is up" : "\u00a0");
  if (lot.opened && left === undefined && !at("form").hidden) show();
}
setInterval(tick, 1000);
