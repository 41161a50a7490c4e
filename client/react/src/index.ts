import type { AggregateSchema, Client, Data, LiveName, LiveQuery, QueryData, QueryRow, Schema, Snapshot, StateSnapshot, Status, Store, TypeName } from "@ganglion-es/client";
import { useMemo, useSyncExternalStore } from "react";

/** The result of a live query, for a component. */
export interface QueryResult<R> extends Snapshot<R> {
  /** Shows a change of the rows until they show the result of a command: see {@link LiveQuery.optimistic}. */
  readonly optimistic: LiveQuery<R>["optimistic"];
}

/**
 * Returns the current result of a query, and renders again when it changes.
 * Components with the same client, name and parameters (compared as JSON) share
 * one live query, which is closed when the last of them is unmounted or asks
 * something else. Until the first result arrives, and with new parameters, the
 * status is `connecting` and there are no rows.
 */
export function useQuery<S extends Schema<S>, Q extends LiveName<S>>(
  client: Client<S>,
  name: Q,
  ...data: Data<QueryData<S, Q>, []>
): QueryResult<QueryRow<S, Q>> {
  type Row = QueryRow<S, Q>;
  const key = JSON.stringify([name, data[0] ?? {}]);
  const source = useSource<Snapshot<Row>, LiveQuery<Row>>(client, key, () => client.live(name, ...data), noRows);
  const snapshot = useStore(source);
  return useMemo(() => {
    const optimistic: LiveQuery<Row>["optimistic"] = (change, until) => source.store?.optimistic(change, until);
    return { ...snapshot, optimistic };
  }, [source, snapshot]);
}

/**
 * Returns the newest state of an aggregate, such as `auction/42`, and renders
 * again when it changes. Components with the same client and stream share one
 * subscription.
 */
export function useAggregate<S extends Schema<S>, T extends TypeName<S>>(client: Client<S>, stream: `${T}/${string}`): StateSnapshot<StateOf<S[T]>> {
  const open = () => client.aggregate<T>(stream).live() as Store<StateSnapshot<StateOf<S[T]>>>;
  return useStore(useSource<StateSnapshot<StateOf<S[T]>>, Store<StateSnapshot<StateOf<S[T]>>>>(client, stream, open, noState));
}

type StateOf<A> = A extends AggregateSchema ? A["state"] : never;

/** Returns the status of the client's connection. */
export function useStatus<S extends Schema<S>>(client: Client<S>): Status {
  const source = useMemo(() => ({ subscribe: (f: () => void) => client.on("status", f), getSnapshot: () => client.status, first: "connecting" as Status }), [client]);
  return useStore(source);
}

const noRows: Snapshot<never> = Object.freeze({ rows: Object.freeze([]), status: "connecting", position: 0, blocked: 0, error: undefined });
const noState: StateSnapshot<never> = Object.freeze({ state: undefined, status: "connecting", version: 0, position: 0, error: undefined });

interface Source<V> {
  subscribe(f: () => void): () => void;
  getSnapshot(): V;
  first: V; // on a server, and before the first subscription
}

function useStore<V>({ subscribe, getSnapshot, first }: Source<V>): V {
  return useSyncExternalStore(subscribe, getSnapshot, () => first);
}

/** The stores of a client that components use, by key. */
const used = new WeakMap<object, Map<string, { store: Store<any>; users: number }>>();

/** Returns the store of a key as a source. The first subscription opens the store, and the last one closes it. */
function useSource<V, L extends Store<V>>(client: object, key: string, open: () => L, first: V): Source<V> & { readonly store: L | undefined } {
  return useMemo(() => {
    let stores = used.get(client);
    if (!stores) used.set(client, (stores = new Map()));
    const all = stores;
    return {
      get store() {
        return all.get(key)?.store as L | undefined;
      },
      getSnapshot: () => all.get(key)?.store.getSnapshot() ?? first,
      first,
      subscribe(f: () => void) {
        let entry = all.get(key);
        if (!entry) all.set(key, (entry = { store: open(), users: 0 }));
        const mine = entry;
        mine.users++;
        const stop = mine.store.subscribe(f);
        return () => {
          stop();
          mine.users--;
          // StrictMode and a moved component subscribe again in the same turn.
          queueMicrotask(() => {
            if (mine.users || all.get(key) !== mine) return;
            all.delete(key);
            mine.store.close();
          });
        };
      },
    };
  }, [client, key]); // open depends on key alone
}
