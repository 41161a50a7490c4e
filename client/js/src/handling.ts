import { backoff } from "./clock.js";
import type { Consumer, Delivery } from "./consumer.js";
import { errorOf, Park, type Retry } from "./errors.js";

/** The number of failures after which an event may be parked. */
const parkAfter = 5;
/** Bound the pauses between the attempts of an event, in ms. */
const firstRetry = 2_000;
const maxRetry = 60_000;

/** The deliveries of a stream that are not handled, in order. The first may be running. */
interface Sequence {
  readonly stream: string;
  deliveries: Delivery[];
  state: "idle" | "ready" | "running" | "paused";
  timer: unknown; // until the retry
  failed: number; // the position of the event that failed
  failures: number;
  since: number; // the newest call at the first failure
}

/** Calls a handler for the deliveries of a consumer. */
export class Handling {
  /** Settles once the consumer and every call have ended. */
  readonly ended: Promise<void>;
  #settle!: () => void;
  readonly #sequences = new Map<string, Sequence>(); // those with deliveries, by stream
  #ready: Sequence[] = []; // whose first delivery can be handled, in order
  #running = 0;
  #begun = 0; // numbers the calls
  #succeeded = 0; // the newest call that succeeded

  constructor(
    private readonly consumer: Consumer,
    private readonly handler: (event: any) => unknown,
    private readonly limit: number,
    private readonly signal: AbortSignal | undefined,
  ) {
    const stop = () => {
      consumer.abort();
      this.#proceed();
    };
    signal?.addEventListener("abort", stop, { once: true });
    this.ended = new Promise((resolve, reject) => {
      this.#settle = () => {
        signal?.removeEventListener("abort", stop);
        if (consumer.error) reject(consumer.error);
        else resolve();
      };
    });
    consumer.onReady = () => this.#proceed();
    this.#proceed();
  }

  #proceed(): void {
    const { consumer } = this;
    if (this.signal?.aborted) {
      if (!this.#running) consumer.close();
      if (!consumer.hasEnded) return;
    }
    for (let d; (d = consumer.take()); ) this.#add(d);
    if (consumer.hasEnded) {
      for (const s of this.#sequences.values()) consumer.clock.clearTimeout(s.timer);
      if (!this.#running) this.#settle();
      return;
    }
    while (this.#running < this.limit && this.#ready.length) this.#start(this.#ready.shift()!);
  }

  #add(d: Delivery): void {
    let s = this.#sequences.get(d.stream);
    if (!s) this.#sequences.set(d.stream, (s = { stream: d.stream, deliveries: [], state: "idle", timer: undefined, failed: 0, failures: 0, since: 0 }));
    dropRevoked(s);
    s.deliveries.push(d);
    if (s.state === "paused" && s.deliveries[0]!.position !== s.failed) {
      this.consumer.clock.clearTimeout(s.timer);
      s.state = "idle";
    }
    this.#schedule(s);
  }

  /** Makes an idle sequence ready if it has deliveries, and forgets it otherwise. */
  #schedule(s: Sequence): void {
    if (s.state !== "idle") return;
    dropRevoked(s);
    if (s.deliveries.length) {
      s.state = "ready";
      this.#ready.push(s);
    } else {
      this.#sequences.delete(s.stream);
    }
  }

  #start(s: Sequence): void {
    s.state = "idle";
    dropRevoked(s);
    const d = s.deliveries[0];
    if (!d) return this.#schedule(s);
    s.state = "running";
    this.#running++;
    const call = ++this.#begun;
    d.attempt = s.failed === d.position ? s.failures + 1 : 1;
    void new Promise((resolve) => resolve(this.handler(d))).then(
      () => this.#finish(s, d, call),
      (e) => this.#finish(s, d, call, e ?? "the handler failed"),
    );
  }

  #finish(s: Sequence, d: Delivery, call: number, e?: any): void {
    this.#running--;
    s.state = "idle";
    if (e === undefined) {
      d.ack();
      this.#succeeded = Math.max(this.#succeeded, call);
      s.failures = 0;
      s.deliveries.shift();
    } else if (d.assignment.isOver || this.signal?.aborted) {
      s.deliveries.shift();
    } else if (e instanceof Park) {
      this.#park(s, d, e);
    } else {
      this.#fail(s, d, e);
    }
    this.#schedule(s);
    this.#proceed();
  }

  /** Pauses the sequence or parks it. */
  #fail(s: Sequence, d: Delivery, e: any): void {
    if (!s.failures || s.failed !== d.position) {
      s.failed = d.position;
      s.failures = 0;
      s.since = this.#begun;
    }
    if (++s.failures >= parkAfter && this.#succeeded > s.since) return this.#park(s, d, e);
    const { clock } = this.consumer;
    const pause = backoff(clock, s.failures - 1, firstRetry, maxRetry);
    this.#report(d, e, "later", `attempt ${s.failures}, next in ${Math.round(pause)} ms`);
    s.state = "paused";
    s.timer = clock.setTimeout(() => {
      s.state = "idle";
      this.#schedule(s);
      this.#proceed();
    }, pause);
  }

  /** Parks the stream, from its first delivery on. */
  #park(s: Sequence, d: Delivery, e: any): void {
    this.#report(d, e, "no", "parked");
    d.park(String(e.message ?? e));
    s.failures = 0;
    s.deliveries = s.deliveries.filter((x) => x.assignment !== d.assignment);
  }

  #report({ group, version, stream, position }: Delivery, cause: any, retry: Retry, next: string): void {
    const message = `the handler of group ${group} failed for version ${version} of ${stream}, position ${position} (${next}): ${cause.message ?? cause}`;
    this.consumer.report(errorOf({ code: "handler", message, retry, version, position }, { cause }));
  }
}

/** Drops the deliveries that will come again, except one that is running. They come before the others. */
function dropRevoked(s: Sequence): void {
  const from = s.state === "running" ? 1 : 0;
  let n = 0;
  while (s.deliveries[from + n]?.assignment.isOver) n++;
  s.deliveries.splice(from, n);
}
