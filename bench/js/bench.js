// Measures the cost of clients: the bytes that a browser loads, and the processor
// time in Node that turns 10,000 events into objects. Our client, client/go and
// the rivals take turns, each with a server process that speaks its protocol.
// EVENTS and ROUNDS set the length of a run.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { Client } from "@stomp/stompjs";
import { Centrifuge } from "centrifuge";
import { build } from "esbuild";
import { WebSocket } from "ws";
import { connect } from "../../client/js/dist/index.js";

const events = Number(process.env.EVENTS ?? 100_000);
const rounds = Number(process.env.ROUNDS ?? 7);
const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Each calls f with the data of every event, and returns a function that stops it. */
const clients = {
  ganglion(port, f) {
    const client = connect({ url: `ws://127.0.0.1:${port}`, client: "ada", WebSocket });
    client.aggregate("auction", "42").subscribe({ from: "start", onEvent: (e) => f(e.data) });
    return () => client.close();
  },
  "ganglion, for await": (port, f) => {
    const client = connect({ url: `ws://127.0.0.1:${port}`, client: "ada", WebSocket });
    void (async () => {
      for await (const e of client.aggregate("auction", "42").subscribe({ from: "start" })) f(e.data);
    })();
    return () => client.close();
  },
  centrifuge(port, f) {
    const client = new Centrifuge(`ws://127.0.0.1:${port}`, { websocket: WebSocket });
    const sub = client.newSubscription("auction:42");
    sub.on("publication", (c) => f(c.data));
    sub.subscribe();
    client.connect();
    return () => client.disconnect();
  },
  stompjs(port, f) {
    const client = new Client({ webSocketFactory: () => new WebSocket(`ws://127.0.0.1:${port}`, "v12.stomp"), heartbeatIncoming: 0, heartbeatOutgoing: 0, reconnectDelay: 0 });
    client.onConnect = () => client.subscribe("/topic/auction.42", (m) => f(JSON.parse(m.body)));
    client.activate();
    return () => client.deactivate({ force: true });
  },
};
const protocols = { ganglion: "ganglion", "ganglion, for await": "ganglion", "client/go": "ganglion", centrifuge: "centrifuge", stompjs: "stomp" };

const inGo = join(mkdtempSync(join(tmpdir(), "ganglion-bench-")), "bench");
execFileSync("go", ["build", "-o", inGo, "./client"], { cwd: here(".."), stdio: "inherit", env: { ...process.env, GOWORK: "off" } });

/** The sum of the amounts of all events. */
const total = events * 1000 + (events * (events + 1)) / 2;

/** Returns milliseconds of processor time per 10,000 events. */
async function run(name, each) {
  const server = spawn(process.execPath, [here("server.js"), protocols[name], events, each], { stdio: ["ignore", "pipe", "inherit"] });
  const [port] = await once(createInterface({ input: server.stdout }), "line");
  if (name === "client/go") {
    const client = spawn(inGo, [`ws://127.0.0.1:${port}`, events], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await once(createInterface({ input: client.stdout }), "line");
    const [us, sum] = line.split(" ").map(Number);
    if (sum !== total) throw new Error(`${name} received other events than the server sent`);
    await once(server, "exit");
    return us / 1000 / (events / 10_000);
  }
  let got = 0;
  let sum = 0;
  let begun;
  const done = {};
  done.promise = new Promise((resolve) => (done.resolve = resolve));
  const stop = clients[name](port, (data) => {
    if (got++ === 0) begun = process.cpuUsage();
    sum += data.amount;
    if (got === events) done.resolve(process.cpuUsage(begun));
  });
  const { user, system } = await done.promise;
  if (sum !== total) throw new Error(`${name} received other events than the server sent`);
  stop();
  await once(server, "exit");
  return (user + system) / 1000 / (events / 10_000);
}

const median = (xs) => xs.toSorted((a, b) => a - b)[xs.length >> 1];

/** Returns the size of a bundle of the given module, minified and compressed. */
async function size(module) {
  const { outputFiles } = await build({ stdin: { contents: module, resolveDir: here(".") }, bundle: true, minify: true, format: "esm", write: false, platform: "browser" });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

console.log(`Node ${process.version}, ${cpus().length} processors, ${events} events, ${rounds} rounds\n`);
console.log("| | bytes, minified and gzip | ms per 10,000 events, one per message | times | 50 per message | times |");
console.log("| --- | ---: | ---: | ---: | ---: | ---: |");
const names = [...Object.keys(clients), "client/go"];
const times = Object.fromEntries(names.map((n) => [n, { 1: [], 50: [] }]));
for (let round = -1; round < rounds; round++) {
  for (const each of [1, 50]) {
    for (const name of names) {
      const ms = await run(name, each);
      if (round >= 0) times[name][each].push(ms); // the first round only warms up the compiler
    }
  }
}
const sizes = {
  ganglion: await size('export { connect } from "../../client/js/dist/index.js"'),
  centrifuge: await size('export { Centrifuge } from "centrifuge"'),
  stompjs: await size('export { Client } from "@stomp/stompjs"'),
};
for (const name of names) {
  const cells = [1, 50].flatMap((each) => {
    const ratio = median(times[name][each].map((ms, i) => ms / times.ganglion[each][i])); // compared round by round
    return [median(times[name][each]).toFixed(0), ratio.toFixed(2)];
  });
  console.log(`| ${name} | ${sizes[name] ?? ""} | ${cells.join(" | ")} |`);
}
rmSync(dirname(inGo), { recursive: true });
