import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { connect, type Delivery } from "../src/index.js";
import { FakeClock, idle } from "./fakes.js";
import { MemorySocket, type Opened, welcomed } from "./memory.js";

const folder = new URL("../../../../proto/testdata/", import.meta.url);
const golden: Record<string, { from: string; frame: any }> = Object.fromEntries(
  readdirSync(folder)
    .filter((f) => f.endsWith(".json"))
    .map((f) => [f.slice(0, -5), JSON.parse(readFileSync(new URL(f, folder), "utf8"))]),
);
const { hello, welcome } = golden;

/** Assigns a segment, sends the golden event of it and returns the delivery. */
async function deliver({ client, socket }: Opened): Promise<Delivery> {
  const consumption = client.consume("mailer")[Symbol.asyncIterator]();
  await idle();
  const { id } = socket.received.at(-1);
  for (const name of ["consuming", "assigned", "event_segment"]) {
    const { frame } = golden[name]!;
    socket.deliver({ ...frame, ...(frame.id ? { id } : { sub: id }) });
  }
  return (await consumption.next()).value;
}

/** Makes the client send each of the frames. The client chooses the ids. */
const senders: Record<string, (o: Opened) => unknown> = {
  command({ client }) {
    const { data, key, expect, timeout_ms: timeoutMs, trace } = golden.command!.frame;
    return client.aggregate("auction", "42").send("bid", data, { key, expect, timeoutMs, trace });
  },
  get: ({ client }) => client.aggregate("auction", "42").get({ atLeast: 1051, strong: true }),
  subscribe: ({ client }) => client.aggregate("auction", "42").subscribe(),
  subscribe_after: ({ client }) => client.aggregate("auction", "42").subscribe({ from: { after: 17 } }),
  subscribe_cursor: ({ client }) => client.category("auction").subscribe({ from: { cursor: "1047" } }),
  subscribe_last: ({ client }) => client.aggregate("auction", "42").subscribe({ from: { last: 10 } }),
  subscribe_state: ({ client }) => client.aggregate("auction", "42").subscribe({ state: true }),
  subscribe_each: ({ client }) => client.aggregate("auction", "42").subscribe({ from: { cursor: "1047" }, state: "each" }),
  subscribe_only: ({ client }) => client.aggregate("auction/42").live(),
  query({ client }) {
    const { data, at_least: atLeast, timeout_ms: timeoutMs, after } = golden.query!.frame;
    return client.query("open_auctions", data, { atLeast, timeoutMs, after });
  },
  query_small: ({ client }) => client.query("open_auctions"),
  consume({ client }) {
    const { group, member, window } = golden.consume!.frame;
    client.consume(group, { member, window });
  },
  consume_small({ client }) {
    const { group, member } = golden.consume_small!.frame;
    client.consume(group, { member });
  },
  async ack(opened) {
    (await deliver(opened)).ack();
    await idle();
    await opened.clock.advance(50);
  },
  park: async (opened) => (await deliver(opened)).park(golden.park!.frame.reason),
  ping: ({ client }) => client.wake(),
  async unsubscribe({ client }) {
    const sub = client.aggregate("auction", "42").subscribe();
    await idle();
    sub.close();
  },
};

for (const [name, send] of Object.entries(senders)) {
  test(`the client sends ${name} like the golden frame`, async () => {
    const opened = await welcomed();
    const sent = Promise.resolve(send(opened)).catch(() => {});
    if (name === "ack" || name === "park") await sent; // the others wait for answers
    await idle();
    const said = opened.socket.received.at(-1);
    const want = { ...golden[name]!.frame };
    if (want.id) want.id = said.id;
    if (want.sub) want.sub = said.sub;
    assert.deepEqual(said, want);
    opened.client.close();
  });
}

