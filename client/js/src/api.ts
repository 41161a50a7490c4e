import type { Clock } from "./clock.js";
import type { GanglionError } from "./errors.js";
import type { RejectedError } from "./errors.js";
import type { AggregateSchema, AnySchema, Data, Event, GroupData, Name, LiveName, QueryData, QueryName, QueryResult, QueryRow, Reason, Schema, State, TypeName } from "./schema.js";
import type { SocketClass } from "./socket.js";

/** The options of a client. */
export interface Options {
  /**
   * The addresses of gateways: `https://example.com`, or in full
   * `wss://example.com/v1/ws`. Each attempt uses the next one. In a browser
   * the default is the page's own host.
   */
  url?: string | URL;
  urls?: readonly (string | URL)[];
  /**
   * Fetches a token. The client calls it before the first connection, before
   * the token expires, and when a gateway no longer accepts it. If it fails,
   * the client calls it again, with backoff.
   */
  token?: () => Promise<string>;
  /** The client id, for gateways in development mode, which trust it. */
  client?: string;
  /** The id of the log that stored cursors belong to: `client.log` of the previous visit. */
  log?: string;
  /** The maximum number of pending commands and reads, 1,000 by default. */
  queue?: number;
  /** Closes the client. */
  signal?: AbortSignal;
  /** The WebSocket class, if there is no global one. Node before 22 needs the package `ws`. */
  WebSocket?: SocketClass;
  /** A clock and random numbers for tests. */
  clock?: Clock;
}

/**
 * - `connecting`: making a connection;
 * - `catching-up`: connected, and a subscription still gets history;
 * - `live`: connected, and every subscription is live;
 * - `offline`: waiting before the next attempt;
 * - `closed`: permanently.
 */
export type Status = "connecting" | "catching-up" | "live" | "offline" | "closed";

/** A connection to Ganglion that reconnects automatically. */
export interface Client<S extends Schema<S> = AnySchema> {
  readonly status: Status;
  /** The log's id, or undefined until it is known. Store it with cursors. */
  readonly log: string | undefined;
  /** Returns one aggregate, which need not have events yet: by type and id, or by stream, such as `auction/42`. */
  aggregate<T extends TypeName<S>>(type: T, id: string): Aggregate<S[T]>;
  aggregate<T extends TypeName<S>>(stream: `${T}/${string}`): Aggregate<S[T]>;
  /** Returns all aggregates of a type. */
  category<T extends TypeName<S>>(type: T): Category<S[T]>;
  /**
   * Runs a query. It waits for a connection, and is repeated until it is
   * answered. The promise is rejected with `unavailable` if the rows do not
   * reach `atLeast` in time.
   */
  query<Q extends QueryName<S>>(name: Q, ...data: Data<QueryData<S, Q>, [options?: QueryOptions]>): Promise<QueryResult<S, Q>>;
  /** Runs a query and keeps its result current, across reconnects to any gateway. */
  live<Q extends LiveName<S>>(name: Q, ...data: Data<QueryData<S, Q>, [options?: LiveOptions]>): LiveQuery<QueryRow<S, Q>>;
  /**
   * Makes this process a member of a consumer group. Iterating yields the events
   * of the segments that the server assigns to it, in order per stream, at least
   * once, each with `ack()` and `park(reason)`. The member keeps its segments as
   * long as the loop receives or acknowledges events. Iterating throws the error
   * that ended it, such as `replaced`: a newer member with the same name.
   */
  consume(group: string, options?: ConsumeOptions): Consumption<S>;
  /**
   * Makes this process a member of a consumer group, and calls the handler for
   * each event, at least once. The event is acknowledged when the handler
   * returns or its promise resolves. Events of a stream are handled in order,
   * those of different streams concurrently.
   *
   * If the handler throws, it is called again after a pause of up to 2 s,
   * doubling to 1 min; meanwhile events of other streams are handled. After 5
   * failures the event's stream is parked, if a call for another stream
   * succeeded that began after the first failure: so a mail server that is down
   * parks nothing. Throwing a `Park` parks it immediately. Each failure is
   * reported to the error listeners, with the code `handler`.
   *
   * The promise resolves when the option `signal` has ended it and every call
   * has returned, and is rejected with the error that ended it.
   */
  handle(group: string, handler: (event: GroupEvent<S>) => unknown, options?: HandleOptions): Promise<void>;
  /** Yields the current status and then each change. If the status changes several times during an iteration, it yields only the last. */
  statuses(options?: { signal?: AbortSignal }): AsyncIterable<Status>;
  on(what: "status", f: (status: Status) => void): () => void;
  /**
   * Reports errors after which the client continues: a token that could not be
   * fetched, a repeated event, or a hello, a subscription or a command that was
   * refused and will be sent again. The returned function removes the listener.
   * Without a listener, errors go to console.error, 10 a minute at most.
   */
  on(what: "error", f: (error: GanglionError) => void): () => void;
  /** Connects immediately, or checks whether the connection is alive. In browsers, events of the network and of the tab call it. */
  wake(): void;
  /** Closes the client permanently. Pending requests are rejected with a ClosedError, and subscriptions end. */
  close(): void;
  /** Resolves when the client is closed, with the reason. */
  readonly closed: Promise<GanglionError>;
}

