import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { type Client, connect, GanglionError, type Status, type Subscription } from "../src/index.js";
import { FakeClock, settle } from "./fakes.js";

/** The root of the repository, from build/test. */
const root = new URL("../../../../", import.meta.url);
const scripts = new URL("proto/testdata/conversations/", root);

/** Things in the order in which they came, and whoever waits for the next. */
class Queue<T> {
  readonly items: T[] = [];
  #waiting: (() => void) | undefined;

  push(item: T): void {
    this.items.push(item);
    this.#waiting?.();
  }

  async next(what: string): Promise<T> {
    if (this.items.length === 0) {
      await new Promise<void>((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`${what} does not come`)), 15_000);
        this.#waiting = () => {
          clearTimeout(late);
          this.#waiting = undefined;
          resolve();
        };
      });
    }
    return this.items.shift()!;
  }
}

type Seen = { [what: string]: unknown };

/** The application of a conversation: it does what the script says, and keeps what it sees. */
class Application {
  readonly #client: Client;
  readonly #clock: FakeClock;
  #dials = 0;
  #statusChanged = () => {};
  readonly #outcomes = new Map<string, Queue<Seen>>();
  readonly #subscriptions = new Map<string, { sub: Subscription<any>; seen: Queue<Seen>; iterator?: AsyncIterator<any> }>();
  readonly #aborts = new Map<string, AbortController>();
  readonly #reports = new Queue<GanglionError>();

  constructor(url: string, options: any, readonly callbacks: boolean) {
    const { tokens, random, ...rest } = options;
    const app = this;
    class Counting extends WebSocket {
      constructor(url: string, protocols?: string | string[]) {
        super(url, protocols);
        app.#dials++;
      }
    }
    this.#clock = new FakeClock(random);
    let fetched = 0;
    const token = async () => {
      const next = tokens[fetched++];
      if (next === undefined) throw new Error("the script has no more tokens");
      if (typeof next !== "string") throw new Error(next.fails);
      return next;
    };
    this.#client = connect({ url, ...rest, ...(tokens && { token }), WebSocket: Counting, clock: this.#clock });
    this.#client.on("status", () => this.#statusChanged());
    this.#client.on("error", (e) => this.#reports.push(e));
  }

  async do(verb: string, body: any): Promise<void> {
    switch (verb) {
      case "advance":
        return this.#clock.advance(body);
      case "wake":
        if (body.slept) this.#clock.sleep(body.slept);
        return this.#client.wake();
      case "call":
        this.#call(body);
        return settle();
      case "read":
        return this.#read(body);
      case "observe":
        return this.#observe(body);
    }
    throw new Error(`there is no verb ${verb}`);
  }