test("the client sends hello like the golden frames", async () => {
  const clock = new FakeClock();
  const { token, log, subscriptions } = hello!.frame;
  const client = connect({ url: "ws://x", token: async () => token, log, clock, WebSocket: MemorySocket });
  client.aggregate("auction", "42").subscribe({ from: { cursor: "1047" } });
  client.category("auction").subscribe({ from: { cursor: "1050" } });
  await idle();
  const first = MemorySocket.last;
  await first.welcome();
  const said = first.received[0];
  assert.deepEqual(said, { ...hello!.frame, id: said.id, subscriptions: subscriptions.map((s: object, i: number) => ({ ...s, id: said.subscriptions[i].id })) });
  client.close();

  const { client: trusted, socket } = await welcomed();
  assert.deepEqual(socket.received[0], { ...golden.hello_client!.frame, id: socket.received[0].id });
  trusted.close();
});

test("the client resumes a live query like the golden frame", async () => {
  const { client, socket, clock } = await welcomed();
  const { data, at_least: atLeast, cursor } = golden.subscribe_query!.frame;
  client.live("open_auctions", data, { atLeast });
  await idle();
  const first = socket.received[1];
  assert.deepEqual({ ...first, cursor }, { ...golden.subscribe_query!.frame, id: first.id });
  socket.deliver({ ...golden.live_query!.frame, sub: first.id });
  socket.onclose!({ code: 1006 });
  await clock.advance(250);
  await MemorySocket.last.welcome();
  const [next] = MemorySocket.last.received[0].subscriptions;
  assert.deepEqual({ ...next, at_least: atLeast }, { ...golden.subscribe_query!.frame, id: next.id });
  client.close();
});

/** The frames that answer queries and their subscriptions. */
const framesOfQueries = new Set(["result_query", "state_rows", "state_rows_last", "live_query", "live_query_empty", "update", "update_gone", "keys", "synced", "reset"]);

test("the client handles every golden frame of queries", async () => {
  const { client, socket } = await welcomed();
  const asking = client.query("open_auctions");
  const live = client.live("open_auctions");
  await idle();
  const [asked, { id: sub }] = socket.received.slice(1);
  const shown = (name: string) => {
    socket.deliver({ ...golden[name]!.frame, sub });
    const { rows, position, blocked, status } = live.getSnapshot();
    return [rows.map((r) => r.key + ":" + (r.data as any).price).join(), position, blocked, status];
  };
  socket.deliver({ ...golden.result_query!.frame, id: asked.id });
  const { rows, next, position, blocked } = await asking;
  assert.deepEqual({ rows, next, blocked, position }, { ...golden.result_query!.frame.data, position: 1051 });
  const nothing = ["", 0, 0, "connecting"];
  assert.deepEqual([shown("state_rows"), shown("state_rows_last")], [nothing, nothing]);
  const both = ["42:999,ä \"1\":1000", 1051, 1, "live"];
  assert.deepEqual(shown("live_query"), both);
  for (const name of ["update", "update_gone", "keys"]) assert.deepEqual(shown(name), both, name);
  assert.deepEqual(shown("synced"), ["42:990,ä \"1\":1000", 1053, 1, "live"]);
  assert.deepEqual(shown("reset"), ["42:990,ä \"1\":1000", 1053, 1, "resuming"]);
  assert.deepEqual(shown("live_query_empty"), ["", 0, 0, "live"]);
  client.close();
});

/** The frames of consumer groups. */
const framesOfGroups = new Set(["consuming", "assigned", "assigned_retried", "event_segment", "revoking", "revoked", "unsubscribed_replaced"]);

test("the client handles every golden frame of consumer groups", async () => {
  for (const [name, effect] of Object.entries({ assigned_retried: false, revoking: false, revoked: true, unsubscribed_replaced: true })) {
    const opened = await welcomed();
    const event = await deliver(opened);
    const { log } = golden.assigned!.frame;
    assert.deepEqual([event.position, event.log, event.group, event.commandKey(1)], [1051, log, "mailer", "mailer:1051:1"]);
    const { frame } = golden[name]!;
    opened.socket.deliver({ ...frame, sub: opened.socket.received.at(-1).id });
    assert.equal(event.signal.aborted, effect, name);
    assert.deepEqual(opened.errors, []);
    opened.client.close();
  }
});

