import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { type Client, connect, GanglionError, type GroupEvent, type LiveQuery, Park, type Status, type Subscription } from "../src/index.js";
import { FakeClock, idle } from "./fakes.js";

/** The root of the repository, from build/test. */
const root = new URL("../../../../", import.meta.url);
const scripts = new URL("proto/testdata/conversations/", root);

/** A queue with one reader that may wait. */
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
        const late = setTimeout(() => reject(new Error(`${what} did not arrive within 15 s`)), 15_000);
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

/** A member of a consumer group: what it has seen, its newest events by position, and the calls of its handler. */
interface Member {
  seen: Seen[];
  changed: () => void;
  events: Map<number, GroupEvent>;
  calls: Map<number, { resolve(): void; reject(e: unknown): void }>;
}

/** The application of a conversation. It does the script's steps and records outcomes, items and reports. */
class Application {
  readonly #client: Client;
  readonly #clock: FakeClock;
  #dials = 0;
  #statusChanged = () => {};
  readonly #outcomes = new Map<string, Queue<Seen>>();
  readonly #subscriptions = new Map<string, { sub: Subscription<any>; seen: Queue<Seen>; iterator?: AsyncIterator<any> }>();
  readonly #lives = new Map<string, { live: LiveQuery<any>; seen: Queue<Seen> }>();
  readonly #consumers = new Map<string, Member>();
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
        return idle();
      case "read":
        return this.#read(body);
      case "observe":
        return this.#observe(body);
    }
    throw new Error(`unknown step ${verb}`);
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
      case "query": {
        const { query, data, at_least: atLeast, timeout_ms: timeoutMs, after } = o;
        return this.#outcome(as, this.#client.query(query, data, defined({ atLeast, timeoutMs, after, signal })));
      }
      case "live": {
        const { query, data, at_least: atLeast } = o;
        const live = this.#client.live(query, data, defined({ atLeast, signal }));
        const seen = new Queue<Seen>();
        this.#lives.set(as, { live, seen });
        if (this.callbacks) this.#listen(live, seen);
        else void this.#iterate(live, seen);
        return;
      }
      case "consume":
      case "handle":
        return this.#join(as, what, o, signal);
      case "ack":
        return this.#event(o).ack();
      case "park":
        return this.#event(o).park(o.reason);
      case "finish": {
        const { resolve, reject } = this.#consumers.get(o.of)!.calls.get(o.position)!;
        if (o.park) return reject(new Park(o.park));
        return o.error ? reject(new Error(o.error)) : resolve();
      }
      case "unsubscribe":
        if (this.#consumers.has(o)) return this.#aborts.get(o)!.abort();
        return (this.#subscriptions.get(o)?.sub ?? this.#lives.get(o)!.live).close();
      case "abort":
        return this.#aborts.get(o)!.abort();
      case "close":
        return this.#client.close();
    }
    throw new Error(`unknown call ${what}`);
  }

  #event({ of, position }: any): any {
    return this.#consumers.get(of)!.events.get(position)!;
  }

  /** Joins a consumer group. A call of its handler waits for the step "finish". */
  #join(as: string, what: string, { group, ...rest }: any, signal: AbortSignal): void {
    const member: Member = { seen: [], changed: () => {}, events: new Map(), calls: new Map() };
    this.#consumers.set(as, member);
    const see = (seen: Seen) => (member.seen.push(seen), member.changed());
    const receive = (event: GroupEvent) => {
      member.events.set(event.position, event);
      see({ event: { ...event, attempt: event.attempt, key: event.commandKey() } });
    };
    const options = { ...rest, signal };
    if (what === "consume") {
      void (async () => {
        try {
          for await (const event of this.#client.consume(group, options)) receive(event);
          see({ end: null });
        } catch (error) {
          see({ end: error });
        }
      })();
      return;
    }
    const handler = (event: GroupEvent) => {
      receive(event);
      return new Promise<void>((resolve, reject) => member.calls.set(event.position, { resolve, reject }));
    };
    this.#client.handle(group, handler, options).then(() => see({ end: null }), (error) => see({ end: error }));
  }

  async #observeConsumer(name: string, want: any): Promise<void> {
    const member = this.#consumers.get(name)!;
    if (want.none) {
      await idle();
      return assert.deepEqual(member.seen, []);
    }
    if (want.over !== undefined) {
      const { signal } = member.events.get(want.over)!;
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
      return;
    }
    // Concurrent calls of a handler begin in any order.
    const position = want.event?.position;
    for (const end = Date.now() + 15_000; ; ) {
      const at = member.seen.findIndex((s: any) => position === undefined || s.event?.position === position);
      if (at >= 0) return this.#compare(want, member.seen.splice(at, 1)[0]);
      if (Date.now() > end) throw new Error(`no ${Object.keys(want)} of ${name} arrives`);
      await new Promise<void>((resolve) => {
        const late = setTimeout(resolve, 15_000);
        member.changed = () => (clearTimeout(late), resolve());
      });
    }
  }

  #outcome(as: string, promise: Promise<unknown>): void {
    const seen = new Queue<Seen>();
    this.#outcomes.set(as, seen);
    promise.then((result) => seen.push({ result }), (error) => seen.push({ error }));
  }

  /** Uses a live query as React does. Its values are the snapshots whose status alone has not changed. */
  #listen(live: LiveQuery<any>, seen: Queue<Seen>): void {
    let last = live.getSnapshot();
    const stop = live.subscribe(() => {
      const now = live.getSnapshot();
      assert.equal(now, live.getSnapshot());
      assert.notEqual(now, last);
      if (now.status === "closed") {
        stop();
        seen.push({ end: now.error ?? null });
      } else if (now.rows !== last.rows || now.position !== last.position || (now.status === "live" && last.status !== "live" && last.status !== "behind")) {
        seen.push({ value: now });
      }
      last = now;
    });
  }

  async #iterate(sub: AsyncIterable<any>, seen: Queue<Seen>): Promise<void> {
    try {
      for await (const item of sub) seen.push({ [item.kind ?? "value"]: item });
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
    await idle();
  }

  async #observe(what: any): Promise<void> {
    const { outcome, subscription, query, consumer, ...rest } = what;
    if (consumer !== undefined) return this.#observeConsumer(consumer, rest);
    if (query !== undefined) return this.#observeLive(query, rest);
    const [kind, want] = Object.entries<any>(rest)[0]!;
    if (outcome !== undefined) {
      const queue = this.#outcomes.get(outcome)!;
      if (kind === "none") {
        await idle();
        return assert.equal(queue.items.length, 0, `${outcome} has an outcome`);
      }
      return this.#compare({ [kind]: want }, await queue.next(`the outcome of ${outcome}`));
    }
    if (subscription !== undefined) {
      const { sub, seen } = this.#subscriptions.get(subscription)!;
      if (kind === "cursor") return assert.equal(sub.cursor, want);
      if (kind === "none") {
        await idle();
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
        await idle();
        return assert.equal(this.#dials, want, "dials");
      case "log":
        return assert.equal(this.#client.log, want);
    }
    throw new Error(`unknown observation ${JSON.stringify(what)}`);
  }

  async #observeLive(name: string, want: any): Promise<void> {
    const { live, seen } = this.#lives.get(name)!;
    if ("status" in want) {
      let changed = () => {};
      const stop = live.subscribe(() => changed());
      await this.#until(() => live.getSnapshot().status, want.status, (f) => (changed = f));
      return stop();
    }
    if (want.none) {
      await idle();
      return assert.deepEqual(seen.items, []);
    }
    return this.#compare("end" in want ? want : { value: want }, await seen.next(`a result of ${name}`));
  }

  async #status(want: Status): Promise<void> {
    await this.#until(() => this.#client.status, want, (f) => (this.#statusChanged = f));
  }

  async #until(get: () => string, want: string, onChange: (f: () => void) => void): Promise<void> {
    for (const end = Date.now() + 15_000; get() !== want; ) {
      if (Date.now() > end) throw new Error(`the status is ${get()}, want ${want}`);
      await new Promise<void>((resolve) => {
        const late = setTimeout(resolve, 15_000);
        onChange(() => (clearTimeout(late), resolve()));
      });
    }
  }

  /** Compares the members that the script has, and no others. Lists must have the same length. */
  #compare(want: any, got: any): void {
    if (Array.isArray(want)) assert.equal(got?.length, want.length, inspect(got));
    if (want === null || typeof want !== "object") return assert.deepEqual(got, want);
    if (got === null || typeof got !== "object") assert.fail(`${got} is not ${JSON.stringify(want)}`);
    for (const [name, value] of Object.entries(want)) {
      if (!(name in got)) assert.fail(`no ${name} in ${inspect(got)}`);
      this.#compare(value, got[name]);
    }
  }

  /** Fails if the script did not observe an outcome, an item or a report. */
  async close(): Promise<void> {
    await idle();
    const left: unknown[] = [];
    for (const [as, queue] of this.#outcomes) left.push(...queue.items.map((i) => `outcome of ${as}: ${inspect(i)}`));
    for (const [as, { seen }] of this.#lives) left.push(...seen.items.map((i) => `result of ${as}: ${inspect(i)}`));
    for (const [as, { seen }] of this.#subscriptions) left.push(...seen.items.map((i) => `item of ${as}: ${inspect(i)}`));
    for (const [as, { seen }] of this.#consumers) left.push(...seen.map((s) => `event of ${as}: ${inspect(s)}`));
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
    this.#process = spawn(process.env.PLAYER ?? "go", ["run", "./test/conversation/play"], { cwd: fileURLToPath(root), stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  #send(x: object): void {
    this.#process.stdin!.write(JSON.stringify(x) + "\n");
  }

  async play(name: string, callbacks: boolean): Promise<void> {
    this.#send({ play: fileURLToPath(new URL(name, scripts)) });
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
        this.#send({});
      } catch (e) {
        this.#send({ error: e instanceof Error ? e.message : String(e) });
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
