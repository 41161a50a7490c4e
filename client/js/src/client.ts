import type { Aggregate, Category, CategoryOptions, Client, ConsumeOptions, GetOptions, HandleOptions, LiveOptions, Options, Page, QueryOptions, SendOptions, Sending, Status, SubscribeOptions } from "./api.js";
import { realClock, uuidv7 } from "./clock.js";
import { Connection } from "./connection.js";
import { Consumer } from "./consumer.js";
import { errorOf, type GanglionError, RejectedError } from "./errors.js";
import { Follower } from "./follower.js";
import { exact, type Start, type Topic } from "./frames.js";
import { Handling } from "./handling.js";
import { QueryStore, StateStore } from "./live.js";
import { Requests } from "./requests.js";
import type { AnySchema, Schema } from "./schema.js";
import type { SocketClass } from "./socket.js";
import { Subscriptions } from "./subscriptions.js";

/** Bounds the lines on console.error for errors without a listener. */
const maxLinesPerMinute = 10;

/** Opens a client. It connects immediately and reconnects automatically. */
export function connect<S extends Schema<S> = AnySchema>(options: Options = {}): Client<S> {
  const clock = options.clock ?? realClock;
  const socketClass = options.WebSocket ?? (globalThis.WebSocket as SocketClass | undefined);
  if (!socketClass) {
    throw new TypeError('no global WebSocket: install the package ws, and connect({ WebSocket: (await import("ws")).WebSocket, … })');
  }
  const queueLimit = options.queue ?? 1_000;
  if (!(queueLimit > 0)) throw new TypeError(`queue is ${queueLimit}: it must be positive`);
  if (options.token && options.client !== undefined) throw new TypeError("set token or client, not both: a token names its client");

  const listeners = { status: new Set<(s: Status) => void>(), error: new Set<(e: GanglionError) => void>() };
  let lines = 0;
  let minute = 0;
  const report = (error: GanglionError) => {
    const now = Math.floor(clock.now() / 60_000);
    if (now !== minute) (minute = now), (lines = 0);
    if (listeners.error.size === 0 && lines++ < maxLinesPerMinute) console.error("ganglion:", error);
    for (const f of [...listeners.error]) f(error);
  };
  let resolveClosed!: (error: GanglionError) => void;
  const closed = new Promise<GanglionError>((resolve) => (resolveClosed = resolve));

  const connection = new Connection(options, addresses(options), socketClass, clock, {
    hello: () => subscriptions.hello(),
    onWelcome() {
      subscriptions.onWelcome();
      requests.onWelcome();
    },
    onFrame(f) {
      const id = "id" in f ? f.id : undefined;
      if ((f.op === "result" || f.op === "error") && id !== undefined && requests.onAnswer(f)) return;
      if (!subscriptions.onFrame(f) && f.op === "error") report(errorOf(f));
    },
    onOtherLog: (log) => subscriptions.onOtherLog(log),
    onDisconnect() {
      subscriptions.onDisconnect();
      requests.onDisconnect();
    },
    isCatchingUp: () => subscriptions.isCatchingUp,
    onStatus(status) {
      for (const f of [...listeners.status]) f(status);
    },
    report,
    onClosed(error) {
      unwatch();
      requests.onClosed(error);
      subscriptions.onClosed(error.code === "closed" ? undefined : error); // without an error if the application closed it
      resolveClosed(error);
    },
  });
  const requests = new Requests(connection, clock, queueLimit, report);
  const subscriptions = new Subscriptions(connection, clock, report);

  const follow = (topic: Topic, start: Start, options: SubscribeOptions<any, any>) =>
    subscriptions.add(new Follower(subscriptions, topic, start, options), options.signal);

  const consume = (group: string, options: ConsumeOptions, isHandler = false) =>
    subscriptions.add(new Consumer(subscriptions, group, options, isHandler), options.signal);
  const handle = async (group: string, handler: (event: any) => unknown, { signal, concurrency = 16, ...options }: HandleOptions = {}) => {
    if (!(concurrency > 0)) throw new TypeError(`concurrency is ${concurrency}: it must be positive`);
    if (!signal?.aborted) await new Handling(consume(group, options, true), handler, concurrency, signal).ended;
  };

  const wake = () => connection.wake();
  const unwatch = watchBrowser(wake);
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
    aggregate(type: string, id?: string): Aggregate<any> {
      const stream = id === undefined ? type : `${type}/${id}`;
      const slash = stream.indexOf("/");
      if (slash < 0) throw new TypeError(`aggregate is ${JSON.stringify(stream)}: pass a type and an id, or both as "type/id"`);
      return {
        type: stream.slice(0, slash),
        id: stream.slice(slash + 1),
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
        live: ({ signal } = {}) => subscriptions.add(new StateStore(subscriptions, stream, signal), signal),
        rejected: (e): e is RejectedError<any> => e instanceof RejectedError,
        subscribe: (options: SubscribeOptions<any, any> = {}) => follow({ stream }, startOf(options, { after: 0 }), options),
      };
    },
    category(type: string): Category<any> {
      return {
        type,
        subscribe: (options: CategoryOptions<any> = {}) => follow({ category: type }, startOf(options, { cursor: "0" }), options),
      };
    },
    async query(query: string, data: unknown = {}, { atLeast, after, timeoutMs, signal }: QueryOptions = {}): Promise<any> {
      const id = connection.id();
      const frame = { op: "query", id, query, data, at_least: atLeast, after, timeout_ms: timeoutMs };
      const { position, data: page } = await requests.send(id, frame, signal);
      // Code answers with any JSON; else the data is a page.
      const { rows, next, blocked = 0 } = (page ?? {}) as Page<any>;
      return { rows: Object.freeze(rows), next, position, blocked, answer: page };
    },
    live: (query: string, data: unknown = {}, options: LiveOptions = {}) =>
      subscriptions.add(new QueryStore(subscriptions, query, data, options), options.signal),
    consume: (group: string, options: ConsumeOptions = {}) => consume(group, options),
    handle,
  } as Client<S>;
}

/** Returns where a subscription begins, as the members of its frame. */
function startOf({ from = "now", state }: SubscribeOptions<any, any>, first: Start): Start {
  if (state === true) {
    if (from !== "now") throw new TypeError("set state or from, not both");
    return { state };
  }
  JSON.stringify(from, exact);
  return { ...(from === "start" ? first : from !== "now" && from), ...(state && { state }) };
}

/** Returns the WebSocket URLs of the gateways. */
function addresses({ url, urls }: Options): string[] {
  const page = (globalThis as { location?: { href: string } }).location?.href;
  const given = urls ?? (url !== undefined ? [url] : page ? [page] : []);
  if (given.length === 0) throw new TypeError("url is missing: connect({ url: … })");
  return given.map((one) => {
    const u = new URL(one, page);
    u.protocol = u.protocol.replace("http", "ws");
    if (url === undefined && urls === undefined) u.pathname = "/", u.search = "";
    if (u.pathname === "/") u.pathname = "/v1/ws";
    u.hash = ""; // a WebSocket refuses fragments
    return u.href;
  });
}

/** In browsers, calls f when the network changes or the tab wakes up. The returned function stops that. */
function watchBrowser(f: () => void): () => void {
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
