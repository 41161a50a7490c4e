import assert from "node:assert/strict";
import { test } from "node:test";
import type { LiveQuery, Snapshot } from "../src/index.js";
import { idle } from "./fakes.js";
import { MemorySocket, type Opened, welcomed } from "./memory.js";

interface Lot {
  price: number;
}
const row = (key: string, price: number, position = price) => ({ key, rank: String(price).padStart(6, "0"), position, data: { price } });
const keys = (s: Snapshot<Lot>) => s.rows.map((r) => r.key).join();

/** Opens a live query with the rows a, b and c at position 100. */
async function opened(): Promise<Opened & { live: LiveQuery<Lot>; sub: string }> {
  const o = await welcomed();
  const live: LiveQuery<Lot> = o.client.live("lots");
  await idle();
  const sub = o.socket.received[1].id;
  o.socket.deliver({ op: "subscribed", id: sub, cursor: "1" }, { op: "state", sub, rows: [row("c", 30), row("a", 10), row("b", 20)] }, { op: "live", sub, cursor: "c1", position: 100 });
  return { ...o, live, sub };
}

test("a snapshot is immutable, and the same object until something changes", async () => {
  const { client, socket, live, sub } = await opened();
  const first = live.getSnapshot();
  assert.equal(keys(first), "a,b,c");
  assert.equal(live.getSnapshot(), first);
  assert.throws(() => (first.rows as unknown[]).push(1), TypeError);
  let calls = 0;
  const listener = () => calls++;
  const [stop, stopToo] = [live.subscribe(listener), live.subscribe(listener)];
  socket.deliver({ op: "update", sub, ...row("b", 5, 101) });
  assert.deepEqual([live.getSnapshot(), calls], [first, 0]);
  socket.deliver({ op: "synced", sub, cursor: "c2", position: 101 });
  const second = live.getSnapshot();
  assert.deepEqual([keys(first), keys(second), calls], ["a,b,c", "b,a,c", 2]);
  assert.equal(second.rows[1], first.rows[0], "an unchanged row is the same object");
  socket.deliver({ op: "synced", sub, cursor: "c3", position: 102 });
  assert.equal(live.getSnapshot().rows, second.rows);
  stop();
  socket.deliver({ op: "synced", sub, cursor: "c4", position: 103 });
  assert.equal(calls, 5);
  stopToo();
  client.close();
  assert.deepEqual([live.getSnapshot().status, live.getSnapshot().error, calls], ["closed", undefined, 5]);
});

test("a slow loop gets the newest result only, and leaving it closes the live query", async () => {
  const { client, socket, live, sub } = await opened();
  const seen: number[] = [];
  let release = () => {};
  const done = (async () => {
    for await (const { position } of live) {
      seen.push(position);
      if (position === 1_100) break;
      await new Promise<void>((resolve) => (release = resolve));
    }
  })();
  await idle();
  for (let i = 1; i <= 1_000; i++) socket.deliver({ op: "synced", sub, cursor: `c${i}`, position: 100 + i });
  release();
  await done;
  assert.deepEqual(seen, [100, 1_100]);
  await idle();
  assert.deepEqual([socket.received.at(-1).op, socket.received.at(-1).sub], ["unsubscribe", sub]);
  client.close();
});

test("an optimistic change is shown until the rows have passed its result", async () => {
  const { client, socket, live, sub } = await opened();
  const raise = (price: number) => (rows: readonly any[]) => rows.map((r) => (r.key === "a" ? { ...r, data: { price } } : r));
  const price = () => live.getSnapshot().rows.find((r) => r.key === "a")!.data.price;
  let resolve!: (r: { position: number }) => void;
  live.optimistic(raise(11), new Promise((f) => (resolve = f)));
  assert.equal(price(), 11);
  socket.deliver({ op: "update", sub, ...row("b", 21, 104) }, { op: "synced", sub, cursor: "c2", position: 104 });
  assert.equal(price(), 11);
  resolve({ position: 105 });
  await idle();
  assert.equal(price(), 11);
  socket.deliver({ op: "update", sub, ...row("a", 12, 105) }, { op: "synced", sub, cursor: "c3", position: 105 });
  assert.equal(price(), 12);
  live.optimistic(raise(99), Promise.reject(new Error("refused")));
  live.optimistic(raise(98), Promise.resolve({ position: 105 }));
  assert.equal(price(), 98);
  await idle();
  assert.equal(price(), 12);
  // A result that changes no row of this query is passed with a heartbeat.
  live.optimistic(raise(97), Promise.resolve({ position: 110 }));
  await idle();
  socket.deliver({ op: "heartbeat", cursor: "120", behind: [{ sub, cursor: "c3" }] });
  assert.equal(price(), 97);
  socket.deliver({ op: "heartbeat", cursor: "120" });
  assert.equal(price(), 12);
  client.close();
});

