// This program follows queries and aggregates with connections that are lost again
// and again. test/e2e runs it against a real cluster behind faulty proxies.
//
// URLS lists the gateways, SECONDS is the time for which it bids. The clients'
// clock runs at triple speed. It checks that rows are in order and that positions
// never fall, and compares the last rows with a query, and the last state with a
// strong read. It exits with a message and status 1 if they differ.
import { WebSocket } from "ws";
import { type Client, connect, type LiveQuery, type LiveState } from "../src/index.js";

const urls = process.env.URLS!.split(",");
const seconds = Number(process.env.SECONDS ?? 10);
const speed = 3;
const auctions = 150; // more than a query's limit, so rows enter that have not changed
const budgets = [5, 20, 0];

const clock = {
  now: () => Math.round(performance.timeOrigin + performance.now() * speed),
  setTimeout: (f: () => void, ms: number) => setTimeout(f, ms / speed),
  clearTimeout: (timer: unknown) => clearTimeout(timer as NodeJS.Timeout),
  random: Math.random,
};
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const fail = (problem: string): never => {
  process.stderr.write(problem + "\n");
  process.exit(1);
};
let connections = 0;
let batches = 0;
let position = 0; // of the newest result

function open(name: string): Client {
  const client = connect({ urls, client: name, WebSocket, clock });
  client.on("status", (s) => s === "connecting" && connections++);
  client.on("error", (e) => e.retry === "no" && fail(`${name}: ${e.code}: ${e.message}`));
  return client;
}

function check(name: string, live: LiveQuery<any>): void {
  let before = 0;
  live.subscribe(() => {
    const { rows, position, error } = live.getSnapshot();
    if (error) fail(`${name}: ${error}`);
    if (position < before) fail(`${name}: position ${position} arrived after ${before}`);
    if (position > before) batches++;
    before = position;
    for (let i = 1; i < rows.length; i++) if (!(rows[i - 1]!.rank < rows[i]!.rank)) fail(`${name}: row ${i} is out of order`);
  });
}

const seller = open("seller");
const bidders = ["ada", "bob", "eve"].map(open);
const followers = Array.from({ length: 6 }, (_, i) => open(`follower${i}`));
const lives: { client: Client; budget: number; live: LiveQuery<any> }[] = [];
const states: { client: Client; stream: `auction/${number}`; live: LiveState<any> }[] = [];
followers.forEach((client, i) => {
  for (const budget of budgets) {
    const live = client.live("open_auctions", budget ? { budget } : {});
    check(`follower ${i}, budget ${budget}`, live);
    lives.push({ client, budget, live });
  }
  const stream = `auction/${i}` as const;
  states.push({ client, stream, live: client.aggregate(stream).live() });
});

/** Sends a command. A rejection is fine, since bidders race. */
async function send(client: Client, id: string, command: string, data: object): Promise<void> {
  const auction = client.aggregate("auction", id);
  try {
    position = Math.max(position, (await auction.send(command, data)).position);
  } catch (e) {
    if (!auction.rejected(e)) fail(`${command} of ${id}: ${e}`);
  }
}

const closes_at = new Date(Date.now() + 3_600_000).toISOString();
await Promise.all(Array.from({ length: auctions }, (_, i) => send(seller, String(i), "open", { item: `lamp ${i}`, reserve: 1 + (i % 9), closes_at })));
const end = performance.now() + seconds * 1_000;
await Promise.all(
  Array.from({ length: 12 }, async (_, i) => {
    while (performance.now() < end) {
      const id = String(Math.floor(Math.random() * auctions));
      if (Math.random() < 0.02) await send(seller, id, "close", {});
      else await send(bidders[i % 3]!, id, "bid", { amount: 1 + Math.floor(Math.random() * 40) });
      await sleep(Math.random() * 40);
    }
  }),
);

// The rows now stay as they are. Each follower gets them, at its gateway.
for (const { client, budget, live } of lives) {
  const { rows } = await client.query("open_auctions", budget ? { budget } : {}, { atLeast: position, timeoutMs: 30_000 });
  const want = JSON.stringify(rows);
  for (; live.getSnapshot().status !== "live" || JSON.stringify(live.getSnapshot().rows) !== want; await sleep(20)); // test/e2e bounds the wait
}
for (const { client, stream, live } of states) {
  const { data, version } = await client.aggregate(stream).get({ strong: true });
  for (; live.getSnapshot().version < version; await sleep(20));
  const { state } = live.getSnapshot();
  if (JSON.stringify(state) !== JSON.stringify(data)) fail(`${stream} shows ${JSON.stringify(state)} at version ${version}, and is ${JSON.stringify(data)}`);
}
for (const client of [seller, ...bidders, ...followers]) client.close();
process.stdout.write(JSON.stringify({ position, connections, batches, rows: lives.map((l) => l.live.getSnapshot().rows.length) }) + "\n");
