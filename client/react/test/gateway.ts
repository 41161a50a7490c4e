import { once } from "node:events";
import { WebSocket, WebSocketServer } from "ws";
import { type Client, connect } from "@ganglion-es/client";

// A contract in the form that `ganglion gen ts` generates.
export interface Auctions {
  auction: { state: { bids: number }; commands: { bid: { amount: number } }; events: { bid_placed: { amount: number } } };
  $queries: { lots: { data: { budget?: number }; row: { price: number } } };
}

/** A gateway on a real socket. It answers hello, and records the other frames. */
export class Gateway {
  readonly subscribed: any[] = []; // all subscribe frames
  readonly open = new Map<string, any>(); // the subscribe frames of open subscriptions
  #socket: WebSocket | undefined;
  #changed = () => {};

  private constructor(
    private readonly server: WebSocketServer,
    readonly client: Client<Auctions>,
  ) {
    server.on("connection", (socket) => {
      this.#socket = socket;
      this.open.clear();
      socket.on("message", (message) => {
        for (const line of String(message).split("\n")) this.#receive(JSON.parse(line));
        this.#changed();
      });
    });
  }

  static async start(): Promise<Gateway> {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await once(server, "listening");
    const { port } = server.address() as { port: number };
    return new Gateway(server, connect<Auctions>({ url: `ws://127.0.0.1:${port}`, client: "ada", WebSocket }));
  }

  #receive(f: any): void {
    if (f.op === "hello") {
      this.say({
        op: "welcome", id: f.id, session: "s", client: "ada", node: "n1", server: "test", log: "log-1", cursor: "100", heartbeat_ms: 25_000,
        limits: { frame_bytes: 98_304, open_requests: 256, subscriptions: 1_000 },
      });
      f.subscriptions?.forEach((s: any) => this.#receive(s));
    } else if (f.op === "subscribe") {
      this.subscribed.push(f);
      this.open.set(f.id, f);
      this.say({ op: "subscribed", id: f.id, cursor: "100" });
    } else if (f.op === "unsubscribe") {
      this.open.delete(f.sub);
      this.say({ op: "unsubscribed", id: f.id, sub: f.sub });
    }
  }

  say(...frames: object[]): void {
    this.#socket!.send(frames.map((f) => JSON.stringify(f)).join("\n"));
  }

  cut(): void {
    this.open.clear();
    this.#socket!.terminate();
  }

  /** Returns the id of the only open subscription, once its frame has these members. */
  async sub(members: object = {}): Promise<string> {
    const found = () => [...this.open.values()].filter((f) => Object.entries(members).every(([k, v]) => JSON.stringify(f[k]) === JSON.stringify(v)));
    await this.until(() => this.open.size === 1 && found().length === 1, () => `one subscription with ${JSON.stringify(members)}, not ${JSON.stringify([...this.open.values()])}`);
    return found()[0].id;
  }

  async until(done: () => boolean, what: () => string): Promise<void> {
    for (const end = Date.now() + 15_000; !done(); ) {
      if (Date.now() > end) throw new Error(`no ${what()} within 15 s`);
      await new Promise<void>((resolve) => {
        const late = setTimeout(resolve, 15_000);
        this.#changed = () => (clearTimeout(late), resolve());
      });
    }
  }

  stop(): void {
    this.client.close();
    this.server.close();
  }
}

export const row = (key: string, price: number) => ({ key, rank: String(price).padStart(6, "0"), position: price, data: { price } });
