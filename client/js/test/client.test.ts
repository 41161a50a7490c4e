import assert from "node:assert/strict";
import { test } from "node:test";
import { ClosedError, connect, GanglionError, type Options, RejectedError } from "../src/index.js";
import { FakeClock, idle } from "./fakes.js";
import { MemorySocket, welcomed } from "./memory.js";

const base: Options = { client: "ada", WebSocket: MemorySocket };
const event = (sub: string, version: number, position = version, stream = "counter/a") => ({
  op: "event", sub, stream, version, position, event: "added", data: { by: 1 }, time: "2026-11-22T12:00:00Z", cause: "k",
});

test("errors about invalid options say what to do", () => {
  for (const [options, want] of [
    [{}, /url is missing/],
    [{ url: "ws://x", token: async () => "t" }, /not both/],
    [{ url: "ws://x", queue: 0 }, /queue/],
    [{ url: "no url" }, /URL/],
    [{ url: "ws://x", WebSocket: undefined }, /install the package ws/],
  ] as [Options, RegExp][]) {
    const global = globalThis.WebSocket;
    (globalThis as any).WebSocket = undefined; // Node 22 has one
    try {
      assert.throws(() => connect({ ...base, ...options }), want);
    } finally {
      (globalThis as any).WebSocket = global;
    }
  }
});

test("urls are completed to WebSocket addresses", async () => {
  for (const [given, want] of [
    ["http://gw", "ws://gw/v1/ws"],
    ["https://gw/", "wss://gw/v1/ws"],
    ["wss://gw/proxied/v1/ws#there", "wss://gw/proxied/v1/ws"],
  ] as const) {
    const client = connect({ ...base, url: given });
    await idle();
    assert.equal(MemorySocket.last.url, want);
    assert.equal(MemorySocket.last.protocols, "ganglion.v1");
    client.close();
  }
});

test("each attempt uses the next gateway", async () => {
  const clock = new FakeClock();
  const client = connect({ ...base, urls: ["ws://a", "ws://b", "ws://c"], clock });
  const seen = [];
  for (let i = 0; i < 4; i++) {
    await idle();
    seen.push(MemorySocket.last.url);
    const { all } = MemorySocket;
    MemorySocket.last.onclose!({ code: 1006 });
    for (const before = all.length; all.length === before; ) await clock.advance(250);
  }
  client.close();
  assert.deepEqual(seen, ["ws://b/v1/ws", "ws://c/v1/ws", "ws://a/v1/ws", "ws://b/v1/ws"]);
});