  #call({ as, ...call }: any): void {
    const abort = new AbortController();
    if (as !== undefined) this.#aborts.set(as, abort);
    const { signal } = abort;
    const [what, o] = Object.entries<any>(call)[0]!;
    switch (what) {
      case "send": {
        const { aggregate, command, data, key, expect, timeout_ms: timeoutMs } = o;
        const [type, id] = split(aggregate);
        return this.#outcome(as, this.#client.aggregate(type, id).send(command, data, defined({ key, expect, timeoutMs, signal })));
      }
      case "get": {
        const [type, id] = split(o.aggregate);
        return this.#outcome(as, this.#client.aggregate(type, id).get(defined({ atLeast: o.at_least, strong: o.strong, signal })));
      }
      case "subscribe": {
        const { stream, category, reads, ...options } = o;
        const seen = new Queue<Seen>();
        const manual = reads === false;
        if (this.callbacks && !manual) {
          Object.assign(options, {
            onEvent: (event: unknown) => void seen.push({ event }),
            onState: (state: unknown) => void seen.push({ state }),
            onLive: () => void seen.push({ live: {} }),
            onEnd: (error: unknown) => void seen.push({ end: error ?? null }),
          });
        } else {
          options.live = true;
        }
        options.signal = signal;
        const sub: Subscription<any> = stream !== undefined
          ? this.#client.aggregate(...split(stream)).subscribe(options)
          : this.#client.category(category).subscribe(options);
        this.#subscriptions.set(as, { sub, seen });
        if (manual) this.#subscriptions.get(as)!.iterator = sub[Symbol.asyncIterator]();
        else if (!this.callbacks) void this.#iterate(sub, seen);
        return;
      }
      case "unsubscribe":
        return this.#subscriptions.get(o)!.sub.close();
      case "abort":
        return this.#aborts.get(o)!.abort();
      case "close":
        return this.#client.close();
    }
    throw new Error(`there is no call ${what}`);
  }

  #outcome(as: string, promise: Promise<unknown>): void {
    const seen = new Queue<Seen>();
    this.#outcomes.set(as, seen);
    promise.then((result) => seen.push({ result }), (error) => seen.push({ error }));
  }

  async #iterate(sub: Subscription<any>, seen: Queue<Seen>): Promise<void> {
    try {
      for await (const item of sub) seen.push({ [item.kind]: item });
      seen.push({ end: null });
    } catch (error) {
      seen.push({ end: error });
    }
  }

  async #read({ subscription, items }: any): Promise<void> {
    const { iterator, seen } = this.#subscriptions.get(subscription)!;
    for (let i = 0; i < items; i++) {
      const { value, done } = await iterator!.next();
      seen.push(done ? { end: null } : { [value.kind]: value });
    }
    await settle();
  }

  async #observe(what: any): Promise<void> {
    const { outcome, subscription, ...rest } = what;
    const [kind, want] = Object.entries<any>(rest)[0]!;
    if (outcome !== undefined) {
      const queue = this.#outcomes.get(outcome)!;
      if (kind === "none") {
        await settle();
        return assert.equal(queue.items.length, 0, `${outcome} has an outcome`);
      }
      return this.#compare({ [kind]: want }, await queue.next(`the outcome of ${outcome}`));
    }
    if (subscription !== undefined) {
      const { sub, seen } = this.#subscriptions.get(subscription)!;
      if (kind === "cursor") return assert.equal(sub.cursor, want);
      if (kind === "none") {
        await settle();
        return assert.deepEqual(seen.items, []);
      }
      return this.#compare({ [kind]: want }, await seen.next(`an item of ${subscription}`));
    }
    switch (kind) {
      case "status":
        return this.#status(want);
      case "report":
        return this.#compare(want, await this.#reports.next("a report"));
      case "dials":
        await settle();
        return assert.equal(this.#dials, want, "dials");
      case "log":
        return assert.equal(this.#client.log, want);
    }
    throw new Error(`there is nothing to observe in ${JSON.stringify(what)}`);
  }

  async #status(want: Status): Promise<void> {
    for (const end = Date.now() + 15_000; this.#client.status !== want; ) {
      if (Date.now() > end) throw new Error(`the status is ${this.#client.status}, not ${want}`);
      await new Promise<void>((resolve) => {
        const late = setTimeout(resolve, 15_000);
        this.#statusChanged = () => (clearTimeout(late), resolve());
      });
    }
  }

  /** Compares the members that the script has. */
  #compare(want: any, got: any): void {
    if (want === null || typeof want !== "object") return assert.deepEqual(got, want);
    if (got === null || typeof got !== "object") assert.fail(`${got} is not ${JSON.stringify(want)}`);
    for (const [name, value] of Object.entries(want)) {
      if (!(name in got)) assert.fail(`there is no ${name} but ${inspect(got)}`);
      this.#compare(value, got[name]);
    }
  }

  /** What the script did not ask for is what should not have come. */
  async close(): Promise<void> {
    await settle();
    const left: unknown[] = [];
    for (const [as, queue] of this.#outcomes) left.push(...queue.items.map((i) => `outcome of ${as}: ${inspect(i)}`));
    for (const [as, { seen }] of this.#subscriptions) left.push(...seen.items.map((i) => `item of ${as}: ${inspect(i)}`));
    left.push(...this.#reports.items.map((e) => `report: ${e}`));
    this.#client.close();
    assert.deepEqual(left, []);
  }
}

const inspect = (x: any): string => JSON.stringify(x, (_, v) => (v instanceof Error ? `${v.name} ${(v as any).code}: ${v.message}` : v));
const split = (stream: string): [string, string] => [stream.slice(0, stream.indexOf("/")), stream.slice(stream.indexOf("/") + 1)];
const defined = (o: object): any => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined));

/** The scripted gateway: test/conversation/play. */
class Player {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor() {
    this.#process = spawn("go", ["run", "./test/conversation/play"], { cwd: fileURLToPath(root), stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  #say(x: object): void {
    this.#process.stdin!.write(JSON.stringify(x) + "\n");
  }

  async play(name: string, callbacks: boolean): Promise<void> {
    this.#say({ play: fileURLToPath(new URL(name, scripts)) });
    let app: Application | undefined;
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error("the scripted gateway has ended");
      const { open, do: step, close, played } = JSON.parse(value);
      if (played) return assert.equal(played.error, "");
      try {
        if (open) app = new Application(open.url, open.connect, callbacks);
        if (step) await app!.do(...(Object.entries(step)[0] as [string, unknown]));
        if (close) await app!.close();
        this.#say({});
      } catch (e) {
        this.#say({ error: e instanceof Error ? e.message : String(e) });
      }
    }
  }

  stop(): void {
    this.#process.stdin!.end();
  }
}

describe("conversations", { concurrency: false }, () => {
  let player: Player;
  before(() => (player = new Player()));
  after(() => player.stop());
  for (const name of readdirSync(scripts).filter((n) => n.endsWith(".json"))) {
    test(`${name}, with iterators`, () => player.play(name, false));
    test(`${name}, with callbacks`, () => player.play(name, true));
  }
});
