import { backoff, type Clock } from "./clock.js";
import type { Connection } from "./connection.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { bytes, type GatewayFrame, type SubscriptionFrame } from "./frames.js";

/**
 * Bounds the bytes of the subscriptions in hello. The others follow welcome.
 * With a token of 8 KiB hello stays below 32 KiB, which every gateway accepts.
 */
const maxHelloBytes = 16_000;
/** The retry timer of a subscription that waits for the next connection. */
const nextConnection = {};

/** All subscriptions of a client. */
export class Subscriptions {
  readonly #all = new Set<Subscriber>();
  readonly #byId = new Map<string, Subscriber>();
  readonly #answers = new Map<string, (f: GatewayFrame) => void>(); // of requests that are not retried, by id

  constructor(
    readonly connection: Connection,
    readonly clock: Clock,
    readonly report: (error: GanglionError) => void,
  ) {}

  add<T extends Subscriber>(subscriber: T, signal: AbortSignal | undefined): T {
    if (this.connection.status === "closed") {
      subscriber.endWith(errorOf({ code: "closed", message: "the client is closed" }));
      return subscriber;
    }
    if (signal?.aborted) {
      subscriber.endWith();
      return subscriber;
    }
    this.#all.add(subscriber);
    if (this.connection.welcome) this.sendSubscribe(subscriber);
    this.connection.updateStatus();
    return subscriber;
  }

  /** Returns the subscribe frames that fit into hello. */
  hello(): object[] {
    const frames: object[] = [];
    let size = 0;
    for (const subscriber of this.#all) {
      if (!subscriber.wantsSubscribe) continue;
      const frame = this.#subscribeFrame(subscriber);
      if (frame.op !== "subscribe") {
        this.unregister(subscriber); // follows welcome
        continue;
      }
      size += bytes(JSON.stringify(frame));
      if (size > maxHelloBytes) {
        this.unregister(subscriber);
        break;
      }
      frames.push(frame);
    }
    return frames;
  }

