import type { LiveStatus } from "./api.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { bytes, exact } from "./frames.js";
import { Subscriber, type Subscriptions, throwUncaught } from "./subscriptions.js";

/** Bounds the bytes of a subscription's parameters. Every gateway accepts a frame of this size. */
const maxParameterBytes = 16_000;

interface Base {
  readonly status: LiveStatus;
  readonly error: GanglionError | undefined;
}

/** A subscription that keeps its newest value. It tells listeners of each new snapshot, and iterators of each new value. */
export abstract class Store<S extends Base> extends Subscriber {
  #snapshot: S;
  #values = 0; // counts the values, for iterators
  readonly #listeners = new Set<() => void>();

  constructor(all: Subscriptions, signal: AbortSignal | undefined, first: S) {
    super(all, signal);
    this.#snapshot = first;
  }

  // Both are bound, so that they can be passed to useSyncExternalStore.
  readonly getSnapshot = (): S => this.#snapshot;
  readonly subscribe = (listener: () => void): (() => void) => {
    const own = () => listener(); // the same function may be added twice
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
  };

  /** Replaces the snapshot. */
  protected set(change: Partial<S>, isValue = false): void {
    this.#snapshot = { ...this.#snapshot, ...change };
    if (isValue) this.#values++;
    for (const f of [...this.#listeners]) {
      try {
        f();
      } catch (e) {
        throwUncaught(e);
      }
    }
  }

  protected setStatus(status: LiveStatus): void {
    if (this.#snapshot.status !== status) this.set({ status } as Partial<S>);
  }

  /** Whether the store has a value, which it shows until the next one arrives. */
  protected abstract get hasValue(): boolean;

  #interrupted(): void {
    if (!this.ended) this.setStatus(this.hasValue ? "resuming" : "connecting");
  }

  override onDisconnect(): void {
    super.onDisconnect();
    this.#interrupted();
  }

  override onRefusal(fault: Fault, movable: boolean): void {
    super.onRefusal(fault, movable);
    this.#interrupted();
  }

  onHeartbeat(_cursor: string, behind: string | undefined): void {
    const { status } = this.#snapshot;
    if (behind !== undefined ? status !== "live" : status !== "behind") return;
    this.live = behind === undefined;
    this.setStatus(this.live ? "live" : "behind");
  }

  /** A store of another log continues: it gets a new value. */
  get isResuming(): boolean {
    return false;
  }

  protected onEnd(error: GanglionError | undefined): void {
    this.set({ status: "closed", error } as Partial<S>);
  }

  close(): void {
    if (!this.ended) this.all.unsubscribe(this);
    this.endWith();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<S, void> {
    let wake = () => {};
    const stop = this.subscribe(() => wake());
    try {
      for (let seen = 0; ; ) {
        if (seen !== this.#values) {
          seen = this.#values;
          yield this.#snapshot;
        } else if (this.ended) {
          if (this.#snapshot.error) throw this.#snapshot.error;
          return;
        } else {
          await new Promise<void>((resolve) => (wake = resolve));
        }
      }
    } finally {
      stop();
      this.close();
    }
  }
}

/** Returns a copy of a query's parameters, which the application may change later. */
export function parameters(data: unknown): unknown {
  const text = JSON.stringify(data, exact);
  const size = bytes(text);
  if (size > maxParameterBytes) {
    throw errorOf({ code: "too_large", message: `the parameters have ${size} bytes: a live query accepts at most ${maxParameterBytes}`, field: "data" });
  }
  return JSON.parse(text);
}
