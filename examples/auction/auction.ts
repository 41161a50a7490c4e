// A live auction: every page shows the same bids in the same order, and a bid
// of one's own is shown at once and settles when its event arrives.
import { connect, RejectedError, type Client, type Event } from "@ganglion-es/client";
import type { Contract } from "../../domain/api/contract.js";

const at = <E extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as E;
const query = new URLSearchParams(location.search);

// Tokens come behind the #, which browsers keep to themselves: #token=…&house=…
// Without them any name is taken on trust, as "ganglion dev" does.
const tokens = new URLSearchParams(location.hash.slice(1));
const token = tokens.get("token");
const subject = (jwt: string): string => JSON.parse(atob(jwt.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"))).sub;
const as = (name: string, jwt: string | null) => (jwt === null ? { client: name } : { token: () => Promise.resolve(jwt) });

// Who this is, and which auction. Reloading keeps both.
const me = (token === null ? query.get("as") : subject(token)) ?? (sessionStorage["me"] ??= pick(["Ada", "Bob", "Cleo", "Dan", "Eve", "Finn", "Grete", "Hal"]) + Math.ceil(Math.random() * 99));
const lot = query.get("lot") ?? "1";
at("me").textContent = me;
at("lot").textContent = `Lot ${lot}`;

// Any gateway will do; the cluster knows which there are, unless a load balancer
// keeps that to itself and is the one to ask.
const gateways: string[] = query.has("gateway")
  ? query.getAll("gateway")
  : await fetch("/v1/cluster")
      .then((r) => (r.ok ? r.json() : { members: [{ roles: ["gateway"], http: location.host }] }))
      .then(({ members }) => members.filter((m: any) => m.roles.includes("gateway") && m.http).map((m: any) => `${location.protocol.replace("http", "ws")}//${m.http}/v1/ws`));

/** Tells which gateway this is. */
class Socket extends WebSocket {
  constructor(url: string, protocols?: string | string[]) {
    super(url, protocols);
    this.addEventListener("open", () => (at("gateway").textContent = new URL(url).host));
  }
}
const client: Client<Contract> = connect<Contract>({ urls: gateways, ...as(me, token), WebSocket: Socket });
const auction = client.aggregate("auction", lot);

// What the log says, and what has been sent and is not in it yet, by key.
type Bid = { bidder: string; amount: number; time?: string };
const bids: Bid[] = [];
const pending = new Map<string, Bid & { position?: number }>();
let opened: { item: string; seller: string; reserve: number; closes_at: string } | undefined;
let closed: { winner: string; amount: number } | undefined;

function apply(e: Event<Contract["auction"]>): void {
  switch (e.event) {
    case "opened":
      opened = e.data;
      break;
    case "bid_placed":
      bids.push({ ...e.data, time: e.time });
      break;
    case "closed":
      closed = e.data;
      break;
    default:
      e satisfies never;
  }
  // The event of a bid of ours says so. What the log has had longer than our
  // answer is settled as well.
  pending.delete(e.cause);
  for (const [key, bid] of pending) if (bid.position !== undefined && bid.position <= e.position) pending.delete(key);
}

let live = false;
auction.subscribe({
  from: "start",
  onEvent: (e) => {
    apply(e);
    if (live) show();
  },
  onLive: () => {
    live = true;
    show();
  },
  onEnd: (error) => error && problem(error.message),
});

async function bid(amount: number): Promise<void> {
  problem("");
  const sending = auction.send("bid", { amount });
  pending.set(sending.key, { bidder: me, amount });
  show();
  try {
    const { position } = await sending;
    const ours = pending.get(sending.key); // unless the event was faster
    if (ours) ours.position = position;
  } catch (e) {
    pending.delete(sending.key);
    problem(e instanceof RejectedError ? `Not taken: ${e.message.replace(/(\d+) cents/, (_, cents) => money(Number(cents)))}.` : `Not sent: ${(e as Error).message}`);
    show();
  }
}

// Nobody may bid on what they sell themselves, so the house sells.
at("open").onclick = async () => {
  const house = connect<Contract>({ urls: gateways, ...as("house", tokens.get("house") ?? token) });
  try {
    await house.aggregate("auction", lot).send("open", {
      item: pick(["Brass desk lamp, around 1930", "Reading lamp with a linen shade", "Workshop lamp, still warm"]),
      reserve: 2000,
      closes_at: new Date(Date.now() + 15 * 60_000).toISOString(),
    });
  } catch (e) {
    problem((e as Error).message);
  } finally {
    house.close();
  }
};

at("form").onsubmit = (e) => {
  e.preventDefault();
  const input = at<HTMLInputElement>("amount");
  const amount = Math.round(Number(input.value.trim().replace(",", ".")) * 100);
  if (!(amount > 0)) return problem("Write an amount, such as 25.50.");
  input.value = "";
  void bid(amount);
};

client.on("status", status);
function status(): void {
  const s = client.status;
  at("status").textContent = s.replace("-", " ");
  at("status").classList.toggle("live", s === "live");
  const waiting = pending.size ? " Your bid is kept, and sent once." : " You can go on bidding.";
  const banner = { connecting: "Reconnecting…" + waiting, offline: "No connection; trying again." + waiting, "catching-up": "Catching up with what you missed…", closed: "Disconnected: reload the page.", live: "" }[s];
  at("banner").hidden = banner === "" || (!live && s !== "closed" && s !== "offline"); // the first connection is no interruption
  at("banner").textContent = banner;
}

function problem(text: string): void {
  at("problem").textContent = text;
}

const euros = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });
const money = (cents: number) => euros.format(cents / 100);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