export interface ConsumeOptions {
  /** Names this process among the members of the group with the same client id: 1 to 64 printable ASCII characters. A newer member of the same name replaces an older one. The default is the same for all calls of the process. */
  member?: string;
  /** Bounds the events of each segment that are delivered and not acknowledged: 1 to 1,000, by default 100. */
  window?: number;
  /** Leaves the group. */
  signal?: AbortSignal;
}

export interface HandleOptions extends ConsumeOptions {
  /** Bounds the concurrent calls of the handler, 16 by default. */
  concurrency?: number;
}

/**
 * An event of a consumer group. For an effect that must happen once, store
 * `log`, `stream` and `version` with the effect, in one transaction, and skip an
 * event whose version is not higher.
 */
export type GroupEvent<S extends Schema<S> = AnySchema> = GroupData<S> & {
  readonly group: string;
  /** The id of the log. Versions of another log are those of other events. */
  readonly log: string;
  /** Counts the calls of the handler for this event in this process, from 1. It is 0 for `consume`. */
  readonly attempt: number;
  /** Aborted when the event's segment is revoked or the connection is lost. The event will then be delivered again, perhaps to another member: stop working on it. */
  readonly signal: AbortSignal;
  /** The key for the n-th command (0 by default) that the application sends because of this event: the same one at each delivery, so the command is executed once. */
  commandKey(n?: number): string;
};

/** An event of a consumer group that the application must acknowledge or park. */
export type Delivery<S extends Schema<S> = AnySchema> = GroupEvent<S> & {
  /** Acknowledges the event. An acknowledgement takes effect once the earlier events of its segment are acknowledged too. */
  ack(): void;
  /** Sets the event's stream aside, from this event on, until an operator retries or skips it. The reason is for the operator. The client repeats the request until the server has parked the stream. */
  park(reason: string): void;
};

/** The deliveries of a consumer group. Leaving a `for await` loop leaves the group. */
export interface Consumption<S extends Schema<S> = AnySchema> extends AsyncIterable<Delivery<S>> {
  close(): void;
}

export interface Aggregate<A extends AggregateSchema> {
  readonly type: string;
  readonly id: string;
  /**
   * Sends a command. It waits for a connection and is sent again until its
   * outcome is known; it is executed once. Commands to one aggregate are
   * executed in the order of the calls. The promise is rejected with a
   * RejectedError if a business rule rejects the command.
   */
  send<C extends Name<A["commands"]>>(command: C, ...data: Data<A["commands"][C], [options?: SendOptions]>): Sending;
  /** Reads the state. */
  get(options?: GetOptions): Promise<Result<A["state"]>>;
  /** Follows the state. The result is a store of the newest state. */
  live(options?: { signal?: AbortSignal }): LiveState<A["state"]>;
  /**
   * Reports whether an error is a rejection by this type of aggregate. Its
   * `reason` is then one of the codes that the type declares; a server that is
   * newer than the contract may send others.
   */
  rejected(error: unknown): error is RejectedError<Reason<A>>;
  /** Begins a subscription. It calls the handlers in the options; without handlers it is an async iterable. */
  subscribe<O extends SubscribeOptions<Event<A>, State<A>>>(options?: O): Subscription<ItemOf<A, O>>;
}

export interface Category<A extends AggregateSchema> {
  readonly type: string;
  subscribe<O extends CategoryOptions<Event<A>>>(options?: O): Subscription<ItemOf<A, O>>;
}

/** The items of an iterator: events, and the state and marks that the options ask for. */
export type ItemOf<A extends AggregateSchema, O> =
  | Event<A>
  | (O extends { state: true | "each" } ? State<A> : never)
  | (O extends { live: true } ? Live : never);

export interface SendOptions {
  /** The idempotency key, a new UUIDv7 by default. A second command with the same key gets the answer to the first. */
  key?: string;
  /** The version that the aggregate must be at. Otherwise the error is a ConflictError. */
  expect?: number;
  /** The server's time for one attempt, in ms: 5,000 by default. */
  timeoutMs?: number;
  /** W3C traceparent. */
  trace?: string;
  /** Stops waiting. A command that was not sent by then is never sent; one that was sent may still be executed. */
  signal?: AbortSignal;
}

/** The promise of a result. `key` is the `cause` of the command's events. */
export interface Sending extends Promise<Result> {
  readonly key: string;
}

export interface Result<D = unknown> {
  readonly key: string;
  /** The stream's version and the log's position after the command. */
  readonly version: number;
  readonly position: number;
  /** An earlier command with this key was executed, and this is its result. */
  readonly replayed: boolean;
  readonly data: D;
}

export interface GetOptions {
  /** Asks for a state at or past this position, such as that of a result. */
  atLeast?: number;
  /** Makes the read linearizable: the server compares the state with the log first. */
  strong?: boolean;
  signal?: AbortSignal;
}

/** Where a subscription begins: with the next event, the first event, after a version, after a cursor, or with the newest events. */
export type From = "now" | "start" | { after: number } | { cursor: string } | { last: number };

