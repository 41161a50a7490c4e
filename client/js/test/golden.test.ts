import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { connect } from "../src/index.js";
import { FakeClock, settle } from "./fakes.js";
import { MemorySocket, type Opened, welcomed } from "./memory.js";

const folder = new URL("../../../../proto/testdata/", import.meta.url);
const golden: Record<string, { from: string; frame: any }> = Object.fromEntries(
  readdirSync(folder)
    .filter((f) => f.endsWith(".json"))
    .map((f) => [f.slice(0, -5), JSON.parse(readFileSync(new URL(f, folder), "utf8"))]),
);
const { hello, welcome } = golden;

/** How the client is brought to say each of the frames; its ids are its own. */
const says: Record<string, (o: Opened) => unknown> = {
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
  ping: ({ client }) => client.wake(),
  async unsubscribe({ client }) {
    const sub = client.aggregate("auction", "42").subscribe();
    await settle();
    sub.close();
  },
};

for (const [name, say] of Object.entries(says)) {
  test(`the client says ${name} as the golden frame does`, async () => {
    const opened = await welcomed();
    Promise.resolve(say(opened)).catch(() => {});
    await settle();
    const said = opened.socket.said.at(-1);
    const want = { ...golden[name]!.frame, id: said.id };
    if (want.sub) want.sub = said.sub;
    assert.deepEqual(said, want);
    opened.client.close();
  });
}

test("the client says hello as the golden frames do", async () => {
  const clock = new FakeClock();
  const { token, log, subscriptions } = hello!.frame;
  const client = connect({ url: "ws://x", token: async () => token, log, clock, WebSocket: MemorySocket });
  client.aggregate("auction", "42").subscribe({ from: { cursor: "1047" } });
  client.category("auction").subscribe({ from: { cursor: "1050" } });
  await settle();
  const first = MemorySocket.last;
  await first.welcome();
  const said = first.said[0];
  assert.deepEqual(said, { ...hello!.frame, id: said.id, subscriptions: subscriptions.map((s: object, i: number) => ({ ...s, id: said.subscriptions[i].id })) });
  client.close();

  const { client: trusted, socket } = await welcomed();
  assert.deepEqual(socket.said[0], { ...golden.hello_client!.frame, id: socket.said[0].id });
  trusted.close();
});

test("the client renews its token as the golden frames do", async () => {
  const tokens = ["the one before", golden.auth!.frame.token];
  const clock = new FakeClock();
  const client = connect({ url: "ws://x", token: async () => tokens.shift()!, clock, WebSocket: MemorySocket });
  await settle();
  const socket = MemorySocket.last;
  await socket.welcome();
  await clock.advance(30_000);
  socket.tell(golden.expiring!.frame);
  await settle();
  assert.deepEqual(socket.said[1], { ...golden.auth!.frame, id: socket.said[1].id });
  client.close();
});

test("every golden frame of a gateway does something to a client", async () => {
  const did: Record<string, unknown> = {};
  for (const [name, { from, frame }] of Object.entries(golden)) {
    if (from !== "gateway" || name === "welcome") continue;
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
    await settle();
    const [subscribe, sent] = socket.said.slice(1);
    socket.tell({ op: "subscribed", id: subscribe.id, cursor: "1050" });
    const ids: Record<string, string> = { "8": subscribe.id, "2": subscribe.id, "4": sent.id, "6": sent.id };
    const mine = (id: string | undefined) => (id === undefined ? {} : { id: ids[id] ?? id });
    if (name === "live" || name === "live_category") socket.tell({ ...golden.event!.frame, sub: subscribe.id });
    const f = { ...frame, ...mine(frame.id), ...(frame.sub && { sub: ids[frame.sub] ?? frame.sub }) };
    if (f.behind) f.behind = f.behind.map((b: any) => ({ ...b, sub: ids[b.sub] ?? b.sub }));
    socket.tell(f);
    await settle();
    did[name] = { items: [...items], cursor: sub.cursor, errors: errors.map((e) => e.code) };
    switch (frame.op) {
      case "result":
        did[name] = ((r) => [r.version, r.position, r.replayed])(await command);
        break;
      case "error":
        if (frame.id) {
          if (frame.retry !== "no") {
            await clock.advance(frame.after_ms ?? 0);
            did[name] = socket.said.filter((s) => s.key === "k").length;
          } else did[name] = ((e) => [e.name, e.code, e.reason, e.version])(await command);
        }
        break;
      case "goodbye":
        socket.onclose!({ code: 1012 });
        await clock.advance(1729);
        assert.equal(client.status, "offline");
        await clock.advance(1);
        did[name] = client.status;
        break;
    }
    client.close();
  }
  const nothing = { items: [], cursor: undefined, errors: [] };
  assert.deepEqual(did, {
    error: ["RejectedError", "rejected", "too_low", undefined],
    error_busy: 2,
    error_conflict: ["ConflictError", "conflict", undefined, 18],
    error_field: { ...nothing, errors: ["bad_request"] },
    error_timeout: 2,
    event: { ...nothing, items: [1051], cursor: "1051" },
    event_anonymous: nothing, // of a subscription that is not this client's
    expiring: nothing, // it has no token
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
    unsubscribed: nothing, // the answer to the client's own
    unsubscribed_forced: { ...nothing, items: ["forbidden"], cursor: "1052" },
  });
  assert.equal(welcome!.frame.op, "welcome");
});
