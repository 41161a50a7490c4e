import type { Result } from "./api.js";
import { backoff, type Clock } from "./clock.js";
import type { Connection } from "./connection.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { type GatewayFrame, bytes, exact } from "./frames.js";

/** Added to a request's timeout, in ms. If no answer arrives in that time, the client gives up the connection. */
const answerGrace = 5_000;
/** Bounds the characters of all pending requests. */
const queueChars = 4 << 20;

interface Request {
  id: string;
  seq: number;
  text: string;
  key: string | undefined;
  lane: Lane;
  timeout: number;
  awaitsPosition: boolean; // a query that fails if the position is not reached in time
  attempts: number;
  sent: boolean; // a server may have received it
  due: number; // when the client gives up the connection, if in flight
  finished: boolean;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** The requests of one aggregate, in order. */
interface Lane {
  name: string;
  waiting: Request[];
  inFlight: number;
  /** A request must be sent again: the lane sends nothing until all requests in flight are answered and wait has passed. If wait is Infinity, the lane waits for the next connection. */
  held: boolean;
  wait: number;
  timer: unknown;
}

/**
 * All pending requests. The requests of a lane are sent in the order of the
 * calls, pipelined. When a connection is lost, its unanswered requests are
 * sent again on the next one, with the same keys.
 */
export class Requests {
  #lanes = new Map<string, Lane>();
  #inFlight = new Map<string, Request>();
  #awaitingRoom = new Set<Lane>(); // lanes that wait for a request in flight to be answered
  #open = new Set<Request>();
  #chars = 0;
  #seq = 0;
  #overdueTimer: unknown;

  constructor(
    private readonly connection: Connection,
    private readonly clock: Clock,
    private readonly most: number,
    private readonly report: (error: GanglionError) => void,
  ) {}

