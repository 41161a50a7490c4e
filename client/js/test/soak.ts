// This program runs many clients that lose their connections again and again.
// test/e2e runs it against a real cluster behind faulty proxies.
//
// URLS lists the gateways, CLIENTS is the number of clients, and SECONDS the time
// for which they send. The clients' clock runs at triple speed, which shortens
// backoff and timeouts. The program prints each acknowledged command as one JSON
// object a line, and a summary at the end. If a client breaks a promise, the
// program exits with a message and status 1.
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
const fail = (problem: string): never => {
  process.stderr.write(problem + "\n");
  process.exit(1);
};

/** Checks a subscription's events: the versions of each stream from 1 on, and ascending positions. */
class Seen {
  readonly versions = new Map<string, number>();
  position = 0;
  events = 0;

  constructor(readonly name: string) {}

  check(e: { stream: string; version: number; position: number }): void {
    const last = this.versions.get(e.stream) ?? 0;
    if (e.version !== last + 1) fail(`${this.name}: version ${e.version} of ${e.stream} arrived after ${last}`);
    if (e.position <= this.position) fail(`${this.name}: position ${e.position} arrived after ${this.position}`);
    this.versions.set(e.stream, e.version);
    this.position = e.position;
    this.events++;
  }
}

const watched: Seen[] = [];
let sessions = 0;
let replays = 0;
let commands = 0;

/** Subscribes with handlers, with a loop, or with a slow loop. */
function follow(client: Client, i: number, target: { stream?: string }): Seen {
  const seen = new Seen(`client ${i}, ${target.stream ?? "all"}`);
  watched.push(seen);
  const begin = (options: object): Subscription<any> =>
    target.stream ? client.aggregate("counter", target.stream).subscribe({ from: "start", ...options }) : client.category("counter").subscribe({ from: "start", ...options });
  if (i % 3 === 0) {
    begin({ onEvent: (e: any) => seen.check(e), onEnd: (e: unknown) => e && fail(`${seen.name}: ${e}`) });
    return seen;
  }
  const slow = i % 3 === 1;
  void (async () => {
    try {
      // A small buffer makes the subscription pause often. A category has more events, so its buffer is larger.
      for await (const e of begin(slow ? { buffer: target.stream ? 8 : 8 * counters } : {})) {
        seen.check(e);
        if (slow && seen.events % 4 === 0) await sleep(1);
      }
    } catch (e) {
      fail(`${seen.name}: ${e}`);
    }
  })();
  return seen;
}

/** Sends commands until end, up to 4 concurrently, and returns when all are answered. */
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

// All commands are answered. Strong reads give the number of events that each subscription must receive.
const heads = new Map<string, number>();
for (let n = 0; n < counters; n++) heads.set(`counter/c${n}`, (await clients[n % count]!.aggregate("counter", `c${n}`).get({ strong: true })).version);
const total = [...heads.values()].reduce((a, b) => a + b, 0);
if (total !== commands) fail(`${commands} commands were acknowledged, and left ${total} events`);
for (const seen of watched) {
  const stream = /c\d+$/.exec(seen.name)?.[0];
  const want = stream ? heads.get(`counter/${stream}`)! : total;
  while (seen.events < want) await sleep(10); // test/e2e bounds the wait
  if (seen.events > want) fail(`${seen.name}: ${seen.events} events, ${want} in the log`);
}
for (const client of clients) client.close();
const events = watched.reduce((n, s) => n + s.events, 0);
process.stdout.write(JSON.stringify({ commands, replays, connections: sessions, subscriptions: watched.length, events }) + "\n");