interface Reading<E> {
  /** Ends the subscription, like `close`. */
  signal?: AbortSignal;
  /**
   * Bounds the events that wait for the application, 1,000 by default. At the bound the subscription pauses.
   * After a pause, the client requests the events again that were in flight, which costs a round trip. So a small buffer makes a long history slow.
   */
  buffer?: number;
  /** Makes an iterator yield `{ kind: "live" }` at the end of history. */
  live?: boolean;
  /** Called with each event. If it returns a promise, the next call waits for it. */
  onEvent?: (event: E) => unknown;
  /** Called at the end of history. */
  onLive?: () => unknown;
  /** Called once, at the end, with the error if there is one. Without this handler the error goes to the client's error listeners. */
  onEnd?: (error: GanglionError | undefined) => unknown;
}

export interface CategoryOptions<E> extends Reading<E> {
  from?: "now" | "start" | { cursor: string };
}

export interface SubscribeOptions<E, S> extends Reading<E> {
  /** Where the subscription begins: `"now"` by default. */
  from?: From;
  /**
   * `true` begins with the state and continues with the events after it; it
   * excludes `from`. `"each"` sends the newest state after each event. States
   * in between are skipped if events are frequent.
   */
  state?: boolean | "each";
  onState?: (state: S) => unknown;
}

/** Marks the end of history. */
export interface Live {
  readonly kind: "live";
  readonly event?: undefined;
  readonly cursor: string;
}

/**
 * Events in order, each once, across reconnects. Iterating ends when the
 * subscription is closed, and throws the error that ended it.
 */
export interface Subscription<I> extends AsyncIterable<I> {
  /** The application has received every event up to this cursor. */
  readonly cursor: string | undefined;
  /** Ends the subscription. Leaving a `for await` loop calls it. */
  close(): void;
}

export interface QueryOptions {
  /** Waits until the rows show this position, such as that of a result. */
  atLeast?: number;
  /** Continues after a page: its `next`. */
  after?: string;
  /** The server's time for one attempt, in ms: 5,000 by default. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface LiveOptions {
  /** Waits until the first result shows this position. */
  atLeast?: number;
  /** Closes it. */
  signal?: AbortSignal;
}

/** A row of a query's result. An unchanged row stays the same object. */
export interface Row<R> {
  readonly key: string;
  /** The row's place in the order: rows sort by it, as strings. */
  readonly rank: string;
  /** The position of the event that changed it last. */
  readonly position: number;
  readonly data: R;
}

export interface Page<R> {
  readonly rows: readonly Row<R>[];
  /** The option `after` for the next page; undefined on the last one. */
  readonly next: string | undefined;
  /** The rows show the log up to here, except for blocked changes. */
  readonly position: number;
  /** The number of rows of the projection that wait for an operator, because an event could not be applied to them. */
  readonly blocked: number;
}

/** The answer of a query that code answers. */
export interface Answer<A> {
  readonly answer: A;
  readonly position: number;
}

/**
 * - `connecting`: there is no result yet;
 * - `live`: the result is current;
 * - `behind`: the server has not applied all events yet;
 * - `resuming`: there is no connection, or the server sends a new result; the last one is shown;
 * - `closed`: permanently. `error` is the reason, unless the application closed it.
 */
export type LiveStatus = "connecting" | "live" | "behind" | "resuming" | "closed";

/** The result of a live query at a moment. It is immutable. */
export interface Snapshot<R> {
  /** The rows in order, with the optimistic changes. The array is the same until the rows change. */
  readonly rows: readonly Row<R>[];
  readonly status: LiveStatus;
  readonly position: number;
  readonly blocked: number;
  readonly error: GanglionError | undefined;
}

/**
 * A store of the newest value. `subscribe` and `getSnapshot` are bound, and are
 * what React's `useSyncExternalStore` needs. Iterating yields a snapshot for
 * each new value, and only the newest if the loop is slow; it throws the error
 * that ended the store. Leaving the loop closes the store.
 */
export interface Store<S> extends AsyncIterable<S> {
  /** Calls the listener after each change. The returned function stops that. */
  readonly subscribe: (listener: () => void) => () => void;
  /** Returns the same object until something changes. */
  readonly getSnapshot: () => S;
  close(): void;
}

/** The result of a query, kept current. It changes by whole batches only. */
export interface LiveQuery<R> extends Store<Snapshot<R>> {
  /**
   * Shows a change of the rows until they show the result of a command, or until
   * the command fails. `change` must be pure: it is called with the rows of each
   * new snapshot, in order, and returns what to show.
   */
  optimistic(change: (rows: readonly Row<R>[]) => readonly Row<R>[], until: PromiseLike<{ readonly position: number }>): void;
}

/** The state of an aggregate at a moment. It is immutable. */
export interface StateSnapshot<D> {
  /** Undefined until the first one has arrived. */
  readonly state: D | undefined;
  readonly status: LiveStatus;
  readonly version: number;
  readonly position: number;
  readonly error: GanglionError | undefined;
}

/** The newest state of an aggregate. */
export interface LiveState<D> extends Store<StateSnapshot<D>> {}
