/** What one type of aggregate shows and takes: its public state, its commands' data and its events' data by name. */
export interface AggregateSchema {
  state: unknown;
  commands: object;
  events: object;
}

/**
 * An application's aggregates by type. `ganglion gen ts` writes one; where
 * there is none, everything is allowed and nothing is known.
 */
export type Schema<S> = { [T in keyof S]: AggregateSchema };

/** The schema of a client that was given none. */
export interface AnySchema {
  [type: string]: {
    state: any;
    commands: Record<string, any>;
    events: Record<string, any>;
  };
}

/** The names of a type's members. */
export type Name<T> = keyof T & string;

/** A command's data: may be left out where the command needs none. */
export type Data<D, Rest extends unknown[]> = {} extends D
  ? [data?: D, ...rest: Rest]
  : [data: D, ...rest: Rest];

/** One event, whose `event` tells what its `data` is. */
export interface EventOf<E extends string, D> {
  readonly kind: "event";
  /** The stored name, such as `bid_placed`. */
  readonly event: E;
  readonly data: D;
  /** The aggregate's type and id, such as `auction/42`, and the id by itself. */
  readonly stream: string;
  readonly id: string;
  /** Counts the events of the stream: 1, 2, 3, … */
  readonly version: number;
  /** The event's place in the log. */
  readonly position: number;
  /** Where to go on after this event: `{ from: { cursor } }`. */
  readonly cursor: string;
  /** When it happened: RFC 3339, UTC. */
  readonly time: string;
  /** The key of the command that caused it. */
  readonly cause: string;
  /** The client that caused it, where the aggregate shows it. */
  readonly by?: string;
}

/** An aggregate's events, as a union told apart by `event`. */
export type Event<A extends AggregateSchema> = {
  [E in Name<A["events"]>]: EventOf<E, A["events"][E]>;
}[Name<A["events"]>];

/** The state with which a subscription begins that asked for it. */
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
