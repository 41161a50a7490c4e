import type { Subscription, SubscribeOptions } from "./api.js";
import { errorOf, type GanglionError } from "./errors.js";
import { eventOf, type EventFrame, type Start, type StateFrame, type SubscriptionFrame, type Topic } from "./frames.js";
import { Subscriber, type Subscriptions, throwUncaught } from "./subscriptions.js";

/** Bounds the events that wait for the application, unless the option buffer is set. */
const defaultBuffer = 1_000;
/** The number of streams of a category that are checked for gaps. Beyond it the client forgets the streams that have been quiet for longest. */
const maxWatchedStreams = 10_000;

type Item = Record<string, unknown> & { kind: "event" | "state" | "live"; cursor: string; position?: number };
type Handlers = SubscribeOptions<any, any>;

/** One subscription to events: its buffered items, and the cursors of the newest item that arrived and of the newest item that was delivered. */
export class Follower extends Subscriber implements Subscription<any> {
  #received: string | undefined; // cursor of the newest item that arrived
  #delivered: string | undefined; // cursor of the newest item that the application received
  #start: Start;
  #position = 0; // of the newest event that arrived
  #version: number | undefined; // of the newest event that arrived, for a stream
  #versions: Map<string, number> | undefined; // the same by stream, for a category
  #isWhole: boolean; // versions began with the first event and has forgotten no stream, so an unknown stream is at version 0
  #buffer: Item[] = [];
  #paused = false;
  #handlerIsBusy = false; // a handler's promise is pending
  #error: GanglionError | undefined;
  #endReported = false; // onEnd was called
  #readers: { resolve(r: IteratorResult<any>): void; reject(e: unknown): void }[] = [];
  readonly #hasHandlers: boolean; // calls handlers; else it is an iterator
  readonly #yieldsLive: boolean; // "live" is an item
  readonly #limit: number;

  constructor(
    all: Subscriptions,
    private readonly topic: Topic,
    start: Start,
    private readonly options: Handlers,
  ) {
    super(all, options.signal);
    this.#start = start;
    this.#received = this.#delivered = start.cursor;
    this.#version = start.after;
    this.#isWhole = start.cursor === "0";
    if ("category" in topic) this.#versions = new Map();
    this.#limit = options.buffer ?? defaultBuffer;
    const { onEvent, onState, onLive, onEnd } = options;
    this.#hasHandlers = !!(onEvent || onState || onLive || onEnd);
    this.#yieldsLive = !!(options.live || onLive);
  }

  override get wantsSubscribe(): boolean {
    return super.wantsSubscribe && !this.#paused;
  }

  get isResuming(): boolean {
    const { after, cursor } = this.#nextStart();
    return !!after || (cursor !== undefined && cursor !== "0");
  }

  begin(): object {
    return { ...this.topic, ...this.#nextStart() };
  }

  #nextStart(): Start {
    const { state } = this.#start;
    if (this.#received === undefined) return this.#start;
    return { cursor: this.#received, ...(state === "each" && { state }) };
  }

  get cursor(): string | undefined {
    return this.#buffer.length ? this.#delivered : this.#received;
  }

  override onSubscribed(f: { cursor: string }): void {
    super.onSubscribed(f);
    const { after, last, state } = this.#start;
    if (after === undefined && last === undefined && state !== true) this.#received ??= f.cursor;
  }

  onFrame(f: SubscriptionFrame): void {
    if (f.op === "event") this.#onEvent(f);
    else if (f.op === "state") this.#onState(f as StateFrame);
    else if (f.op === "live") this.#onLive(f);
  }

  /** Handles the state, which comes first, or with "each" after its event. */
  #onState(f: StateFrame): void {
    const stream = (this.topic as { stream: string }).stream;
    const { version, position, data } = f;
    const isFirst = this.#start.state === true;
    if (isFirst) {
      this.#version = version;
      this.#position = position;
    }
    this.#bufferItem({ kind: "state", stream, id: idOf(stream), version, position, cursor: isFirst ? String(position) : this.#received!, data });
  }

  #onEvent(f: EventFrame): void {
    const { stream, version, position } = f;
    const known = this.#versions ? (this.#versions.get(stream) ?? (this.#isWhole ? 0 : undefined)) : this.#version;
    if (position <= this.#position || (known !== undefined && version <= known)) {
      this.all.report(errorOf({ code: "protocol", message: `the server sent version ${version} of ${stream}, position ${position}, again: dropped`, version }));
      return;
    }
    if (known !== undefined && version !== known + 1) return this.#endWithGap(stream, known + 1, version);
    if (this.#versions) {
      this.#versions.delete(stream);
      this.#versions.set(stream, version);
      if (this.#versions.size > maxWatchedStreams) {
        this.#versions.delete(this.#versions.keys().next().value!);
        this.#isWhole = false;
      }
    } else {
      this.#version = version;
    }
    this.#position = position;
    this.#bufferItem(eventOf(f));
  }

