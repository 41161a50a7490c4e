import type { Result } from "./api.js";
import { backoff, type Clock } from "./clock.js";
import type { Connection } from "./connection.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { type Answer, bytes, exact } from "./frames.js";

/** How long past its time a command's answer may be, in ms, before its connection is given up. */
const patience = 5_000;
/** The characters of all requests that wait, at most. */
const queueChars = 4 << 20;

interface Request {
  id: string;
  seq: number;
  text: string;
  key: string | undefined;
  lane: Lane;
  timeout: number;
  attempts: number;
  sent: boolean; // perhaps received by a server
  due: number; // in flight: when its answer is too late
  settled: boolean;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** The requests of one aggregate, in order. */
interface Lane {
  name: string;
  waiting: Request[];
  inFlight: number;
  /** Something has to be sent again: nothing leaves until all that is out came back, and a while has passed; Infinity is until there is another connection. */
  held: boolean;
  wait: number;
  timer: unknown;
}

/**
 * Requests until their outcome is known. Those of one lane leave in the order
 * of their calls, pipelined. What was sent and not answered when a connection
 * is lost is sent again on the next one, with the same key.
 */
export class Requests {
  #lanes = new Map<string, Lane>();
  #inFlight = new Map<string, Request>();
  #full = new Set<Lane>(); // wait for one in flight to be answered
  #open = new Set<Request>();
  #chars = 0;
  #seq = 0;
  #overdue: unknown;

  constructor(
    private readonly connection: Connection,
    private readonly clock: Clock,
    private readonly most: number,
    private readonly report: (error: GanglionError) => void,
  ) {}

