import type { LiveOptions, LiveQuery, Row, Snapshot, StateSnapshot } from "./api.js";
import { errorOf, type GanglionError } from "./errors.js";
import type { RowFrame, StateFrame, SubscriptionFrame } from "./frames.js";
import { parameters, Store } from "./store.js";
import { type Subscriptions, throwUncaught } from "./subscriptions.js";

/** Bounds the rows of a result, with those of a batch that is not complete. Servers send 1,000 rows at most. */
const maxRows = 10_000;
/** Bounds the optimistic changes that wait for their results. */
const maxLayers = 1_000;

type Rows = readonly Row<any>[];
const noRows: Rows = Object.freeze([]);

/** An optimistic change, which is shown until the rows have passed position. */
interface Layer {
  change: (rows: Rows) => Rows;
  position: number;
}

/** The frames of a batch that is not complete. */
interface Batch {
  isNew: boolean; // the result begins with nothing
  keys: Set<string> | undefined; // the only keys that stay
  changes: Map<string, RowFrame | undefined>; // undefined: the row has left
}

const byRank = (a: Row<any>, b: Row<any>): number => (a.rank < b.rank ? -1 : 1);

/** The result of a query, which the server keeps current. */
export class QueryStore extends Store<Snapshot<any>> implements LiveQuery<any> {
  #rows: Row<any>[] = []; // the result at the cursor, in order. Filtering a frozen array is slow.
  #frozen: Rows = noRows; // a copy for the application
  #staged: Batch | undefined;
  #cursor: string | undefined;
  #reached = 0; // the position that the rows show
  readonly #layers = new Set<Layer>();
  readonly #data: unknown;

  constructor(
    all: Subscriptions,
    private readonly query: string,
    data: unknown,
    private readonly options: LiveOptions,
  ) {
    const copy = parameters({ data, at_least: options.atLeast }) as { data: unknown };
    super(all, options.signal, { rows: noRows, status: "connecting", position: 0, blocked: 0, error: undefined });
    this.#data = copy.data;
  }

  protected get hasValue(): boolean {
    return this.#cursor !== undefined;
  }

  begin(): object {
    const cursor = this.#cursor;
    this.#staged = undefined;
    if (cursor === undefined) this.#batch(true);
    return { query: this.query, data: this.#data, ...(cursor === undefined ? { at_least: this.options.atLeast } : { cursor }) };
  }

  onFrame(f: SubscriptionFrame): void {
    switch (f.op) {
      case "state":
        for (const row of (f as { rows: RowFrame[] }).rows) this.#stage(row);
        return;
      case "update":
        if (f.gone) this.#batch().changes.set(f.key, undefined);
        else this.#stage(f);
        return;
      case "keys": {
        const batch = this.#batch();
        const keys = new Set(f.keys);
        for (const key of batch.changes.keys()) if (!keys.has(key)) batch.changes.set(key, undefined);
        batch.keys = batch.keys ? new Set(f.keys.filter((key) => batch.keys!.has(key))) : keys;
        return;
      }
      case "reset":
        return this.#reset(f.reason);
      case "live":
      case "synced":
        return this.#commit(f.cursor, f.position ?? 0, f.blocked ?? 0);
    }
  }

  #batch(isNew = false): Batch {
    return (this.#staged ??= { isNew, keys: undefined, changes: new Map() });
  }

  #stage({ key, rank, position, data }: RowFrame): void {
    const { changes } = this.#batch();
    changes.set(key, { key, rank, position, data });
    if (changes.size > maxRows) this.#fail(`the server sent more than ${maxRows} rows`);
  }