  #endWithGap(stream: string, expected: number, got: number): void {
    this.all.unsubscribe(this);
    this.endWith(
      errorOf({
        code: "gap",
        message: `the server left out version ${expected} of ${stream} before version ${got}: subscribe again from cursor ${this.#received}`,
        version: expected,
      }),
    );
  }

  #onLive(f: { version?: number; cursor: string }): void {
    if (f.version !== undefined && !this.#versions) {
      if (this.#version !== undefined && f.version !== this.#version) {
        return this.#endWithGap((this.topic as { stream: string }).stream, this.#version + 1, f.version + 1);
      }
      this.#version = f.version;
    }
    this.live = true;
    if (this.#yieldsLive) this.#bufferItem({ kind: "live", cursor: f.cursor });
    else this.#received = f.cursor;
  }

  onHeartbeat(cursor: string, behind: string | undefined): void {
    if (behind !== undefined) this.live = false;
    if (behind !== undefined || this.live) this.#received = behind ?? cursor;
  }

  override onUnsubscribed(code: string, message: string | undefined, cursor: string | undefined): void {
    this.#received = cursor ?? this.#received;
    super.onUnsubscribed(code, message, cursor);
  }

  #bufferItem(item: Item): void {
    if (item.position! > Number.MAX_SAFE_INTEGER) {
      this.all.unsubscribe(this);
      return this.endWith(errorOf({ code: "protocol", message: `position ${item.position} may have been rounded` }));
    }
    this.#received = item.cursor;
    const waiting = this.#readers.shift();
    if (waiting) {
      this.#delivered = item.cursor;
      waiting.resolve({ value: item, done: false });
      return;
    }
    this.#buffer.push(item);
    if (this.#hasHandlers) this.#callHandlers();
    if (this.#buffer.length >= this.#limit && !this.#paused && !this.ended) {
      // A browser can't stop reading a socket. The client requests later events
      // again, from the cursor.
      this.#paused = true;
      this.all.unsubscribe(this);
    }
  }

  #next(): Item | undefined {
    const item = this.#buffer.shift();
    if (!item) return;
    this.#delivered = item.cursor;
    if (this.#paused && this.#buffer.length <= this.#limit / 2) {
      this.#paused = false;
      if (this.wantsSubscribe) this.all.sendSubscribe(this);
    }
    return item;
  }

  /** Calls the handlers, and waits for the promise of each. */
  #callHandlers(): void {
    while (!this.#handlerIsBusy && this.#buffer.length) {
      const item = this.#next()!;
      const { onEvent, onState, onLive } = this.options;
      const call: ((item: any) => unknown) | undefined = item.kind === "event" ? onEvent : item.kind === "state" ? onState : onLive;
      this.#handlerIsBusy = true;
      let done: unknown;
      try {
        done = call?.(item);
      } catch (e) {
        throwUncaught(e);
      }
      if (typeof (done as PromiseLike<unknown> | undefined)?.then === "function") {
        void Promise.resolve(done)
          .catch(throwUncaught)
          .then(() => {
            this.#handlerIsBusy = false;
            this.#callHandlers();
          });
        return;
      }
      this.#handlerIsBusy = false;
    }
    this.#reportEnd();
  }

  /** Buffered items are still delivered. */
  protected onEnd(error: GanglionError | undefined): void {
    this.#error = error;
    this.#reportEnd();
  }

  #reportEnd(): void {
    if (!this.ended || this.#buffer.length || this.#handlerIsBusy) return;
    if (this.#hasHandlers && !this.#endReported) {
      this.#endReported = true;
      const error = this.#error;
      if (this.options.onEnd) this.options.onEnd(error);
      else if (error) this.all.report(error);
    }
    for (const w of this.#readers.splice(0)) this.#endReader(w);
  }

  #endReader(w: { resolve(r: IteratorResult<any>): void; reject(e: unknown): void }): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) w.reject(error);
    else w.resolve({ value: undefined, done: true });
  }

  close(): void {
    if (this.#buffer.length) this.#received = this.#delivered; // not delivered
    this.#buffer = [];
    if (!this.ended) this.all.unsubscribe(this);
    this.endWith();
  }

  [Symbol.asyncIterator](): AsyncIterator<any> {
    if (this.#hasHandlers) throw new TypeError("this subscription has handlers: remove them to iterate");
    return {
      next: () =>
        new Promise((resolve, reject) => {
          const item = this.#next();
          if (item) resolve({ value: item, done: false });
          else if (this.ended) this.#endReader({ resolve, reject });
          else this.#readers.push({ resolve, reject });
        }),
      return: async () => {
        this.close();
        return { value: undefined, done: true };
      },
    };
  }
}

const idOf = (stream: string): string => stream.slice(stream.indexOf("/") + 1);