  /** Sends a frame as soon as its lane's turn comes. */
  send(name: string, frame: { id: string; key?: string | undefined; timeout_ms?: number | undefined }, signal?: AbortSignal): Promise<Result> {
    const { id, key } = frame;
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const text = JSON.stringify(frame, exact);
      if (this.connection.status === "closed") {
        throw errorOf({ code: "closed", message: "the client is closed: this was not sent", retry: "later", ...(key && { key }) });
      }
      if (this.#open.size >= this.most || this.#chars + text.length > queueChars) {
        throw errorOf({
          code: "queue_full",
          message: `${this.#open.size} requests wait for their answers: this one was not sent; wait, or raise the option queue`,
          retry: "later",
          ...(key && { key }),
        });
      }
      let lane = this.#lanes.get(name);
      if (!lane) this.#lanes.set(name, (lane = { name, waiting: [], inFlight: 0, held: false, wait: 0, timer: undefined }));
      const r: Request = {
        id, seq: this.#seq++, text, key, lane, timeout: frame.timeout_ms ?? 5_000,
        attempts: 0, sent: false, due: 0, settled: false, resolve, reject,
      };
      if (signal) {
        const abort = () => {
          this.#settle(r);
          reject(signal.reason);
          const { waiting } = r.lane;
          if (waiting.includes(r)) waiting.splice(waiting.indexOf(r), 1);
          this.#pump(r.lane);
        };
        const off = () => signal.removeEventListener("abort", abort);
        r.resolve = (result) => (off(), resolve(result));
        r.reject = (error) => (off(), reject(error));
        signal.addEventListener("abort", abort, { once: true });
      }
      this.#open.add(r);
      this.#chars += text.length;
      lane.waiting.push(r);
      this.#pump(lane);
    });
  }

  #settle(r: Request): void {
    if (this.#open.delete(r)) this.#chars -= r.text.length;
    r.settled = true;
  }

  #pump(lane: Lane): void {
    const limits = this.connection.welcome?.limits;
    while (limits && !lane.held && lane.waiting.length) {
      if (this.#inFlight.size >= limits.open_requests) {
        this.#full.add(lane);
        return;
      }
      const r = lane.waiting.shift()!;
      if (r.text.length * 3 > limits.frame_bytes && bytes(r.text) > limits.frame_bytes) {
        this.#settle(r);
        r.reject(errorOf({ code: "too_large", message: `the gateway takes ${limits.frame_bytes} bytes in one message`, ...(r.key && { key: r.key }) }));
        continue;
      }
      r.sent = true;
      r.due = this.clock.now() + r.timeout + patience;
      lane.inFlight++;
      this.#inFlight.set(r.id, r);
      this.connection.say(r.text);
      this.#overdue ??= this.clock.setTimeout(() => this.#check(), r.timeout + patience);
    }
    if (!lane.inFlight && !lane.held && !lane.waiting.length) this.#lanes.delete(lane.name);
  }

  /** A gateway answers every request in time. One that does not is gone, whatever else arrives. */
  #check(): void {
    this.#overdue = undefined;
    let next = Infinity;
    for (const r of this.#inFlight.values()) next = Math.min(next, r.due);
    const left = next - this.clock.now();
    if (left <= 0) this.connection.drop();
    else if (left < Infinity) this.#overdue = this.clock.setTimeout(() => this.#check(), left);
  }

  /** Takes the answer to a request. It returns false if that is none of its own. */
  answer(f: Extract<Answer, { op: "result" | "error" }>): boolean {
    const r = this.#inFlight.get(f.id!);
    if (!r) return false;
    this.#inFlight.delete(r.id);
    const { lane } = r;
    lane.inFlight--;
    if (!r.settled) {
      if (f.op === "result") {
        this.#settle(r);
        r.resolve({
          key: f.key ?? r.key ?? "",
          version: f.version ?? 0,
          position: f.position ?? 0,
          replayed: f.replayed === true,
          data: f.data,
        });
      } else if (f.retry === "same_key" || f.retry === "later" || (f.code === "not_found" && this.connection.elsewhere(true))) {
        const again = f.retry === "same_key" ? f.retry : "later";
        const here = f.after_ms ?? (again === "same_key" && r.attempts === 0 ? 0 : backoff(this.clock, r.attempts, 100));
        const wait = f.retry === again ? here : Infinity;
        r.attempts++;
        if (!lane.held && f.code !== "busy") this.report(errorOf({ ...f, retry: again }));
        lane.held = true;
        lane.wait = Math.max(lane.wait, wait);
        this.#again(r);
      } else {
        this.#settle(r);
        r.reject(errorOf(f));
      }
    }
    this.#turn(lane);
    for (const waiting of this.#full) {
      this.#full.delete(waiting);
      this.#pump(waiting);
      if (this.#full.has(waiting)) break;
    }
    return true;
  }

  /** Puts a request back to where it was in its lane. */
  #again(r: Request): void {
    const { waiting } = r.lane;
    let at = 0;
    while (at < waiting.length && waiting[at]!.seq < r.seq) at++;
    waiting.splice(at, 0, r);
  }

  #turn(lane: Lane): void {
    if (lane.held && !lane.inFlight && lane.timer === undefined) {
      const go = () => {
        lane.timer = undefined;
        lane.held = false;
        lane.wait = 0;
        this.#pump(lane);
      };
      if (lane.wait === 0) go();
      else if (lane.wait < Infinity) lane.timer = this.clock.setTimeout(go, lane.wait);
    } else if (!lane.held) {
      this.#pump(lane);
    }
  }

  opened(): void {
    for (const lane of [...this.#lanes.values()]) this.#pump(lane);
  }

  lost(): void {
    this.clock.clearTimeout(this.#overdue);
    this.#overdue = undefined;
    this.#full.clear();
    const out = [...this.#inFlight.values()];
    this.#inFlight.clear();
    for (const r of out) {
      r.lane.inFlight = 0;
      if (!r.settled) this.#again(r);
    }
    for (const lane of [...this.#lanes.values()]) {
      if (lane.wait === Infinity) lane.wait = 0; // the next connection is another one
      this.#turn(lane);
    }
  }

  closed(error: GanglionError): void {
    this.lost();
    for (const lane of this.#lanes.values()) this.clock.clearTimeout(lane.timer);
    this.#lanes.clear();
    for (const r of this.#open) {
      this.#settle(r);
      const fault: Fault = {
        code: "closed",
        message: r.sent ? "the client was closed: the outcome is unknown" : "the client was closed: this was not sent",
        retry: r.sent ? "same_key" : "later",
        ...(r.key && { key: r.key }),
      };
      r.reject(errorOf(fault, { cause: error }));
    }
  }
}