  #fail(message: string): void {
    this.all.unsubscribe(this);
    this.endWith(errorOf({ code: "protocol", message }));
  }

  /** Awaits a new result. The old rows are shown until it is complete, unless the client may no longer see them. */
  #reset(reason: string): void {
    this.live = false;
    this.#staged = undefined;
    this.#batch(true);
    if (reason !== "access") {
      if (reason === "log") this.#clearLayers(); // they wait for positions of the old log
      return this.setStatus(this.hasValue ? "resuming" : "connecting");
    }
    this.#layers.clear();
    this.#cursor = undefined;
    this.#rows = [];
    this.#frozen = noRows;
    this.set({ rows: noRows, status: "connecting" }, true);
  }

  /** Applies a complete batch. */
  #commit(cursor: string, position: number, blocked: number): void {
    if (!(position <= Number.MAX_SAFE_INTEGER)) return this.#fail(`position ${position} may have been rounded`);
    if (this.#staged) {
      this.#rows = this.#merge(this.#staged);
      this.#frozen = Object.freeze([...this.#rows]);
      this.#staged = undefined;
    }
    this.#cursor = cursor;
    this.#reached = position;
    this.live = true;
    this.#dropPassed();
    this.set({ rows: this.#shown(), status: "live", position, blocked }, true);
  }

  /** Returns the result after a batch. */
  #merge({ isNew, keys, changes }: Batch): Row<any>[] {
    const rows = isNew ? [] : this.#rows.filter(({ key }) => !changes.has(key) && (!keys || keys.has(key)));
    const enter = [...changes.values()].filter((row) => row !== undefined);
    // Sorting merges two runs, and inserting is faster for a few rows.
    if (enter.length > 8) return rows.concat(enter.sort(byRank)).sort(byRank);
    for (const row of enter) {
      let at = 0;
      for (let to = rows.length; at < to; ) {
        const middle = (at + to) >> 1;
        if (rows[middle]!.rank < row.rank) at = middle + 1;
        else to = middle;
      }
      rows.splice(at, 0, row);
    }
    return rows;
  }

  override onHeartbeat(cursor: string, behind: string | undefined): void {
    super.onHeartbeat(cursor, behind);
    if (!this.live) return;
    this.#reached = Math.max(this.#reached, Number(cursor)); // nothing of this query was pending there
    if (this.#dropPassed()) this.set({ rows: this.#shown() }, true);
  }

  override onDisconnect(): void {
    this.#staged = undefined; // an incomplete batch comes again
    super.onDisconnect();
  }

  optimistic(change: (rows: Rows) => Rows, until: PromiseLike<{ readonly position: number }>): void {
    if (this.#layers.size >= maxLayers) {
      throw errorOf({ code: "queue_full", message: `${maxLayers} optimistic changes wait for their results`, retry: "later" });
    }
    if (this.ended) return;
    const layer: Layer = { change, position: Infinity };
    const changed = () => this.set({ rows: this.#shown() }, true);
    this.#layers.add(layer);
    changed();
    until.then(
      ({ position }) => {
        layer.position = position;
        if (this.#dropPassed()) changed();
      },
      () => this.#layers.delete(layer) && changed(),
    );
  }

  /** Removes the optimistic changes whose results the rows show. It returns false if there are none. */
  #dropPassed(): boolean {
    let dropped = false;
    for (const layer of this.#layers) {
      if (layer.position > this.#reached) continue;
      this.#layers.delete(layer);
      dropped = true;
    }
    return dropped;
  }

  #clearLayers(): void {
    if (!this.#layers.size) return;
    this.#layers.clear();
    this.set({ rows: this.#frozen }, true);
  }

  /** Returns the rows with the optimistic changes. */
  #shown(): Rows {
    let rows = this.#frozen;
    for (const layer of this.#layers) {
      try {
        rows = layer.change(rows);
      } catch (e) {
        this.#layers.delete(layer);
        throwUncaught(e);
      }
    }
    return rows;
  }

  protected override onEnd(error: GanglionError | undefined): void {
    this.#layers.clear();
    this.#staged = undefined;
    super.onEnd(error);
  }
}

/** The newest public state of an aggregate. */
export class StateStore extends Store<StateSnapshot<any>> {
  #log: string | undefined; // to which the state belongs

  constructor(
    all: Subscriptions,
    private readonly stream: string,
    signal: AbortSignal | undefined,
  ) {
    super(all, signal, { state: undefined, status: "connecting", version: 0, position: 0, error: undefined });
  }

  protected get hasValue(): boolean {
    return this.#log !== undefined;
  }

  begin(): object {
    return { stream: this.stream, state: "only" };
  }

  onFrame(f: SubscriptionFrame): void {
    if (f.op !== "state" || !("version" in f)) return; // the state follows "live"
    const { version, position, data } = f as StateFrame;
    const { log } = this.all.connection;
    this.live = true;
    this.all.connection.updateStatus();
    const isOld = log === this.#log && version <= this.getSnapshot().version;
    this.#log = log;
    if (isOld) this.setStatus("live");
    else this.set({ state: data, status: "live", version, position }, true);
  }
}