test("the client renews its token like the golden frames", async () => {
  const tokens = ["the previous one", golden.auth!.frame.token];
  const clock = new FakeClock();
  const client = connect({ url: "ws://x", token: async () => tokens.shift()!, clock, WebSocket: MemorySocket });
  await idle();
  const socket = MemorySocket.last;
  await socket.welcome();
  await clock.advance(30_000);
  socket.deliver(golden.expiring!.frame);
  await idle();
  assert.deepEqual(socket.received[1], { ...golden.auth!.frame, id: socket.received[1].id });
  client.close();
});

test("the client handles every golden frame of a gateway", async () => {
  const effects: Record<string, unknown> = {};
  for (const [name, { from, frame }] of Object.entries(golden)) {
    if (from !== "gateway" || name === "welcome" || framesOfQueries.has(name) || framesOfGroups.has(name)) continue;
    const { client, socket, errors, clock } = await welcomed();
    const auction = client.aggregate("auction", "42");
    const items: unknown[] = [];
    const sub = auction.subscribe({
      ...(name === "state" ? { state: true } : { from: { after: 17 } }),
      onEvent: (e) => items.push(e.position),
      onState: (s) => items.push(s.data),
      onLive: () => items.push("live"),
      onEnd: (e) => items.push(e?.code),
    });
    const command = auction.send("bid", {}, { key: "k" }).then((r) => r, (e) => e);
    await idle();
    const [subscribe, sent] = socket.received.slice(1);
    socket.deliver({ op: "subscribed", id: subscribe.id, cursor: "1050" });
    const ids: Record<string, string> = { "8": subscribe.id, "2": subscribe.id, "4": sent.id, "6": sent.id };
    const mine = (id: string | undefined) => (id === undefined ? {} : { id: ids[id] ?? id });
    if (name === "live" || name === "live_category") socket.deliver({ ...golden.event!.frame, sub: subscribe.id });
    const f = { ...frame, ...mine(frame.id), ...(frame.sub && { sub: ids[frame.sub] ?? frame.sub }) };
    if (f.behind) f.behind = f.behind.map((b: any) => ({ ...b, sub: ids[b.sub] ?? b.sub }));
    socket.deliver(f);
    await idle();
    effects[name] = { items: [...items], cursor: sub.cursor, errors: errors.map((e) => e.code) };
    switch (frame.op) {
      case "result":
        effects[name] = ((r) => [r.version, r.position, r.replayed])(await command);
        break;
      case "error":
        if (frame.id) {
          if (frame.retry !== "no") {
            await clock.advance(frame.after_ms ?? 0);
            effects[name] = socket.received.filter((s) => s.key === "k").length;
          } else effects[name] = ((e) => [e.name, e.code, e.reason, e.version])(await command);
        }
        break;
      case "goodbye":
        socket.onclose!({ code: 1012 });
        await clock.advance(1729);
        assert.equal(client.status, "offline");
        await clock.advance(1);
        effects[name] = client.status;
        break;
    }
    client.close();
  }
  const nothing = { items: [], cursor: undefined, errors: [] };
  assert.deepEqual(effects, {
    error: ["RejectedError", "rejected", "too_low", undefined],
    error_busy: 2,
    error_conflict: ["ConflictError", "conflict", undefined, 18],
    error_field: { ...nothing, errors: ["bad_request"] },
    error_timeout: 2,
    event: { ...nothing, items: [1051], cursor: "1051" },
    event_anonymous: nothing, // of another subscription
    expiring: nothing, // the client has no token
    goodbye: "connecting",
    heartbeat: nothing, // no subscription is live
    heartbeat_behind: { ...nothing, cursor: "700" },
    live: { ...nothing, items: [1051, "live"], cursor: "1052" },
    live_category: { ...nothing, items: [1051, "live"], cursor: "1052" },
    pong: nothing,
    result: [18, 1051, true],
    result_get: [18, 1051, false],
    state: { ...nothing, items: [{ item: "lamp" }], cursor: "1051" },
    subscribed: nothing,
    unsubscribed: nothing, // the answer to its own request
    unsubscribed_forced: { ...nothing, items: ["forbidden"], cursor: "1052" },
  });
  assert.equal(welcome!.frame.op, "welcome");
});