test("optimistic changes are dropped with the rows that the client may no longer see, and in another log", async () => {
  for (const reason of ["access", "log"]) {
    const { client, socket, live, sub } = await opened();
    live.optimistic((rows) => [...rows, row("mine", 99)], new Promise(() => {}));
    assert.equal(keys(live.getSnapshot()), "a,b,c,mine");
    socket.deliver({ op: "reset", sub, reason });
    assert.equal(keys(live.getSnapshot()), reason === "log" ? "a,b,c" : "");
    socket.deliver({ op: "live", sub, cursor: "d1", position: 3 });
    assert.equal(keys(live.getSnapshot()), "");
    client.close();
  }
});

test("an optimistic change that throws is dropped", async (t) => {
  const uncaught: unknown[] = [];
  t.mock.method(globalThis, "queueMicrotask", (f: () => void) => {
    void Promise.resolve().then(f).catch((e) => uncaught.push(e.message));
  });
  const { client, live } = await opened();
  live.optimistic(() => { throw new Error("a fault of the application"); }, new Promise(() => {}));
  assert.equal(keys(live.getSnapshot()), "a,b,c");
  await idle();
  assert.deepEqual(uncaught, ["a fault of the application"]);
  client.close();
});

test("the rows, the optimistic changes and the parameters are bounded", async () => {
  const { client, socket, live, sub } = await opened();
  for (let i = 0; i < 1_000; i++) live.optimistic((r) => r, new Promise(() => {}));
  assert.throws(() => live.optimistic((r) => r, new Promise(() => {})), { code: "queue_full" });
  socket.deliver({ op: "state", sub, rows: Array.from({ length: 10_001 }, (_, i) => row(`k${i}`, i)) });
  const { status, error, rows } = live.getSnapshot();
  assert.deepEqual([status, error?.code, rows.length], ["closed", "protocol", 3]);
  assert.throws(() => client.live("lots", { text: "x".repeat(20_000) }), { code: "too_large", field: "data" });
  assert.throws(() => client.live("lots", { from: 2 ** 53 }), { code: "bad_request", field: "from" });
  assert.throws(() => client.live("lots", {}, { atLeast: 2 ** 53 }), { code: "bad_request", field: "at_least" });
  client.close();
});

test("random batches give the rows of a map that is sorted each time", async () => {
  const { client, socket, live, sub } = await opened();
  let seed = 7;
  const random = (n: number) => (seed = (seed * 48_271) % 2_147_483_647) % n;
  let model = new Map(["a", "b", "c"].map((k, i) => [k, row(k, 10 * (i + 1))]));
  for (let i = 0; i < 2_000; i++) {
    const frames: object[] = [];
    if (random(50) === 0) {
      frames.push({ op: "reset", sub, reason: "rebuilt" });
      model = new Map();
    }
    for (let n = random(4) ? random(4) : random(40); n > 0; n--) {
      const key = `k${random(60)}`;
      const r = { ...row(key, random(1_000)), key };
      r.rank += key;
      const what = random(10);
      if (what === 0) {
        const keys = [...model.keys()].filter(() => random(4) > 0);
        frames.push({ op: "keys", sub, keys: [...keys, "unknown"] });
        for (const k of model.keys()) if (!keys.includes(k)) model.delete(k);
      } else if (what < 4) {
        frames.push({ op: "update", sub, key, gone: true });
        model.delete(key);
      } else {
        frames.push({ op: "update", sub, ...r });
        model.set(key, r);
      }
    }
    socket.deliver(...frames, { op: "synced", sub, cursor: "c", position: i });
    const want = [...model.values()].sort((a, b) => (a.rank < b.rank ? -1 : 1));
    assert.deepEqual(live.getSnapshot().rows, want, `batch ${i}`);
  }
  client.close();
});

