// Scenarios for the STOMP clients of npm, in Node and in a browser.
import { RxStomp, RxStompState } from "@stomp/rx-stomp";
import { Client, Versions } from "@stomp/stompjs";
import { filter, firstValueFrom, take, toArray } from "rxjs";
import webstomp from "webstomp-client";

// patience bounds the wait for each message, also on a busy machine.
const patience = 60_000;

// run plays the scenarios against a server, and returns one line for each failure.
export async function run(server) {
  const failures = [];
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await scenario(server);
    } catch (error) {
      failures.push(`${name}: ${error.stack ?? error}`);
    }
  }
  return failures;
}

const scenarios = {
  async "stompjs sends and receives in each version"(server) {
    for (const version of ["1.0", "1.1", "1.2"]) {
      const client = await connect(server, { stompVersions: new Versions([version]) });
      equal(client.connectedVersion, version);
      const topic = newTopic();
      const { next } = await subscribe(client, topic);
      client.publish({ destination: topic, body: '{"a":"ä"}', headers: { own: "x", "content-type": "application/json" } });
      const message = await next();
      equal(message.body, '{"a":"ä"}');
      equal(message.headers.destination, topic);
      equal(message.headers.own, "x");
      equal(message.headers["content-type"], "application/json");
      await client.deactivate();
    }
  },

  async "stompjs unsubscribes"(server) {
    const client = await connect(server);
    const [topic, other] = [newTopic(), newTopic()];
    const { subscription, next } = await subscribe(client, topic);
    client.publish({ destination: topic, body: "1" });
    equal((await next()).body, "1");
    await receipt(client, (headers) => subscription.unsubscribe(headers));
    const { next: nextOther } = await subscribe(client, other);
    client.publish({ destination: topic, body: "2" });
    client.publish({ destination: other, body: "3" });
    equal((await nextOther()).body, "3");
    equal(next.waiting(), 0);
    await client.deactivate();
  },

  async "stompjs gets receipts"(server) {
    const client = await connect(server);
    await receipt(client, (headers) => client.publish({ destination: newTopic(), body: "x", headers }));
    await receipt(client, (headers) => client.subscribe(newTopic(), () => {}, headers));
    await client.deactivate();
  },

  async "stompjs acknowledges messages one by one"(server) {
    const client = await connect(server);
    const topic = newTopic();
    const { next } = await subscribe(client, topic, { ack: "client-individual", "prefetch-count": "1" });
    for (const body of ["1", "2", "3"]) client.publish({ destination: topic, body });
    let message = await next();
    equal(message.body, "1");
    message.nack();
    message = await next();
    equal(message.body, "1");
    equal(message.headers.redelivered, "true");
    for (const body of ["2", "3"]) {
      message.ack();
      message = await next();
      equal(message.body, body);
    }
    await client.deactivate();
  },

  async "stompjs commits and aborts transactions"(server) {
    const client = await connect(server);
    const topic = newTopic();
    const { next } = await subscribe(client, topic);
    const [kept, dropped] = [client.begin(), client.begin()];
    client.publish({ destination: topic, body: "dropped", headers: { transaction: dropped.id } });
    client.publish({ destination: topic, body: "kept", headers: { transaction: kept.id } });
    client.publish({ destination: topic, body: "outside" });
    equal((await next()).body, "outside");
    dropped.abort();
    kept.commit();
    equal((await next()).body, "kept");
    client.publish({ destination: topic, body: "last" });
    equal((await next()).body, "last");
    await client.deactivate();
  },

  async "stompjs sends and receives bytes"(server) {
    const client = await connect(server);
    const topic = newTopic();
    const { next } = await subscribe(client, topic);
    const binaryBody = Uint8Array.from({ length: 1024 }, (_, i) => i % 256);
    client.publish({ destination: topic, binaryBody, headers: { "content-type": "application/octet-stream" } });
    equal(String((await next()).binaryBody), String(binaryBody));
    await client.deactivate();
  },

  async "stompjs splits large frames, and sends binary messages"(server) {
    for (const options of [{ splitLargeFrames: true }, { splitLargeFrames: true, maxWebSocketChunkSize: 100 }, { forceBinaryWSFrames: true }]) {
      const client = await connect(server, options);
      const topic = newTopic();
      const { next } = await subscribe(client, topic);
      const body = "größer ".repeat(6000);
      client.publish({ destination: topic, body });
      client.publish({ destination: topic, body: "small" });
      equal((await next()).body, body);
      equal((await next()).body, "small");
      await client.deactivate();
    }
  },

  async "stompjs gets heart-beats"(server) {
    const next = queue();
    const client = await connect(server, {
      heartbeatIncoming: 1000,
      heartbeatOutgoing: 1000,
      debug: (line) => line === "<<< PONG" && next.add(line),
    });
    for (let i = 0; i < 2; i++) await next();
    equal(client.connected, true);
    await client.deactivate();
  },

  async "stompjs reports an error of the server"(server) {
    const client = await connect(server);
    const error = promise((resolve) => (client.onStompError = resolve));
    client.publish({ destination: "/nowhere/x", body: "x" });
    equal((await error).command, "ERROR");
    await client.deactivate();
  },

  async "rx-stomp watches a topic"(server) {
    const rx = new RxStomp();
    rx.configure({ ...options(server), brokerURL: server.url });
    rx.activate();
    const topic = newTopic();
    const subscribed = newReceipt();
    const received = firstValueFrom(rx.watch(topic, { receipt: subscribed }).pipe(take(2), toArray()));
    await inTime(rx.asyncReceipt(subscribed));
    rx.publish({ destination: topic, body: "1" });
    rx.publish({ destination: topic, body: "2" });
    equal((await inTime(received)).map((m) => m.body).join(), "1,2");
    await rx.deactivate();
    await inTime(firstValueFrom(rx.connectionState$.pipe(filter((s) => s === RxStompState.CLOSED))));
  },

  async "webstomp-client sends and receives"(server) {
    const socket = new WebSocket(server.url, ["v12.stomp", "v11.stomp", "v10.stomp"]);
    const client = webstomp.over(socket, { debug: false, heartbeat: false });
    await promise((resolve, reject) => client.connect({ login: server.login, passcode: server.passcode }, resolve, reject));
    const topic = newTopic();
    const next = queue();
    const subscribed = promise((resolve) => (client.onreceipt = resolve));
    const subscription = client.subscribe(topic, next.add, { ack: "client", receipt: newReceipt() });
    await subscribed;
    const body = "a long text ".repeat(4000); // in several messages of the WebSocket
    client.send(topic, body, { own: "x" });
    const message = await next();
    equal(message.body, body);
    equal(message.headers.own, "x");
    message.ack();
    const transaction = client.begin();
    client.send(topic, "in the transaction", { transaction: transaction.id });
    transaction.commit();
    equal((await next()).body, "in the transaction");
    subscription.unsubscribe();
    await promise((resolve) => {
      socket.addEventListener("close", resolve);
      client.disconnect(() => {});
    });
  },
};

