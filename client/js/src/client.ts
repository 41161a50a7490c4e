import type { Aggregate, Category, CategoryOptions, Client, GetOptions, Options, SendOptions, Sending, Status, SubscribeOptions } from "./api.js";
import { realClock, uuidv7 } from "./clock.js";
import { Connection } from "./connection.js";
import { errorOf, type GanglionError } from "./errors.js";
import { exact, type Start } from "./frames.js";
import { Requests } from "./requests.js";
import type { AnySchema, Schema } from "./schema.js";
import type { SocketClass } from "./socket.js";
import { Subscriptions } from "./subscriptions.js";

/** What console.error gets of errors that no listener hears, at most. */
const linesPerMinute = 10;

/** Opens a client. It connects at once, and again whenever it has to. */
export function connect<S extends Schema<S> = AnySchema>(options: Options = {}): Client<S> {
  const clock = options.clock ?? realClock;
  const socketClass = options.WebSocket ?? (globalThis.WebSocket as SocketClass | undefined);
  if (!socketClass) {
    throw new TypeError('there is no global WebSocket: install the package ws, and connect({ WebSocket: (await import("ws")).WebSocket, … })');
  }
  const most = options.queue ?? 1_000;
  if (!(most > 0)) throw new TypeError("the option queue must be above 0");
  if (options.token && options.client !== undefined) throw new TypeError("give a token or a client id, not both: the token names the client");

  const listeners = { status: new Set<(s: Status) => void>(), error: new Set<(e: GanglionError) => void>() };
  let lines = 0;
  let minute = 0;
  const report = (error: GanglionError) => {
    const now = Math.floor(clock.now() / 60_000);
    if (now !== minute) (minute = now), (lines = 0);
    if (listeners.error.size === 0 && lines++ < linesPerMinute) console.error("ganglion:", error);
    for (const f of [...listeners.error]) f(error);
  };
  let resolveClosed!: (error: GanglionError) => void;
  const closed = new Promise<GanglionError>((resolve) => (resolveClosed = resolve));

  const connection = new Connection(options, addresses(options), socketClass, clock, {
    hello: () => subscriptions.hello(),
    opened() {
      subscriptions.opened();
      requests.opened();
    },
    frame(f) {
      const id = "id" in f ? f.id : undefined;
      if ((f.op === "result" || f.op === "error") && id !== undefined && requests.answer(f)) return;
      if (!subscriptions.frame(f) && f.op === "error") report(errorOf(f));
    },
    otherLog: (log) => subscriptions.otherLog(log),
    lost() {
      subscriptions.lost();
      requests.lost();
    },
    behind: () => subscriptions.behind,
    status(status) {
      for (const f of [...listeners.status]) f(status);
    },
    report,
    closed(error) {
      unwatch();
      requests.closed(error);
      subscriptions.closed(error.code === "closed" ? undefined : error); // else the application wanted it
      resolveClosed(error);
    },
  });
  const requests = new Requests(connection, clock, most, report);
  const subscriptions = new Subscriptions(connection, clock, report);

  const wake = () => connection.wake();
  const unwatch = watchOutside(wake);
  const close = () => connection.close(errorOf({ code: "closed", message: "the client was closed" }));
  const { signal } = options;
  if (signal?.aborted) close();
  else {
    signal?.addEventListener("abort", close, { once: true });
    void connection.dial();
  }

  return {
    get status() {
      return connection.status;
    },
    get log() {
      return connection.log;
    },
    closed,
    close,
    wake,
    on(what: "status" | "error", f: (x: any) => void) {
      listeners[what].add(f);
      return () => void listeners[what].delete(f);
    },
    statuses: ({ signal } = {}) => statuses(connection, listeners.status, signal),
    aggregate(type: string, id: string): Aggregate<any> {
      const stream = `${type}/${id}`;
      return {
        type,
        id,
        send(command: string, data: unknown = {}, options: SendOptions = {}): Sending {
          const key = options.key ?? uuidv7(clock.now());
          const frame = {
            op: "command", id: connection.id(), aggregate: stream, command, data, key,
            expect: options.expect, timeout_ms: options.timeoutMs, trace: options.trace,
          };
          return Object.assign(requests.send(stream, frame, options.signal), { key });
        },
        get({ atLeast, strong, signal }: GetOptions = {}): Promise<any> {
          const id = connection.id();
          return requests.send(id, { op: "get", id, aggregate: stream, at_least: atLeast, strong } as { id: string }, signal);
        },
        subscribe: (options: SubscribeOptions<any, any> = {}) => subscriptions.add({ stream }, startOf(options, { after: 0 }), options),
      };
    },
    category(type: string): Category<any> {
      return {
        type,
        subscribe: (options: CategoryOptions<any> = {}) => subscriptions.add({ category: type }, startOf(options, { cursor: "0" }), options),
      };
    },
  } as Client<S>;
}

/** Where a subscription begins, on the wire. */
function startOf({ from = "now", state }: SubscribeOptions<any, any>, first: Start): Start {
  if (state) {
    if (from !== "now") throw new TypeError("a subscription begins with the state or from somewhere, not both");
    return { state: true };
  }
  JSON.stringify(from, exact);
  return from === "now" ? {} : from === "start" ? first : { ...from };
}

/** The WebSocket URLs of the gateways. */
function addresses({ url, urls }: Options): string[] {
  const page = (globalThis as { location?: { href: string } }).location?.href;
  const given = urls ?? (url !== undefined ? [url] : page ? [page] : []);
  if (given.length === 0) throw new TypeError("url is missing: connect({ url: … })");
  return given.map((one) => {
    const u = new URL(one, page);
    u.protocol = u.protocol.replace("http", "ws");
    if (url === undefined && urls === undefined) u.pathname = "/", u.search = "";
    if (u.pathname === "/") u.pathname = "/v1/ws";
    u.hash = ""; // which a WebSocket refuses
    return u.href;
  });
}

/** Calls f when the network or the tab comes or goes, where there are such things. */
function watchOutside(f: () => void): () => void {
  const page = globalThis as Partial<EventTarget> & { document?: Document };
  const visible = () => page.document!.visibilityState === "visible" && f();
  const watched: [Partial<EventTarget> | undefined, string, () => void][] = [
    [page, "online", f],
    [page, "offline", f],
    [page, "pageshow", f],
    [page.document, "visibilitychange", visible],
    [page.document, "resume", f],
  ];
  for (const [target, name, g] of watched) target?.addEventListener?.(name, g);
  return () => {
    for (const [target, name, g] of watched) target?.removeEventListener?.(name, g);
  };
}

async function* statuses(connection: Connection, listeners: Set<(s: Status) => void>, signal?: AbortSignal): AsyncGenerator<Status> {
  let wake = () => {};
  const changed = () => wake();
  listeners.add(changed);
  signal?.addEventListener("abort", changed);
  try {
    for (let last: Status | undefined; !signal?.aborted && last !== "closed"; ) {
      if (connection.status !== last) {
        last = connection.status;
        yield last;
      } else {
        await new Promise<void>((resolve) => (wake = resolve));
      }
    }
  } finally {
    listeners.delete(changed);
    signal?.removeEventListener("abort", changed);
  }
}
