import type { ConsumeOptions, Consumption } from "./api.js";
import { backoff, type Clock, uuidv7 } from "./clock.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { eventOf, type EventFrame, type SubscriptionFrame } from "./frames.js";
import { Subscriber, type Subscriptions } from "./subscriptions.js";

/** Bounds the time for which an acknowledgement waits for others, in ms. */
const ackDelay = 50;
/** Bounds the acknowledged events that wait. */
const ackEvents = 100;

/** Names this process in its consumer groups. */
let processMember: string | undefined;

/** A segment of the group that this member has, under an epoch. */
interface Assignment {
  readonly segment: string;
  readonly epoch: number;
  readonly log: string;
  cursor: string; // every event up to it is acknowledged
  position: number; // of the newest event that arrived
  events: Delivery[]; // not acknowledged, in order
  waiting: number; // events up to cursor that the server does not know as acknowledged
  isRevoking: boolean; // the server waits for the acknowledgements
  isQuiet: boolean; // no ack was sent since the last sign of life
  readonly parking: Set<string>; // streams for which the answer to park is pending
  isOver: boolean;
  readonly abort: AbortController; // of its deliveries
}

/** An event that the application must acknowledge or park. */
export class Delivery {
  declare readonly stream: string;
  declare readonly version: number;
  declare readonly position: number;
  declare readonly cursor: string;
  readonly group: string;
  readonly log: string;
  attempt = 0;
  readonly #consumer: Consumer;

  constructor(
    consumer: Consumer,
    readonly assignment: Assignment,
    f: EventFrame,
    /** Whether it is acknowledged, behind a parked event of its stream, or being parked. */
    public isHandled: boolean,
  ) {
    Object.assign(this, eventOf(f));
    this.group = consumer.group;
    this.log = assignment.log;
    this.#consumer = consumer;
  }

  get signal(): AbortSignal {
    return this.assignment.abort.signal;
  }

  commandKey(n = 0): string {
    return `${this.group}:${this.position}:${n}`;
  }

  ack(): void {
    this.#consumer.ack(this);
  }

  park(reason: string): void {
    this.#consumer.park(this, reason);
  }
}

/** A member of a consumer group: its assignments, and the events that the application has not received or acknowledged. */
export class Consumer extends Subscriber implements Consumption {
  /** Called when there is a delivery to take, or the consumer has ended. */
  onReady = () => {};
  error: GanglionError | undefined;
  readonly #member: string;
  readonly #assigned = new Map<string, Assignment>();
  #window = 100; // that applies
  #ackWithin = 30_000;
  #queue: Delivery[] = []; // that the application has not received
  #isActive = false; // the application received or acknowledged an event since the last sign of life
  #paused = false; // the application was too slow
  #ackTimer: unknown; // until waiting acknowledgements are sent
  #signTimer: unknown; // until the next sign of life

  constructor(
    all: Subscriptions,
    readonly group: string,
    private readonly options: ConsumeOptions,
    private readonly isHandler: boolean, // whose calls keep the segments
  ) {
    super(all, options.signal);
    this.#member = options.member ?? (processMember ??= uuidv7(Date.now()));
  }

  get clock(): Clock {
    return this.all.clock;
  }

  report(error: GanglionError): void {
    this.all.report(error);
  }

  /** The server knows where the group is. */
  get isResuming(): boolean {
    return false;
  }

