// A crowd of clients that lose their connections all the time: what
// test/e2e runs against a real cluster behind proxies that misbehave.
//
// URLS are the gateways, CLIENTS how many there are, SECONDS how long they
// send. Time runs at triple speed for the clients, so that a backoff or a
// silence is over sooner. Every command that was acknowledged goes to
// standard output as one JSON object a line, and at the end what happened.
// What should not happen ends the program with a message and code 1.
import { WebSocket } from "ws";
import { type Client, connect, type Subscription } from "../src/index.js";

const urls = process.env.URLS!.split(",");
const count = Number(process.env.CLIENTS ?? 50);
const seconds = Number(process.env.SECONDS ?? 10);
const speed = 3;
const counters = 30;

const clock = {
  now: () => Math.round(performance.timeOrigin + performance.now() * speed),
  setTimeout: (f: () => void, ms: number) => setTimeout(f, ms / speed),
  clearTimeout: (timer: unknown) => clearTimeout(timer as NodeJS.Timeout),
  random: Math.random,
};
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
const fail = (why: string): never => {
  process.stderr.write(why + "\n");
  process.exit(1);
};

/** A subscription's events, which must be each stream's versions from 1 on, and rising positions. */
class Seen {
  readonly versions = new Map<string, number>();
  position = 0;
  events = 0;

  constructor(readonly name: string) {}

  take(e: { stream: string; version: number; position: number }): void {
    const last = this.versions.get(e.stream) ?? 0;
    if (e.version !== last + 1) fail(`${this.name}: version ${e.version} of ${e.stream} came after ${last}`);
    if (e.position <= this.position) fail(`${this.name}: position ${e.position} came after ${this.position}`);
    this.versions.set(e.stream, e.version);
    this.position = e.position;
    this.events++;
  }
}

const watched: Seen[] = [];
let sessions = 0;
let replays = 0;
let commands = 0;

/** Reads with handlers, with a loop, or with a loop that is too slow. */
function follow(client: Client, i: number, target: { stream?: string }): Seen {
  const seen = new Seen(`client ${i}, ${target.stream ?? "all"}`);
  watched.push(seen);
  const begin = (options: object): Subscription<any> =>
    target.stream ? client.aggregate("counter", target.stream).subscribe({ from: "start", ...options }) : client.category("counter").subscribe({ from: "start", ...options });
  if (i % 3 === 0) {
    begin({ onEvent: (e: any) => seen.take(e), onEnd: (e: unknown) => e && fail(`${seen.name}: ${e}`) });
    return seen;
  }
  const slow = i % 3 === 1;
  void (async () => {
    try {
      // Few, so that it pauses all the time; but each pause costs a round trip, and a category has many more.
      for await (const e of begin(slow ? { buffer: target.stream ? 8 : 8 * counters } : {})) {
        seen.take(e);
        if (slow && seen.events % 4 === 0) await sleep(1);
      }
    } catch (e) {
      fail(`${seen.name}: ${e}`);
    }
  })();
  return seen;
}

/** Sends until the time is over, a few commands at once, and returns when all are answered. */
async function send(client: Client, i: number, end: number): Promise<void> {
  const open = new Set<Promise<void>>();
  for (let k = 0; performance.now() < end; k++) {
    const counter = `c${Math.floor(Math.random() * counters)}`;
    const key = `${i}-${k}`;
    const one = client.aggregate("counter", counter).send("add", { by: 1 + (k % 9) }, { key }).then(
      (r) => {
        commands++;
        if (r.replayed) replays++;
        process.stdout.write(JSON.stringify({ stream: `counter/${counter}`, key, version: r.version, position: r.position }) + "\n");
      },
      (e) => fail(`client ${i}, command ${key}: ${e}`),
    );
    open.add(one);
    void one.then(() => open.delete(one));
    if (open.size >= 4) await Promise.race(open);
    await sleep(Math.random() * 300);
  }
  await Promise.all(open);
}

const clients = Array.from({ length: count }, (_, i) => {
  const client = connect({ urls, client: `client${i}`, WebSocket, clock });
  client.on("status", (s) => s === "connecting" && sessions++);
  client.on("error", (e) => {
    if (e.retry === "no") fail(`client ${i}: ${e.code}: ${e.message}`);
  });
  return client;
});
clients.forEach((client, i) => {
  for (let n = 0; n < 3; n++) follow(client, i, { stream: `c${(i * 3 + n) % counters}` });
  if (i % 10 === 0) follow(client, i, {});
});
const end = performance.now() + seconds * 1000;
await Promise.all(clients.map((client, i) => send(client, i, end)));

// Everything is answered. Who asks the log itself knows how far all must come.
const heads = new Map<string, number>();
for (let n = 0; n < counters; n++) heads.set(`counter/c${n}`, (await clients[n % count]!.aggregate("counter", `c${n}`).get({ strong: true })).version);
const total = [...heads.values()].reduce((a, b) => a + b, 0);
if (total !== commands) fail(`${commands} commands were acknowledged, and left ${total} events`);
for (const seen of watched) {
  const stream = /c\d+$/.exec(seen.name)?.[0];
  const want = stream ? heads.get(`counter/${stream}`)! : total;
  while (seen.events < want) await sleep(10); // whoever started this bounds the wait
  if (seen.events > want) fail(`${seen.name}: ${seen.events} events, ${want} in the log`);
}
for (const client of clients) client.close();
const events = watched.reduce((n, s) => n + s.events, 0);
process.stdout.write(JSON.stringify({ commands, replays, connections: sessions, subscriptions: watched.length, events }) + "\n");