let shown = 0;
function show(): void {
  const open = opened !== undefined && !closed && Date.parse(opened.closes_at) > Date.now();
  const ours = [...pending.values()];
  // What is on its way may still win, but only as long as there is something to win.
  const top = [...bids, ...(open ? ours : [])].reduce<Bid | undefined>((a, b) => (a && a.amount >= b.amount ? a : b), undefined);
  const settled = top !== undefined && bids.includes(top);
  at("item").textContent = opened?.item ?? "Nothing is for sale yet";
  at("caption").textContent = !opened ? "The house has a lamp to sell, and is waiting for you." : open ? (top ? "Highest bid" : "Bids begin at") : bids.length ? "Sold for" : "Not sold";
  at("top").textContent = top || opened ? money(top?.amount ?? opened!.reserve) : "–";
  at("top").hidden = !opened;
  at("leader").textContent = !top ? "\u00a0" : top.bidder === me ? (!open ? "to you" : settled ? "You are ahead" : "You would be ahead") : (open ? "by " : "to ") + top.bidder;
  if ((top?.amount ?? 0) > shown) {
    shown = top!.amount;
    at("top").classList.remove("new");
    void at("top").offsetWidth; // begins the animation anew
    at("top").classList.add("new");
  }
  at("open").hidden = !live || opened !== undefined;
  at("form").hidden = !open;
  const least = top ? top.amount + 100 : (opened?.reserve ?? 0);
  at("steps").replaceChildren(
    ...[least, least + 400, least + 1900].map((amount) => {
      const b = document.createElement("button");
      b.type = "button";
      b.textContent = money(amount);
      b.onclick = () => void bid(amount);
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
  const li = document.createElement("li");
  li.className = isPending ? "pending" : "";
  const badge = document.createElement("i");
  badge.textContent = bidder.slice(0, 1);
  badge.style.background = `hsl(${[...bidder].reduce((h, c) => (h * 31 + c.charCodeAt(0)) % 360, 7)} 45% 42%)`;
  const [who, what, when] = [document.createElement("span"), document.createElement("b"), document.createElement("small")];
  who.textContent = bidder === me ? "You" : bidder;
  what.textContent = money(amount);
  when.textContent = isPending ? "on its way…" : clock.format(new Date(time!));
  li.append(badge, who, what, when);
  return li;
}

/** Shows the time that is left. */
function tick(): void {
  if (!opened) return;
  const left = Math.ceil((Date.parse(opened.closes_at) - Date.now()) / 1000);
  if (closed || left <= 0) {
    if (!at("form").hidden) show();
    at("left").textContent = "Closed";
    return;
  }
  const [h, m, s] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60];
  at("left").textContent = left > 86_400 ? "Open" : `Closes in ${h ? h + ":" : ""}${String(m).padStart(h ? 2 : 1, "0")}:${String(s).padStart(2, "0")}`;
}
setInterval(tick, 1000);

function pick<T>(of: T[]): T {
  return of[Math.floor(Math.random() * of.length)]!;
}