  /** Queues a frame in its lane. */
  send(name: string, frame: { id: string; key?: string | undefined; timeout_ms?: number | undefined; query?: string; at_least?: number | undefined }, signal?: AbortSignal): Promise<Result> {
    const { id, key } = frame;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const text = JSON.stringify(frame, exact);
      if (this.connection.status === "closed") {
        throw errorOf({ code: "closed", message: "the client is closed: the request was not sent", retry: "later", ...(key && { key }) });
      }
      if (this.#open.size >= this.most || this.#chars + text.length > queueChars) {
        throw errorOf({
          code: "queue_full",
          message: `${this.#open.size} requests are pending, so this one was not sent: wait, or raise the option queue`,
          retry: "later",
          ...(key && { key }),
        });
      }
      let lane = this.#lanes.get(name);
      if (!lane) this.#lanes.set(name, (lane = { name, waiting: [], inFlight: 0, held: false, wait: 0, timer: undefined }));
      const r: Request = {
        id, seq: this.#seq++, text, key, lane, timeout: frame.timeout_ms ?? 5_000, awaitsPosition: frame.query !== undefined && frame.at_least !== undefined,
        attempts: 0, sent: false, due: 0, finished: false, resolve, reject,
      };
      if (signal) {
        const abort = () => {
          this.#finish(r);
          reject(signal.reason);
          const { waiting } = r.lane;
          if (waiting.includes(r)) waiting.splice(waiting.indexOf(r), 1);
          this.#sendWaiting(r.lane);
        };
        const off = () => signal.removeEventListener("abort", abort);
        r.resolve = (result) => (off(), resolve(result));
        r.reject = (error) => (off(), reject(error));
        signal.addEventListener("abort", abort, { once: true });
      }
      this.#open.add(r);
      this.#chars += text.length;
      lane.waiting.push(r);
      this.#sendWaiting(lane);
    });
  }

  #finish(r: Request): void {
    if (this.#open.delete(r)) this.#chars -= r.text.length;
    r.finished = true;
  }

  #sendWaiting(lane: Lane): void {
    const limits = this.connection.welcome?.limits;
    while (limits && !lane.held && lane.waiting.length) {
      if (this.#inFlight.size >= limits.open_requests) {
        this.#awaitingRoom.add(lane);
        return;
      }
      const r = lane.waiting.shift()!;
      if (r.text.length * 3 > limits.frame_bytes && bytes(r.text) > limits.frame_bytes) {
        this.#finish(r);
        r.reject(errorOf({ code: "too_large", message: `the request is too large: the gateway accepts at most ${limits.frame_bytes} bytes in one message`, ...(r.key && { key: r.key }) }));
        continue;
      }
      r.sent = true;
      r.due = this.clock.now() + r.timeout + answerGrace;
      lane.inFlight++;
      this.#inFlight.set(r.id, r);
      this.connection.enqueue(r.text);
      this.#overdueTimer ??= this.clock.setTimeout(() => this.#checkOverdue(), r.timeout + answerGrace);
    }
    if (!lane.inFlight && !lane.held && !lane.waiting.length) this.#lanes.delete(lane.name);
  }

  /** Drops the connection if a request is not answered in time, even if other frames arrive. */
  #checkOverdue(): void {
    this.#overdueTimer = undefined;
    let next = Infinity;
    for (const r of this.#inFlight.values()) next = Math.min(next, r.due);
    const left = next - this.clock.now();
    if (left <= 0) this.connection.drop();
    else if (left < Infinity) this.#overdueTimer = this.clock.setTimeout(() => this.#checkOverdue(), left);
  }

  /** Handles a result or an error. It returns false if no request in flight has its id. */
  onAnswer(f: Extract<GatewayFrame, { op: "result" | "error" }>): boolean {
    const r = this.#inFlight.get(f.id!);
    if (!r) return false;
    this.#inFlight.delete(r.id);
    const { lane } = r;
    lane.inFlight--;
    if (!r.finished) {
      if (f.op === "result") {
        this.#finish(r);
        r.resolve({
          key: f.key ?? r.key ?? "",
          version: f.version ?? 0,
          position: f.position ?? 0,
          replayed: f.replayed === true,
          data: f.data,
        });
      } else if ((f.retry === "same_key" || f.retry === "later") && !(r.awaitsPosition && f.code === "unavailable") || (f.code === "not_found" && this.connection.scheduleMove(true))) {
        const retry = f.retry === "same_key" ? f.retry : "later";
        const here = f.after_ms ?? (retry === "same_key" && r.attempts === 0 ? 0 : backoff(this.clock, r.attempts, 100));
        const wait = f.retry === retry ? here : Infinity;
        r.attempts++;
        if (!lane.held && f.code !== "busy") this.report(errorOf({ ...f, retry }));
        lane.held = true;
        lane.wait = Math.max(lane.wait, wait);
        this.#requeue(r);
      } else {
        this.#finish(r);
        r.reject(errorOf(f));
      }
    }
    this.#releaseLane(lane);
    for (const waiting of this.#awaitingRoom) {
      this.#awaitingRoom.delete(waiting);
      this.#sendWaiting(waiting);
      if (this.#awaitingRoom.has(waiting)) break;
    }
    return true;
  }

  /** Puts a request back in its place in the lane. */
  #requeue(r: Request): void {
    const { waiting } = r.lane;
    let at = 0;
    while (at < waiting.length && waiting[at]!.seq < r.seq) at++;
    waiting.splice(at, 0, r);
  }

  #releaseLane(lane: Lane): void {
    if (lane.held && !lane.inFlight && lane.timer === undefined) {
      const go = () => {
        lane.timer = undefined;
        lane.held = false;
        lane.wait = 0;
        this.#sendWaiting(lane);
      };
      if (lane.wait === 0) go();
      else if (lane.wait < Infinity) lane.timer = this.clock.setTimeout(go, lane.wait);
    } else if (!lane.held) {
      this.#sendWaiting(lane);
    }
  }

  onWelcome(): void {
    for (const lane of [...this.#lanes.values()]) this.#sendWaiting(lane);
  }

  onDisconnect(): void {
    this.clock.clearTimeout(this.#overdueTimer);
    this.#overdueTimer = undefined;
    this.#awaitingRoom.clear();
    const out = [...this.#inFlight.values()];
    this.#inFlight.clear();
    for (const r of out) {
      r.lane.inFlight = 0;
      if (!r.finished) this.#requeue(r);
    }
    for (const lane of [...this.#lanes.values()]) {
      if (lane.wait === Infinity) lane.wait = 0; // the next connection is to another gateway
      this.#releaseLane(lane);
    }
  }

  onClosed(error: GanglionError): void {
    this.onDisconnect();
    for (const lane of this.#lanes.values()) this.clock.clearTimeout(lane.timer);
    this.#lanes.clear();
    for (const r of this.#open) {
      this.#finish(r);
      const fault: Fault = {
        code: "closed",
        message: r.sent ? "the client was closed: the outcome is unknown" : "the client was closed: the request was not sent",
        retry: r.sent ? "same_key" : "later",
        ...(r.key && { key: r.key }),
      };
      r.reject(errorOf(fault, { cause: error }));
    }
  }
}