  begin(): object {
    return { op: "consume", group: this.group, member: this.#member, window: this.options.window };
  }

  override onSubscribed(f: { cursor: string }): void {
    super.onSubscribed(f);
    const { window, ack_within_ms } = f as unknown as { window: number; ack_within_ms: number };
    this.#window = window;
    this.#ackWithin = ack_within_ms;
    this.live = true;
    this.all.connection.updateStatus();
  }

  onHeartbeat(): void {}

  onFrame(f: SubscriptionFrame): void {
    const as = this.#assigned.get((f as { segment: string }).segment);
    switch (f.op) {
      case "assigned":
        if (as) this.#revoke(as);
        this.#assigned.set(f.segment, {
          segment: f.segment, epoch: f.epoch, log: f.log, cursor: f.cursor,
          position: 0, events: [], waiting: 0, isRevoking: false, isQuiet: true, parking: new Set(), isOver: false, abort: new AbortController(),
        });
        return;
      case "event":
        if (as) this.#deliver(as, f); // events may still arrive after the end of an assignment
        return;
      case "revoking":
        if (as?.epoch !== f.epoch) return;
        as.isRevoking = true;
        if (as.waiting) this.#sendAck(as);
        return;
      case "revoked":
        if (as?.epoch === f.epoch) this.#revoke(as);
    }
  }

  #deliver(as: Assignment, f: EventFrame): void {
    const { stream, version, position } = f;
    if (position <= as.position) {
      this.all.report(errorOf({ code: "protocol", message: `the server sent version ${version} of ${stream}, position ${position}, again: dropped`, version }));
      return;
    }
    if (!(position <= Number.MAX_SAFE_INTEGER)) return this.#fail(`position ${position} may have been rounded`);
    // A park makes room at the server first.
    if (as.events.length >= 2 * this.#window) return this.#fail(`the server sent more than ${this.#window} events of segment ${as.segment} of group ${this.group} without an acknowledgement`);
    as.position = position;
    const isParking = as.parking.has(stream);
    const delivery = new Delivery(this, as, f, isParking);
    as.events.push(delivery);
    this.#signTimer ??= this.all.clock.setTimeout(() => this.#watch(), this.#ackWithin / 4);
    if (isParking) return; // handled once the server has parked its stream
    this.#queue.push(delivery);
    this.onReady();
  }

  #fail(message: string): void {
    this.all.unsubscribe(this);
    this.endWith(errorOf({ code: "protocol", message }));
  }

  /** Ends an assignment. The application does not receive its events any more. */
  #revoke(as: Assignment): void {
    this.#assigned.delete(as.segment);
    as.isOver = true;
    as.events = [];
    this.#queue = this.#queue.filter((d) => d.assignment !== as);
    as.abort.abort(new Error("the segment was revoked"));
  }

  #revokeAll(): void {
    this.all.clock.clearTimeout(this.#ackTimer);
    this.all.clock.clearTimeout(this.#signTimer);
    this.#ackTimer = this.#signTimer = undefined;
    for (const as of this.#assigned.values()) this.#revoke(as);
  }

  /** Joins again after it was too slow: a handler immediately, and another application once it receives events, so that one that hangs does not hold up the group again. */
  override onUnsubscribed(code: string, message: string | undefined, cursor: string | undefined): void {
    if (code !== "timeout") return super.onUnsubscribed(code, message, cursor);
    this.#paused = !this.isHandler;
    this.onRefusal({ code, message: message ?? code, retry: "later" }, false);
    this.onReady();
  }

  override get wantsSubscribe(): boolean {
    return super.wantsSubscribe && !this.#paused;
  }

  override onDisconnect(): void {
    super.onDisconnect();
    this.#revokeAll();
  }

  override onRefusal(fault: Fault, movable: boolean): void {
    super.onRefusal(fault, movable);
    this.#revokeAll();
  }

  protected onEnd(error: GanglionError | undefined): void {
    this.error = error;
    this.#revokeAll();
    this.onReady();
  }

  /** Returns the next delivery, if there is one. */
  take(): Delivery | undefined {
    if (this.#paused) {
      this.#paused = false;
      if (this.wantsSubscribe) this.all.sendSubscribe(this);
    }
    const d = this.#queue.shift();
    if (d) this.#isActive = true;
    return d;
  }

  get hasEnded(): boolean {
    return this.ended;
  }

  ack(d: Delivery): void {
    if (d.isHandled || d.assignment.isOver) return;
    d.isHandled = this.#isActive = true;
    this.#advance(d.assignment);
  }

  /** Acknowledges the events before the first that is not handled. */
  #advance(as: Assignment): void {
    let n = 0;
    for (const { isHandled, stream } of as.events) {
      if (!isHandled || as.parking.has(stream)) break;
      n++;
    }
    if (!n) return;
    as.cursor = as.events[n - 1]!.cursor;
    as.events.splice(0, n);
    as.waiting += n;
    if (as.waiting >= Math.max(1, Math.min(ackEvents, this.#window >> 1)) || (as.isRevoking && !as.events.length)) this.#sendAck(as);
    else this.#ackTimer ??= this.all.clock.setTimeout(() => this.#sendAcks(), ackDelay);
  }

  #sendAcks(): void {
    this.all.clock.clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    for (const as of this.#assigned.values()) if (as.waiting) this.#sendAck(as);
  }

  #frame(op: string, { segment, epoch }: Assignment): object {
    return { op, sub: this.id, segment, epoch };
  }

  #sendAck(as: Assignment): void {
    as.waiting = 0;
    as.isQuiet = false;
    this.all.connection.enqueue(JSON.stringify({ ...this.#frame("ack", as), cursor: as.cursor }));
  }

  /** Acknowledges the same cursor again, for each assignment that holds events, four times within the time in which the server expects it. */
  #watch(): void {
    this.#signTimer = undefined;
    for (const as of this.#assigned.values()) {
      if (!as.events.length) continue;
      if (as.isQuiet && (this.isHandler || this.#isActive)) this.#sendAck(as);
      as.isQuiet = true;
      this.#signTimer ??= this.all.clock.setTimeout(() => this.#watch(), this.#ackWithin / 4);
    }
    this.#isActive = false;
  }

  park(d: Delivery, reason: string): void {
    const as = d.assignment;
    if (d.isHandled || as.isOver || as.parking.has(d.stream)) return;
    this.#isActive = true;
    as.parking.add(d.stream);
    for (const later of as.events) if (later.stream === d.stream && later.position >= d.position) later.isHandled = true;
    this.#queue = this.#queue.filter((q) => q.assignment !== as || q.stream !== d.stream);
    // At most 1,024 bytes that can be stored.
    this.#sendPark(d, [...reason.replace(/\0|\p{Surrogate}/gu, "?")].slice(0, 256).join("") || "no reason given", 0);
  }

  #sendPark(d: Delivery, reason: string, tries: number): void {
    const as = d.assignment;
    this.all.ask({ ...this.#frame("park", as), position: d.position, reason }, (f) => {
      if (as.isOver) return; // the answer crossed the end of the assignment
      if (f.op === "result") {
        as.parking.delete(d.stream);
        this.#advance(as);
        // The server no longer waits for those behind an event that is not handled.
        as.events = as.events.filter((x) => !x.isHandled || x.stream !== d.stream);
        return;
      }
      if ((f as Fault).code === "conflict") return; // the epoch is over: revoked follows
      const fault: Fault = { ...(f as Fault), retry: "later" };
      this.all.report(errorOf(fault));
      this.all.clock.setTimeout(() => as.isOver || this.#sendPark(d, reason, tries + 1), fault.after_ms ?? backoff(this.all.clock, tries, 500, 60_000));
    });
  }

  /** Aborts the signals of all deliveries. The application can still acknowledge them. */
  abort(): void {
    for (const { abort } of this.#assigned.values()) abort.abort();
  }

  close(): void {
    if (!this.ended) {
      this.#sendAcks();
      this.all.unsubscribe(this);
    }
    this.endWith();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<any, void> {
    try {
      for (;;) {
        const d = this.take();
        if (d) yield d;
        else if (!this.ended) await new Promise<void>((resolve) => (this.onReady = resolve));
        else if (this.error) throw this.error;
        else return;
      }
    } finally {
      this.close();
    }
  }
}