const options = (server) => ({
  connectHeaders: { login: server.login, passcode: server.passcode },
  reconnectDelay: 0,
  heartbeatIncoming: 0,
  heartbeatOutgoing: 0,
});

// connect returns a connected client.
async function connect(server, more = {}) {
  const client = new Client({ brokerURL: server.url, ...options(server), ...more });
  await promise((resolve, reject) => {
    client.onConnect = resolve;
    client.onStompError = (frame) => reject(new Error(`${frame.headers.message}: ${frame.body}`));
    client.onWebSocketClose = (event) => reject(new Error(`the connection ended: ${event.code} ${event.reason}`));
    client.activate();
  });
  return client;
}

// subscribe returns a subscription, once the server has it, and its queue.
async function subscribe(client, topic, headers = {}) {
  const next = queue();
  let subscription;
  await receipt(client, (receipt) => (subscription = client.subscribe(topic, next.add, { ...headers, ...receipt })));
  return { subscription, next };
}

// receipt calls send with the header for a receipt, and waits for the receipt.
function receipt(client, send) {
  const id = newReceipt();
  return promise((resolve) => {
    client.watchForReceipt(id, resolve);
    send({ receipt: id });
  });
}

// queue returns a function that waits for the next item that was added.
function queue() {
  const items = [];
  let wake = () => {};
  const next = async () => {
    if (items.length === 0) await promise((resolve) => (wake = resolve));
    return items.shift();
  };
  next.add = (item) => {
    items.push(item);
    wake();
  };
  next.waiting = () => items.length;
  return next;
}

const promise = (f) => inTime(new Promise(f));

// inTime rejects a promise that takes too long. The error shows who waited.
function inTime(promise) {
  const late = new Error(`nothing after ${patience} ms`);
  let timer;
  const limit = new Promise((_, reject) => (timer = setTimeout(reject, patience, late)));
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

function equal(got, want) {
  if (got !== want) throw new Error(`got ${JSON.stringify(got)?.slice(0, 200)}, want ${JSON.stringify(want)?.slice(0, 200)}`);
}

let receipts = 0;
const newReceipt = () => `receipt-${++receipts}`;
const newTopic = () => `/topic/t${crypto.randomUUID().replaceAll("-", "")}`;
