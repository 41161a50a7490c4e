// Serves one client with one of three protocols: server.js PROTOCOL EVENTS EACH.
// It sends EVENTS events as fast as the client reads, EACH per message.
import { once } from "node:events";
import { WebSocketServer } from "ws";

const [protocol, events, each] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const data = (n) => ({ bidder: "ada", amount: 1000 + n, note: "x".repeat(120) });

const speak = {
  ganglion: {
    subprotocol: "ganglion.v1",
    answer(text, say) {
      for (const line of text.split("\n")) {
        const f = JSON.parse(line);
        if (f.op === "hello") {
          say(JSON.stringify({
            op: "welcome", id: f.id, session: "s", client: "ada", node: "n", server: "bench", log: "l", cursor: "0", heartbeat_ms: 25000,
            limits: { frame_bytes: 98304, open_requests: 256, subscriptions: 1000 },
          }));
          for (const s of f.subscriptions ?? []) return this.answer(JSON.stringify(s), say);
        }
        if (f.op === "subscribe") {
          say(JSON.stringify({ op: "subscribed", id: f.id, cursor: "0" }));
          this.sub = f.id;
          return true;
        }
      }
    },
    event(n) {
      return JSON.stringify({
        op: "event", sub: this.sub, stream: "auction/42", version: n, position: n, event: "bid_placed", data: data(n),
        time: "2026-11-22T12:00:00.123456Z", cause: "0198f6a1-0b1c-7def-8123-456789abcdef", by: "ada",
      });
    },
    join: (frames) => frames.join("\n"),
  },
  centrifuge: {
    answer(text, say) {
      for (const line of text.split("\n")) {
        const f = JSON.parse(line);
        if (f.connect) say(JSON.stringify({ id: f.id, connect: { client: "c", version: "6", ping: 25, pong: true } }));
        if (f.subscribe) {
          say(JSON.stringify({ id: f.id, subscribe: { recoverable: true, positioned: true, epoch: "e", offset: 0 } }));
          return true;
        }
      }
    },
    event: (n) => JSON.stringify({ push: { channel: "auction:42", pub: { data: data(n), offset: n, info: { user: "ada", client: "0198f6a1-0b1c-7def-8123-456789abcdef" } } } }),
    join: (frames) => frames.join("\n"),
  },
  stomp: {
    subprotocol: "v12.stomp",
    answer(text, say) {
      if (text.startsWith("CONNECT") || text.startsWith("STOMP")) say("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0");
      return text.startsWith("SUBSCRIBE");
    },
    event(n) {
      const body = JSON.stringify(data(n));
      return `MESSAGE\nsubscription:sub-0\nmessage-id:T_sub-0@@session-x@@${n}\ndestination:/topic/auction.42\nredelivered:false\ncontent-type:application/json\ncontent-length:${Buffer.byteLength(body)}\n\n${body}\0`;
    },
    join: (frames) => frames.join(""),
  },
}[protocol];

const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => speak.subprotocol ?? false });
await once(server, "listening");
process.stdout.write(server.address().port + "\n");
const [ws] = await once(server, "connection");
await new Promise((resolve) => ws.on("message", (text) => speak.answer(text.toString(), (f) => ws.send(f)) && resolve()));
for (let n = 1; n <= events; ) {
  const frames = [];
  while (frames.length < each && n <= events) frames.push(speak.event(n++));
  const sent = new Promise((resolve) => ws.send(speak.join(frames), resolve));
  if (ws.bufferedAmount > 1 << 20) await sent;
}
await once(ws, "close");
process.exit(0);