test("parameters that the application changes later are not sent", async () => {
  const { client, socket, clock } = await welcomed();
  const data = { budget: 1 };
  client.live("lots", data);
  data.budget = 2;
  await idle();
  socket.onclose!({ code: 1006 });
  await clock.advance(250);
  await MemorySocket.last.welcome();
  assert.deepEqual(MemorySocket.last.received[0].subscriptions[0].data, { budget: 1 });
  client.close();
});

test("an aggregate's store shows its newest state, across reconnects", async () => {
  const { client, socket, clock } = await welcomed();
  const live = client.aggregate("counter/a/b").live();
  assert.deepEqual(live.getSnapshot(), { state: undefined, status: "connecting", version: 0, position: 0, error: undefined });
  await idle();
  let sub = socket.received[1].id;
  assert.deepEqual(socket.received[1], { op: "subscribe", id: sub, stream: "counter/a/b", state: "only" });
  const state = (version: number, log = 100) => ({ op: "state", sub, version, position: log + version, data: { value: version } });
  const shown = () => ((s) => [s.state?.value, s.version, s.position, s.status])(live.getSnapshot());
  socket.deliver({ op: "subscribed", id: sub, cursor: "100" }, { op: "live", sub, version: 0, cursor: "100" });
  assert.equal(client.status, "catching-up");
  socket.deliver(state(0));
  assert.deepEqual([shown(), client.status], [[0, 0, 100, "live"], "live"]);
  socket.deliver(state(2), state(1));
  assert.deepEqual(shown(), [2, 2, 102, "live"]);

  socket.onclose!({ code: 1006 });
  assert.deepEqual(shown(), [2, 2, 102, "resuming"]);
  await clock.advance(250);
  const next = MemorySocket.last;
  await next.welcome();
  [{ id: sub }] = next.received[0].subscriptions;
  assert.deepEqual(next.received[0].subscriptions, [{ op: "subscribe", id: sub, stream: "counter/a/b", state: "only" }]);
  next.deliver({ op: "live", sub, version: 2, cursor: "110" }, state(2));
  assert.deepEqual(shown(), [2, 2, 102, "live"]);
  next.deliver({ op: "unsubscribed", sub, code: "forbidden", message: "no more" });
  assert.deepEqual([shown(), live.getSnapshot().error?.code], [[2, 2, 102, "closed"], "forbidden"]);
  await assert.rejects(async () => { for await (const _ of live); }, { code: "forbidden" });
  client.close();
});

test("an aggregate's store takes a lower version from another log", async () => {
  const { client, socket, clock } = await welcomed();
  const live = client.aggregate("counter", "a").live();
  await idle();
  let sub = socket.received[1].id;
  socket.deliver({ op: "state", sub, version: 9, position: 90, data: { value: 9 } });
  socket.onclose!({ code: 1006 });
  await clock.advance(250);
  for (const _ of [1, 2]) {
    const next = MemorySocket.last;
    next.onopen!({});
    await idle();
    [{ id: sub }] = next.received[0].subscriptions;
    next.deliver({ op: "welcome", id: next.received[0].id, session: "s", client: "ada", node: "n", server: "t", log: "log-2", cursor: "5", heartbeat_ms: 25_000, limits: { frame_bytes: 98_304, open_requests: 256, subscriptions: 1_000 } });
    await clock.advance(500);
  }
  MemorySocket.last.deliver({ op: "state", sub, version: 2, position: 4, data: { value: 2 } });
  assert.deepEqual([live.getSnapshot().version, live.getSnapshot().status], [2, "live"]);
  client.close();
});

test("a stream without an id is refused", async () => {
  const { client } = await welcomed();
  assert.throws(() => client.aggregate("counter" as "counter/a"), /"type\/id"/);
  assert.deepEqual(((a) => [a.type, a.id])(client.aggregate("counter/a/b")), ["counter", "a/b"]);
  client.close();
});
