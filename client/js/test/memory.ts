import { type Client, connect, type GanglionError, type Options } from "../src/index.js";
import { FakeClock, idle } from "./fakes.js";

/** A socket without a network. It records the client's frames, and delivers frames to the client immediately. */
export class MemorySocket {
  static all: MemorySocket[] = [];

  onopen: ((e: any) => void) | null = null;
  onmessage: ((e: any) => void) | null = null;
  onclose: ((e: any) => void) | null = null;
  onerror: ((e: any) => void) | null = null;
  closed: number | undefined;
  readonly received: any[] = [];
  readonly messages: string[] = [];

  constructor(readonly url: string, readonly protocols?: string | string[]) {
    MemorySocket.all.push(this);
  }

  static get last(): MemorySocket {
    return this.all.at(-1)!;
  }

  send(text: string): void {
    this.messages.push(text);
    for (const line of text.split("\n")) this.received.push(JSON.parse(line));
  }

  close(code = 1005): void {
    this.closed = code;
  }

  deliver(...frames: object[]): void {
    this.onmessage?.({ data: frames.map((f) => JSON.stringify(f)).join("\n") });
  }

  async welcome(limits: object = {}): Promise<void> {
    this.onopen!({});
    await idle();
    this.deliver({
      op: "welcome", id: this.received[0].id, session: "s", client: "ada", node: "n1", server: "test", log: "log-1", cursor: "100", heartbeat_ms: 25_000,
      limits: { frame_bytes: 98_304, open_requests: 256, subscriptions: 1_000, ...limits },
    });
    await idle();
  }
}

export interface Opened {
  client: Client;
  clock: FakeClock;
  socket: MemorySocket;
  errors: GanglionError[];
}

/** Opens a client and welcomes it. */
export async function welcomed(options: Options = {}, limits: object = {}): Promise<Opened> {
  const clock = new FakeClock();
  const client = connect({ url: "ws://gateway", client: "ada", clock, WebSocket: MemorySocket, ...options });
  const errors: GanglionError[] = [];
  client.on("error", (e) => errors.push(e));
  await idle();
  const socket = MemorySocket.last;
  await socket.welcome(limits);
  return { client, clock, socket, errors };
}