test("a command's key is known before its result", async () => {
  const { client, socket } = await welcomed();
  const sending = client.aggregate("counter", "a").send("add", { by: 1 });
  assert.match(sending.key, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  await idle();
  assert.equal(socket.received[1].key, sending.key);
  assert.equal(parseInt(sending.key.replaceAll("-", "").slice(0, 12), 16), Date.UTC(2026, 10, 22, 12));
  socket.deliver({ op: "error", id: socket.received[1].id, key: sending.key, code: "rejected", reason: "zero", message: "no", retry: "no" });
  await assert.rejects(sending, (e) => e instanceof RejectedError && e instanceof GanglionError && e.name === "RejectedError" && e.reason === "zero");
  client.close();
});

test("frames of one turn of the event loop share small messages", async () => {
  const { client, socket } = await welcomed();
  const many = Array.from({ length: 200 }, () => client.aggregate("client", "bob").send("notify", { text: "ä".repeat(500) }));
  await idle();
  assert.equal(socket.received.length, 201);
  assert.ok(socket.messages.length < 10, `${socket.messages.length} messages`);
  for (const m of socket.messages) assert.ok(new TextEncoder().encode(m).length < 98_304);
  client.close();
  for (const r of await Promise.allSettled(many)) assert.equal(r.status, "rejected");
});

test("a thousand subscriptions resume with a small hello", async () => {
  const { client, socket, clock } = await welcomed();
  for (let i = 0; i < 1000; i++) client.aggregate("counter", "x".repeat(100) + i).subscribe({ onEvent() {} });
  await idle();
  for (const { op, id } of socket.received) if (op === "subscribe") socket.deliver({ op: "subscribed", id, cursor: "100" });
  socket.onclose!({ code: 1006 });
  await clock.advance(500);
  const next = MemorySocket.last;
  assert.notEqual(next, socket);
  await next.welcome();
  const inHello = next.received[0].subscriptions;
  const after = next.received.slice(1);
  assert.ok(next.messages[0]!.length < 20_000 && inHello.length > 50, `${inHello.length} in hello`);
  assert.equal(new Set([...inHello, ...after].map((f) => f.stream)).size, 1000);
  for (const f of [...inHello, ...after]) assert.deepEqual([f.op, f.cursor], ["subscribe", "100"]);
  client.close();
});

test("hello with long names and a long token fits into the smallest frame limit", async () => {
  const { client, socket, clock } = await welcomed({ client: undefined, token: async () => "t".repeat(8_192) } as any, { frame_bytes: 32_768 });
  for (let i = 0; i < 300; i++) client.aggregate("counter", "語".repeat(60) + i).subscribe({ onEvent() {} });
  await idle();
  socket.onclose!({ code: 1006 });
  await clock.advance(500);
  await MemorySocket.last.welcome({ frame_bytes: 32_768 });
  const { messages, received } = MemorySocket.last;
  for (const m of messages) assert.ok(new TextEncoder().encode(m).length <= 32_768, `a message of ${new TextEncoder().encode(m).length} bytes`);
  assert.equal(new Set([...received[0].subscriptions, ...received.slice(1)].map((f) => f.stream)).size, 300);
  client.close();
});

test("messages are no larger than the gateway accepts", async () => {
  const { client, socket } = await welcomed({}, { frame_bytes: 32_768 });
  const many = Array.from({ length: 100 }, () => client.aggregate("client", "bob").send("notify", { text: "語".repeat(300) }));
  await idle();
  assert.equal(socket.received.length, 101);
  for (const m of socket.messages) assert.ok(new TextEncoder().encode(m).length <= 32_768);
  assert.ok(socket.messages.length < 20, `${socket.messages.length} messages`);
  client.close();
  await Promise.allSettled(many);
});

test("numbers that may have been rounded are refused before they are sent", async () => {
  const { client, socket } = await welcomed();
  const counter = client.aggregate("counter", "a");
  for (const by of [2 ** 53, -(2 ** 53), 1e300, NaN, Infinity]) {
    await assert.rejects(counter.send("add", { deep: [{ by }] }), { code: "bad_request", field: "by" });
  }
  await assert.rejects(counter.send("add", {}, { expect: 2 ** 53 }), { code: "bad_request", field: "expect" });
  await assert.rejects(counter.get({ atLeast: 2 ** 53 }), { code: "bad_request", field: "at_least" });
  assert.throws(() => counter.subscribe({ from: { after: 2 ** 53 } }), { code: "bad_request", field: "after" });
  assert.equal(socket.received.length, 1);
  void counter.send("add", { by: 2 ** 53 - 1, text: "9007199254740993" }).catch(() => {});
  await idle();
  assert.deepEqual(socket.received[1].data, { by: 2 ** 53 - 1, text: "9007199254740993" });
  client.close();
});

test("an event whose position was rounded ends its subscription", async () => {
  const { client, socket } = await welcomed();
  const seen: unknown[] = [];
  client.category("counter").subscribe({ onEvent: (e) => seen.push(e.version), onEnd: (e) => seen.push(e?.code) });
  await idle();
  const { id } = socket.received[1];
  socket.deliver(event(id, 1, 2 ** 53 - 1), event(id, 2, 2 ** 53));
  assert.deepEqual(seen, [1, "protocol"]);
  client.close();
});

test("errors without a listener write a bounded number of lines", async (t) => {
  const lines = t.mock.method(console, "error", () => {});
  const clock = new FakeClock();
  const client = connect({ ...base, url: "ws://gateway", clock });
  await idle();
  const socket = MemorySocket.last;
  await socket.welcome();
  for (let i = 0; i < 1000; i++) socket.deliver({ op: "error", code: "bad_request", message: `${i}`, retry: "no" });
  assert.equal(lines.mock.callCount(), 10);
  clock.sleep(60_000);
  socket.deliver({ op: "error", code: "bad_request", message: "again", retry: "no" });
  assert.equal(lines.mock.callCount(), 11);
  client.close();
});

test("a token from a cache needs a handful of calls", async () => {
  let calls = 0;
  const clock = new FakeClock();
  const client = connect({ url: "ws://gateway", token: async () => `t${(calls++, Math.floor((clock.now() + 5_000) / 60_000))}`, clock, WebSocket: MemorySocket });
  await idle();
  const socket = MemorySocket.last;
  await socket.welcome();
  for (let i = 0; i < 20; i++) { // a gateway that warns at each renewal
    socket.deliver({ op: "expiring", in_ms: 60_000 - (clock.now() % 60_000) });
    await clock.advance(1_000);
  }
  await clock.advance(10_000);
  assert.ok(calls < 8, `${calls} calls`);
  client.close();
});

test("the bytes of pending requests are bounded", async () => {
  const { client } = await welcomed();
  const notify = () => client.aggregate("client", "bob").send("notify", { text: "x".repeat(60_000) });
  const waiting = Array.from({ length: 69 }, notify);
  await assert.rejects(notify(), { code: "queue_full" });
  client.close();
  await Promise.allSettled(waiting);
});

test("data that is not JSON rejects its command alone", async () => {
  const { client, socket } = await welcomed();
  await assert.rejects(client.aggregate("counter", "a").send("add", { by: 1n }), TypeError);
  void client.aggregate("counter", "a").send("add", { by: 1 }).catch(() => {});
  await idle();
  assert.deepEqual(socket.received[1].data, { by: 1 });
  client.close();
});

test("a handler's promise pauses the subscription", async () => {
  const { client, socket } = await welcomed();
  const seen: number[] = [];
  let release = () => {};
  client.aggregate("counter", "a").subscribe({
    from: "start",
    buffer: 4,
    onEvent: (e) => {
      seen.push(e.version);
      return new Promise<void>((resolve) => (release = resolve));
    },
  });
  await idle();
  let { id } = socket.received[1];
  socket.deliver({ op: "subscribed", id, cursor: "100" }, ...[1, 2, 3, 4, 5, 6].map((v) => event(id, v)));
  await idle();
  assert.deepEqual(seen, [1]);
  assert.deepEqual([socket.received[2].op, socket.received[2].sub], ["unsubscribe", id]);
  for (let i = 0; i < 4; i++) {
    release();
    await idle();
  }
  ({ id } = socket.received[3]);
  assert.deepEqual(socket.received[3], { op: "subscribe", id, stream: "counter/a", cursor: "5" });
  socket.deliver(event(id, 6));
  release();
  await idle();
  assert.deepEqual(seen, [1, 2, 3, 4, 5, 6]);
  client.close();
});

test("a handler may close its subscription and the client", async () => {
  const { client, socket } = await welcomed();
  const seen: unknown[] = [];
  const sub = client.aggregate("counter", "a").subscribe({
    from: "start",
    onEvent(e) {
      seen.push(e.version);
      if (e.version === 2) sub.close();
    },
    onEnd: (e) => seen.push(e),
  });
  const other = client.aggregate("counter", "b").subscribe({ onEvent: () => client.close(), onEnd: (e) => seen.push(e) });
  await idle();
  const [a, b] = [socket.received[1].id, socket.received[2].id];
  socket.deliver(...[1, 2, 3].map((v) => event(a, v)));
  assert.deepEqual(seen, [1, 2, undefined]);
  socket.deliver(event(b, 1, 4, "counter/b"), event(b, 2, 5, "counter/b"));
  assert.deepEqual(seen, [1, 2, undefined, undefined]);
  assert.equal((await client.closed) instanceof ClosedError, true);
  assert.equal(socket.closed, 1000);
  assert.equal(other.cursor, "4");
});

test("an iterator yields the items before the end, then throws once", async () => {
  const { client, socket } = await welcomed();
  const iterator = client.aggregate("counter", "a").subscribe({ from: "start" })[Symbol.asyncIterator]();
  await idle();
  const { id } = socket.received[1];
  socket.deliver(event(id, 1), event(id, 2), { op: "unsubscribed", sub: id, code: "forbidden", message: "no more", cursor: "2" });
  assert.equal((await iterator.next()).value.version, 1);
  assert.equal((await iterator.next()).value.version, 2);
  await assert.rejects(iterator.next(), { code: "forbidden" });
  assert.deepEqual(await iterator.next(), { value: undefined, done: true });
  client.close();
});

test("leaving a loop unsubscribes", async () => {
  const { client, socket } = await welcomed();
  const done = (async () => {
    for await (const e of client.category("counter").subscribe()) return e.stream;
  })();
  await idle();
  const { id } = socket.received[1];
  socket.deliver({ op: "subscribed", id, cursor: "100" }, event(id, 7, 101, "counter/ä/b"));
  assert.equal(await done, "counter/ä/b");
  await idle();
  assert.deepEqual([socket.received[2].op, socket.received[2].sub], ["unsubscribe", id]);
  assert.equal(client.status, "live");
  client.close();
});

test("statuses begin with the present one and end with the client", async () => {
  const { client, socket, clock } = await welcomed();
  const seen: string[] = [];
  const done = (async () => {
    for await (const s of client.statuses()) seen.push(s);
  })();
  const stop = new AbortController();
  const stopped = (async () => {
    for await (const _ of client.statuses({ signal: stop.signal }));
  })();
  await idle();
  stop.abort();
  await stopped;
  socket.onclose!({ code: 1006 });
  await idle();
  await clock.advance(250);
  await MemorySocket.last.welcome();
  client.close();
  await done;
  assert.deepEqual(seen, ["live", "offline", "connecting", "live", "closed"]);
});

test("a signal closes the client", async () => {
  const stop = new AbortController();
  const { client, socket } = await welcomed({ signal: stop.signal });
  const sending = client.aggregate("counter", "a").send("add", { by: 1 });
  await idle();
  stop.abort();
  await assert.rejects(sending, { code: "closed", retry: "same_key" });
  assert.equal(socket.closed, 1000);
  const aborted = connect({ ...base, url: "ws://x", signal: stop.signal });
  assert.equal(aborted.status, "closed");
  await assert.rejects(aborted.aggregate("counter", "a").get(), { code: "closed" });
});

test("an error without a request is reported", async () => {
  const { client, socket, errors } = await welcomed();
  socket.deliver({ op: "error", code: "bad_request", field: "id", message: "id is missing", retry: "no" });
  assert.deepEqual(errors.map((e) => [e.code, e.field]), [["bad_request", "id"]]);
  client.close();
});

test("frames of an abandoned socket are ignored", async () => {
  const { client, socket, clock } = await welcomed();
  const seen: number[] = [];
  client.aggregate("counter", "a").subscribe({ from: "start", onEvent: (e) => seen.push(e.version) });
  await idle();
  const { id } = socket.received[1];
  socket.deliver(event(id, 1));
  const { onmessage, onclose } = socket;
  client.wake();
  await clock.advance(5_000);
  assert.equal(client.status, "offline");
  onmessage!({ data: JSON.stringify(event(id, 2)) });
  onclose!({ code: 1006 });
  await clock.advance(250);
  const next = MemorySocket.last;
  await next.welcome();
  assert.equal(next.received[0].subscriptions[0].cursor, "1");
  next.deliver(event(next.received[0].subscriptions[0].id, 2));
  assert.deepEqual(seen, [1, 2]);
  client.close();
});