  onWelcome(): void {
    for (const subscriber of this.#all) if (subscriber.wantsSubscribe) this.sendSubscribe(subscriber);
  }

  sendSubscribe(subscriber: Subscriber): void {
    if (this.connection.welcome) this.connection.enqueue(JSON.stringify(this.#subscribeFrame(subscriber)));
  }

  /** Sends a frame, on this connection only. onAnswer gets its result or error. */
  ask(frame: object, onAnswer: (f: GatewayFrame) => void): void {
    const id = this.connection.id();
    this.#answers.set(id, onAnswer);
    this.connection.enqueue(JSON.stringify({ ...frame, id }));
  }

  #subscribeFrame(subscriber: Subscriber): { op: string; id: string } {
    subscriber.id = this.connection.id();
    this.#byId.set(subscriber.id, subscriber);
    return { op: "subscribe", id: subscriber.id, ...subscriber.begin() };
  }

  /** Stops the frames of a subscription. */
  unsubscribe(subscriber: Subscriber): void {
    if (subscriber.id !== undefined && this.connection.welcome) {
      this.connection.enqueue(JSON.stringify({ op: "unsubscribe", id: this.connection.id(), sub: subscriber.id }));
    }
    this.unregister(subscriber);
    this.connection.updateStatus();
  }

  unregister(subscriber: Subscriber): void {
    if (subscriber.id !== undefined) this.#byId.delete(subscriber.id);
    subscriber.id = undefined;
    subscriber.live = false;
  }

  remove(subscriber: Subscriber): void {
    this.#all.delete(subscriber);
    this.connection.updateStatus();
  }

  onFrame(f: GatewayFrame): boolean {
    if (f.op === "result" || f.op === "error") {
      const onAnswer = this.#answers.get(f.id!);
      onAnswer?.(f);
      if (this.#answers.delete(f.id!)) return true;
    }
    switch (f.op) {
      case "event":
      case "state":
      case "live":
      case "update":
      case "keys":
      case "synced":
      case "reset":
      case "assigned":
      case "revoking":
      case "revoked":
        this.#byId.get(f.sub)?.onFrame(f);
        if (f.op === "live" || f.op === "synced" || f.op === "reset") this.connection.updateStatus();
        return true; // frames may still arrive after unsubscribe
      case "heartbeat": {
        const behind = new Map(f.behind?.map((b) => [b.sub, b.cursor]));
        for (const subscriber of this.#byId.values()) subscriber.onHeartbeat(f.cursor, behind.get(subscriber.id!));
        this.connection.updateStatus();
        return true;
      }
      case "subscribed":
      case "consuming":
        this.#byId.get(f.id)?.onSubscribed(f as { cursor: string });
        return true;
      case "unsubscribed":
        if (f.id === undefined) this.#byId.get(f.sub)?.onUnsubscribed(f.code ?? "protocol", f.message, f.cursor);
        return true;
      case "error": {
        const subscriber = this.#byId.get(f.id!);
        subscriber?.onRefusal(f, f.code === "not_found");
        return subscriber !== undefined;
      }
    }
    return false;
  }

  get isCatchingUp(): boolean {
    for (const subscriber of this.#all) if (!subscriber.live) return true;
    return false;
  }

  onDisconnect(): void {
    this.#byId.clear();
    this.#answers.clear();
    for (const subscriber of this.#all) subscriber.onDisconnect();
  }

  /** Ends the subscriptions that refer to another log and can't continue in this one. */
  onOtherLog(log: string): void {
    for (const subscriber of [...this.#all]) {
      if (subscriber.isResuming) {
        subscriber.endWith(
          errorOf({ code: "cursor_ahead", message: `the cursor belongs to another log than ${log}, which lacks events that you know: discard your copy and start again` }),
        );
      }
    }
  }

  onClosed(error: GanglionError | undefined): void {
    for (const subscriber of [...this.#all]) subscriber.endWith(error);
  }
}

/** What all kinds of subscriptions have in common: how they begin, are refused and end. */
export abstract class Subscriber {
  id: string | undefined; // on the current connection; undefined if not subscribed there
  live = false;

  protected ended = false;
  #retryTimer: unknown; // until the next attempt
  #attempts = 0;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.close();

  constructor(
    protected readonly all: Subscriptions,
    signal: AbortSignal | undefined,
  ) {
    this.#signal = signal;
    signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Whether a welcomed connection must send its subscribe frame. */
  get wantsSubscribe(): boolean {
    return this.id === undefined && this.#retryTimer === undefined && !this.ended;
  }

  /** Whether the next subscribe can be served in one log only. */
  abstract get isResuming(): boolean;
  /** Returns the members of the next subscribe frame. Another op replaces subscribe. */
  abstract begin(): object;
  abstract onFrame(f: SubscriptionFrame): void;
  /** behind is the cursor of a subscription that is behind. */
  abstract onHeartbeat(cursor: string, behind: string | undefined): void;
  abstract close(): void;
  protected abstract onEnd(error: GanglionError | undefined): void;

  onSubscribed(_f: { cursor: string }): void {
    this.#attempts = 0;
  }

  onUnsubscribed(code: string, message: string | undefined, _cursor: string | undefined): void {
    this.onRefusal({ code, message: message ?? code }, code === "unavailable");
  }

  /** Handles a subscription that the server does not serve: it ends permanently or tries again later. If movable is set, another gateway may serve it, and the client moves. */
  onRefusal(fault: Fault, movable: boolean): void {
    const { clock, connection } = this.all;
    this.all.unregister(this);
    const moves = movable && connection.scheduleMove(fault.code === "not_found");
    const error = errorOf(moves ? { ...fault, retry: "later" } : fault);
    if (error.retry === "no") return this.endWith(error);
    this.all.report(error);
    const resubscribe = () => {
      this.#retryTimer = undefined;
      if (this.wantsSubscribe) this.all.sendSubscribe(this);
    };
    this.#retryTimer = moves ? nextConnection : clock.setTimeout(resubscribe, fault.after_ms ?? backoff(clock, this.#attempts++));
    connection.updateStatus();
  }

  /** Handles the end of the connection. */
  onDisconnect(): void {
    this.id = undefined;
    this.live = false;
    if (this.#retryTimer === nextConnection) this.#retryTimer = undefined;
  }

  endWith(error?: GanglionError): void {
    if (this.ended) return;
    this.ended = true;
    this.all.clock.clearTimeout(this.#retryTimer);
    this.all.unregister(this);
    this.all.remove(this);
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.onEnd(error);
  }
}

/** Throws an error of an application's function as an uncaught error. */
export function throwUncaught(e: unknown): void {
  queueMicrotask(() => {
    throw e;
  });
}
