import type { Answer, Page } from "./api.js";

/** One type of aggregate: its public state, and the data of its commands and events by name. */
export interface AggregateSchema {
  state: unknown;
  commands: object;
  events: object;
  /** The codes of its rejections, as a union. */
  rejections?: string;
}

/** One query: its parameters, and its rows or the answer that code gives. */
export interface QuerySchema {
  data: unknown;
  row?: unknown;
  answer?: unknown;
}

/**
 * An application's aggregates by type, and its queries in the member `$queries`.
 * `ganglion gen ts` generates it. Without it every command and every query is
 * allowed, and every event and row is `any`.
 */
export type Schema<S> = { [T in keyof S]: T extends "$queries" ? { [Q in keyof S[T]]: QuerySchema } : AggregateSchema };

/** The schema of a client without a schema. */
export interface AnySchema {
  [type: string]: {
    state: any;
    commands: Record<string, any>;
    events: Record<string, any>;
    rejections?: string;
  };
}

/** The names of a type's members. */
export type Name<T> = keyof T & string;

/** The names of the aggregate types. */
export type TypeName<S> = Exclude<Name<S>, "$queries">;

type Queries<S> = string extends keyof S ? Record<string, { data: any; row: any; answer: any }> : S extends { $queries: infer Q } ? Q : {};

/** The names of the queries. */
export type QueryName<S> = Name<Queries<S>>;
/** The names of the queries with rows, which can be live. */
export type LiveName<S> = { [Q in QueryName<S>]: Queries<S>[Q] extends { row: any } ? Q : never }[QueryName<S>];
/** The parameters of a query. */
export type QueryData<S, Q extends QueryName<S>> = Queries<S>[Q] extends { data: infer D } ? D : never;
/** A row of a query. */
export type QueryRow<S, Q extends QueryName<S>> = Queries<S>[Q] extends { row: infer R } ? R : never;
/** What a query resolves with: a page of rows, or the answer of code. */
export type QueryResult<S, Q extends QueryName<S>> =
  (Queries<S>[Q] extends { row: infer R } ? Page<R> : unknown) & (Queries<S>[Q] extends { answer: infer A } ? Answer<A> : unknown);

/** The codes with which an aggregate rejects commands. */
export type Reason<A extends AggregateSchema> = NonNullable<A["rejections"]>;

/** A command's data: optional if the command needs none. */
export type Data<D, Rest extends unknown[]> = {} extends D
  ? [data?: D, ...rest: Rest]
  : [data: D, ...rest: Rest];

/** One event. `event` determines the type of `data`. */
export interface EventOf<E extends string, D> {
  readonly kind: "event";
  /** The stored name, such as `bid_placed`. */
  readonly event: E;
  readonly data: D;
  /** The aggregate's type and id, such as `auction/42`, and the id alone. */
  readonly stream: string;
  readonly id: string;
  /** Counts the events of the stream: 1, 2, 3, … */
  readonly version: number;
  /** The event's place in the log. */
  readonly position: number;
  /** The cursor after this event, for `{ from: { cursor } }`. */
  readonly cursor: string;
  /** When it happened: RFC 3339, UTC. */
  readonly time: string;
  /** The key of the command that caused it. */
  readonly cause: string;
  /** The client that sent the command, if the aggregate publishes it. */
  readonly by?: string;
}

/** An aggregate's events, as a union that `event` discriminates. */
export type Event<A extends AggregateSchema> = {
  [E in Name<A["events"]>]: EventOf<E, A["events"][E]>;
}[Name<A["events"]>];

/** An event of any aggregate. */
export type GroupData<S extends Schema<S>> = { [T in TypeName<S>]: S[T] extends AggregateSchema ? Event<S[T]> : never }[TypeName<S>];

/** The state, for a subscription with the option `state`. */
export interface State<A extends AggregateSchema> {
  readonly kind: "state";
  readonly event?: undefined;
  readonly data: A["state"];
  readonly stream: string;
  readonly id: string;
  readonly version: number;
  readonly position: number;
  readonly cursor: string;
}
