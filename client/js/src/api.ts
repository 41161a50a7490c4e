import type { Clock } from "./clock.js";
import type { GanglionError } from "./errors.js";
import type { AggregateSchema, AnySchema, Data, Event, Name, Schema, State } from "./schema.js";
import type { SocketClass } from "./socket.js";

/** How a client connects. */
export interface Options {
  /**
   * Gateways: `https://example.com`, or the whole `wss://example.com/v1/ws`.
   * Of several, each attempt takes the next. In a browser, the page's own
   * host by default.
   */
  url?: string | URL;
  urls?: readonly (string | URL)[];
  /**
   * Fetches a token: before the first connection, before the token expires,
   * and when a gateway does not take it any more. If it fails it is asked
   * again, with backoff.
   */
  token?: () => Promise<string>;
  /** The client id, for gateways in development mode, which take it on trust. */
  client?: string;
  /** The log that stored cursors belong to: `client.log` of the visit before. */
  log?: string;
  /** How many commands and reads may wait for their answers. 1,000 by default. */
  queue?: number;
  /** Closes the client. */
  signal?: AbortSignal;
  /** The WebSocket class, where there is no global one: Node before 22 takes that of the package `ws`. */
  WebSocket?: SocketClass;
  /** For tests. */
  clock?: Clock;
}

/**
 * - `connecting`: a connection is being made;
 * - `catching-up`: connected, and some subscription still gets history;
 * - `live`: connected, and every subscription has all there is;
 * - `offline`: waiting before the next attempt;
 * - `closed`: for good.
 */
export type Status = "connecting" | "catching-up" | "live" | "offline" | "closed";

/** A connection to Ganglion that comes back by itself. */
export interface Client<S extends Schema<S> = AnySchema> {
  readonly status: Status;
  /** The log's id, once known. Keep it beside stored cursors. */
  readonly log: string | undefined;
  /** One aggregate, whether it has events yet or not. */
  aggregate<T extends Name<S>>(type: T, id: string): Aggregate<S[T]>;
  /** All aggregates of a type. */
  category<T extends Name<S>>(type: T): Category<S[T]>;
  /** Every status from now on, beginning with the present one; of several that came meanwhile, the last. */
  statuses(options?: { signal?: AbortSignal }): AsyncIterable<Status>;
  on(what: "status", f: (status: Status) => void): () => void;
  /**
   * What went wrong without ending anything: a token that could not be
   * fetched, an event that came twice, a hello, a subscription or a command
   * that was refused for now. The function returned ends it. Without a
   * listener errors go to console.error, 10 a minute at most.
   */
  on(what: "error", f: (error: GanglionError) => void): () => void;
  /** Tries to connect now, or finds out whether the connection still lives. Browsers' events do this by themselves. */
  wake(): void;
  /** Closes for good. What waits for an answer is rejected with a ClosedError; subscriptions end. */
  close(): void;
  /** Resolves when the client is closed, with the reason. */
  readonly closed: Promise<GanglionError>;
}

export interface Aggregate<A extends AggregateSchema> {
  readonly type: string;
  readonly id: string;
  /**
   * Sends a command, at once or once there is a connection, until its outcome
   * is known: it happens once. Commands to one aggregate are executed in the
   * order of the calls. The promise is rejected with a RejectedError if a
   * business rule says no.
   */
  send<C extends Name<A["commands"]>>(command: C, ...data: Data<A["commands"][C], [options?: SendOptions]>): Sending;
  /** Reads the state. */
  get(options?: GetOptions): Promise<Result<A["state"]>>;
  /** Begins a subscription: an async iterable, or calls of the handlers. */
  subscribe<O extends SubscribeOptions<Event<A>, State<A>>>(options?: O): Subscription<ItemOf<A, O>>;
}

export interface Category<A extends AggregateSchema> {
  readonly type: string;
  subscribe<O extends CategoryOptions<Event<A>>>(options?: O): Subscription<ItemOf<A, O>>;
}

/** What an iterator yields: events, and what else the options asked for. */
export type ItemOf<A extends AggregateSchema, O> =
  | Event<A>
  | (O extends { state: true } ? State<A> : never)
  | (O extends { live: true } ? Live : never);

export interface SendOptions {
  /** The idempotency key: a new UUIDv7 by default. The same key again gets the first answer. */
  key?: string;
  /** The version that the aggregate must be at, else ConflictError. */
  expect?: number;
  /** How long a server may take for one attempt, in ms: 5,000 by default. */
  timeoutMs?: number;
  /** W3C traceparent. */
  trace?: string;
  /** Gives up waiting. A command that was not sent yet never will be; one that was may happen. */
  signal?: AbortSignal;
}

/** The promise of a result, and the key by which the command's events can be told: their `cause`. */
export interface Sending extends Promise<Result> {
  readonly key: string;
}

export interface Result<D = unknown> {
  readonly key: string;
  /** Of the stream, and in the log, after the command. */
  readonly version: number;
  readonly position: number;
  /** This key had been executed before, and this is its first answer. */
  readonly replayed: boolean;
  readonly data: D;
}

export interface GetOptions {
  /** A state at or past this position, such as that of a result. */
  atLeast?: number;
  /** A state that is compared with the log first: linearizable. */
  strong?: boolean;
  signal?: AbortSignal;
}

/** Where a subscription begins: now, with the first event, after a version, from a cursor on, or with the newest events. */
export type From = "now" | "start" | { after: number } | { cursor: string } | { last: number };

interface Reading<E> {
  /** Ends the subscription, like `close`. */
  signal?: AbortSignal;
  /**
   * How many events may wait for the application; past it reading pauses. 1,000 by default.
   * Each pause costs a round trip, and what was on its way is sent again: a small buffer makes a long history slow.
   */
  buffer?: number;
  /** With an iterator: yields `{ kind: "live" }` whenever all before it was history. */
  live?: boolean;
  /** Called with each event; the next waits for a promise that it returns. */
  onEvent?: (event: E) => unknown;
  /** Called whenever all before it was history, and all after it is new. */
  onLive?: () => unknown;
  /** Called once, at the end; with what went wrong, if something did. Without it errors go where the client's go. */
  onEnd?: (error: GanglionError | undefined) => unknown;
}

export interface CategoryOptions<E> extends Reading<E> {
  from?: "now" | "start" | { cursor: string };
}

export interface SubscribeOptions<E, S> extends Reading<E> {
  /** Where to begin: `"now"` by default. */
  from?: From;
  /** Begins with the state, and goes on with the events after it. Leave out `from`. */
  state?: boolean;
  onState?: (state: S) => unknown;
}

/** Marks where history ends. */
export interface Live {
  readonly kind: "live";
  readonly event?: undefined;
  readonly cursor: string;
}

/**
 * Events in order, each once, whatever happens to connections. Iterating
 * ends when it is closed, and throws what went wrong.
 */
export interface Subscription<I> extends AsyncIterable<I> {
  /** Everything up to here was handed to the application. */
  readonly cursor: string | undefined;
  /** Ends it. Leaving a `for await` does so too. */
  close(): void;
}
