import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { main, shows } from "./dom.js";
import { createElement as h, type FunctionComponent, startTransition, StrictMode, Suspense, useLayoutEffect, useRef, useState } from "react";
import { createRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { useAggregate, useQuery, useStatus } from "../src/index.js";
import { Gateway, row } from "./gateway.js";

let gateway: Gateway;
let root: Root;
beforeEach(async () => {
  gateway = await Gateway.start();
  root = createRoot(main);
});
afterEach(() => {
  root.unmount();
  gateway.stop();
});

const text = (o: { status: string; rows: readonly { key: string; data: { price: number } }[] }) => `${o.status}:${o.rows.map((r) => r.key + r.data.price).join()};`;
const Lots: FunctionComponent<{ budget?: number }> = ({ budget }) => text(useQuery(gateway.client, "lots", budget === undefined ? {} : { budget }));

test("a component shows the rows of a query and each later batch", async () => {
  root.render(h(Lots));
  const sub = await gateway.sub({ query: "lots", data: {} });
  await shows("connecting:;");
  gateway.say({ op: "state", sub, rows: [row("b", 20), row("a", 10)] }, { op: "live", sub, cursor: "c1", position: 100 });
  await shows("live:a10,b20;");
  gateway.say({ op: "update", sub, ...row("b", 5) }, { op: "synced", sub, cursor: "c2", position: 101 });
  await shows("live:b5,a10;");
});

test("mounting twice in StrictMode subscribes once", async () => {
  let effects = 0;
  const Counted: FunctionComponent = () => {
    useLayoutEffect(() => void effects++, []);
    return h(Lots);
  };
  root.render(h(StrictMode, null, h(Counted)));
  const sub = await gateway.sub();
  gateway.say({ op: "live", sub, cursor: "c1", position: 100 });
  await shows("live:;");
  assert.deepEqual([effects, gateway.subscribed.length, gateway.open.size], [2, 1, 1]);
});

test("unmounting closes the live query", async () => {
  root.render(h(Lots));
  await gateway.sub();
  root.render(null);
  await gateway.until(() => gateway.open.size === 0, () => "unsubscribe");
  await shows("");
  root.render(h(Lots));
  await gateway.sub();
  assert.equal(gateway.subscribed.length, 2);
});

test("other parameters are another live query, and the first one is closed", async () => {
  root.render(h(Lots, { budget: 1 }));
  const first = await gateway.sub({ data: { budget: 1 } });
  gateway.say({ op: "state", sub: first, rows: [row("a", 1)] }, { op: "live", sub: first, cursor: "c1", position: 100 });
  await shows("live:a1;");
  root.render(h(Lots, { budget: 2 }));
  const second = await gateway.sub({ data: { budget: 2 } });
  await shows("connecting:;");
  gateway.say({ op: "state", sub: second, rows: [row("b", 2)] }, { op: "live", sub: second, cursor: "d1", position: 100 });
  await shows("live:b2;");
});

test("components with equal parameters share a live query, also if one mounts later", async () => {
  root.render(h("p", null, h(Lots, { key: 1 }), h(Lots, { key: 2 })));
  const sub = await gateway.sub();
  gateway.say({ op: "state", sub, rows: [row("a", 1)] }, { op: "live", sub, cursor: "c1", position: 100 });
  await shows("live:a1;live:a1;");
  root.render(h("p", null, h(Lots, { key: 2 }), h(Lots, { key: 3 })));
  await shows("live:a1;live:a1;");
  assert.deepEqual([gateway.subscribed.length, gateway.open.size], [1, 1]);
});

test("components never show different batches in one commit, even if a batch arrives while React renders", async () => {
  const commits: string[] = [];
  let grow!: (n: number) => void;
  const Slow: FunctionComponent = () => {
    for (const end = performance.now() + 3; performance.now() < end; ); // longer than React's time slice in all
    return String(useQuery(gateway.client, "lots", {}).position) + " ";
  };
  const Page: FunctionComponent = () => {
    const [n, set] = useState(1);
    const page = useRef<HTMLParagraphElement>(null);
    grow = set;
    useLayoutEffect(() => void commits.push(page.current!.textContent!));
    return h("p", { ref: page }, Array.from({ length: n }, (_, i) => h(Slow, { key: i })));
  };
  root.render(h(Page));
  const sub = await gateway.sub();
  gateway.say({ op: "live", sub, cursor: "c", position: 100 });
  await shows("100 ");
  startTransition(() => grow(60)); // about 180 ms, in slices between which frames arrive
  for (let i = 1; i <= 50; i++) {
    gateway.say({ op: "synced", sub, cursor: "c", position: 100 + i });
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await shows("150 ".repeat(60));
  for (const commit of commits) assert.equal(new Set(commit.trim().split(" ")).size, 1, commit);
});

test("an optimistic change is shown until its command fails", async () => {
  let bid!: () => void;
  let fail!: (e: Error) => void;
  const Page: FunctionComponent = () => {
    const lots = useQuery(gateway.client, "lots", {});
    bid = () => lots.optimistic((rows) => [...rows, { ...row("mine", 9) }], new Promise((_, reject) => (fail = reject)));
    return text(lots);
  };
  root.render(h(Page));
  const sub = await gateway.sub();
  gateway.say({ op: "live", sub, cursor: "c", position: 100 });
  await shows("live:;");
  bid();
  await shows("live:mine9;");
  fail(new Error("rejected"));
  await shows("live:;");
});

test("a component shows the newest state of an aggregate and the client's status", async () => {
  const Page: FunctionComponent = () => {
    const { state, status, version } = useAggregate(gateway.client, "auction/42");
    return `${useStatus(gateway.client)} ${status} ${version} ${state?.bids}`;
  };
  root.render(h(StrictMode, null, h(Page)));
  const sub = await gateway.sub({ stream: "auction/42", state: "only" });
  await shows("catching-up connecting 0 undefined");
  gateway.say({ op: "live", sub, version: 3, cursor: "100" }, { op: "state", sub, version: 3, position: 90, data: { bids: 3 } });
  await shows("live live 3 3");
  gateway.say({ op: "state", sub, version: 4, position: 101, data: { bids: 4 } });
  await shows("live live 4 4");
  gateway.cut();
  const again = await gateway.sub({ stream: "auction/42", state: "only" });
  await shows("catching-up resuming 4 4");
  gateway.say({ op: "state", sub: again, version: 4, position: 101, data: { bids: 4 } });
  await shows("live live 4 4");
  gateway.client.close();
  await shows("closed closed 4 4");
});

test("a refused query shows its error", async () => {
  const Page: FunctionComponent = () => {
    const { status, error } = useQuery(gateway.client, "lots", {});
    return `${status} ${error?.code}`;
  };
  root.render(h(Page));
  const sub = await gateway.sub();
  gateway.say({ op: "error", id: sub, code: "forbidden", message: "no", retry: "no" });
  await shows("closed forbidden");
});

test("a render that is never committed opens nothing", async () => {
  const never = new Promise(() => {});
  const Suspended: FunctionComponent = () => {
    useQuery(gateway.client, "lots", { budget: 7 });
    throw never;
  };
  root.render(h(Suspense, { fallback: "waiting" }, h(Suspended)));
  await shows("waiting");
  root.render(h(Lots));
  await gateway.sub({ data: {} });
  assert.equal(gateway.subscribed.length, 1);
});

test("a server renders the first snapshot and opens nothing", async () => {
  assert.equal(renderToString(h(Lots)), "connecting:;");
  root.render(h(Lots, { budget: 3 }));
  await gateway.sub({ data: { budget: 3 } });
  assert.equal(gateway.subscribed.length, 1);
});
