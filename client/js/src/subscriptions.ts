import type { Subscription, SubscribeOptions } from "./api.js";
import { backoff, type Clock } from "./clock.js";
import type { Connection } from "./connection.js";
import { errorOf, type Fault, type GanglionError } from "./errors.js";
import { type Answer, bytes, type EventFrame, type Start, type StateFrame, type Topic } from "./frames.js";

/** Where a subscription reads no more until its application has caught up: events, and characters of their data. */
const bufferEvents = 1_000;
/** How many streams of a category are checked for holes; past it the ones unheard of for longest are not. */
const watchedStreams = 10_000;
/**
 * How many bytes of hello are subscriptions; the others follow welcome. With a
 * token of 8 KiB hello stays below 32 KiB, the least that a gateway takes.
 */
const helloBytes = 16_000;
/** The timer of a subscription that waits for another connection. */
const elsewhere = {};

type Item = Record<string, unknown> & { kind: "event" | "state" | "live"; cursor: string; position?: number };
type Handlers = SubscribeOptions<any, any>;

/** All subscriptions of a client. */
export class Subscriptions {
  readonly #all = new Set<Feed>();
  readonly #byId = new Map<string, Feed>();

  constructor(
    readonly connection: Connection,
    readonly clock: Clock,
    readonly report: (error: GanglionError) => void,
  ) {}

  add(topic: Topic, start: Start, options: Handlers): Feed {
    const feed = new Feed(this, topic, start, options);
    if (this.connection.status === "closed") {
      feed.end(errorOf({ code: "closed", message: "the client is closed" }));
      return feed;
    }
    if (options.signal?.aborted) {
      feed.end();
      return feed;
    }
    this.#all.add(feed);
    if (this.connection.welcome) this.begin(feed);
    this.connection.settle();
    return feed;
  }

  /** The subscriptions that fit into hello. */
  hello(): object[] {
    const frames: object[] = [];
    let size = 0;
    for (const feed of this.#all) {
      if (!feed.wanted) continue;
      const frame = this.#frame(feed);
      size += bytes(JSON.stringify(frame));
      if (size > helloBytes) {
        this.forget(feed);
        break;
      }
      frames.push(frame);
    }
    return frames;
  }

  opened(): void {
    for (const feed of this.#all) if (feed.wanted) this.begin(feed);
  }

  begin(feed: Feed): void {
    if (this.connection.welcome) this.connection.say(JSON.stringify(this.#frame(feed)));
  }

  #frame(feed: Feed): object {
    feed.id = this.connection.id();
    this.#byId.set(feed.id, feed);
    return { op: "subscribe", id: feed.id, ...feed.topic, ...feed.where() };
  }

  /** Stops the frames of a subscription. */
  stop(feed: Feed): void {
    if (feed.id !== undefined && this.connection.welcome) {
      this.connection.say(JSON.stringify({ op: "unsubscribe", id: this.connection.id(), sub: feed.id }));
    }
    this.forget(feed);
    this.connection.settle();
  }

  forget(feed: Feed): void {
    if (feed.id !== undefined) this.#byId.delete(feed.id);
    feed.id = undefined;
    feed.live = false;
  }

  remove(feed: Feed): void {
    this.#all.delete(feed);
    this.connection.settle();
  }

  frame(f: Answer): boolean {
    switch (f.op) {
      case "event":
        this.#byId.get(f.sub)?.event(f);
        return true; // the events of one that was stopped may still arrive
      case "state":
        this.#byId.get(f.sub)?.state(f);
        return true;
      case "live":
        this.#byId.get(f.sub)?.caughtUp(f);
        this.connection.settle();
        return true;
      case "heartbeat": {
        const behind = new Map(f.behind?.map((b) => [b.sub, b.cursor]));
        for (const feed of this.#byId.values()) feed.heartbeat(f.cursor, behind.get(feed.id!));
        if (behind.size) this.connection.settle();
        return true;
      }
      case "subscribed":
        this.#byId.get(f.id)?.begun(f.cursor);
        return true;
      case "unsubscribed":
        if (f.id === undefined) this.#byId.get(f.sub)?.unsubscribed(f.code ?? "protocol", f.message, f.cursor);
        return true;
      case "error": {
        const feed = this.#byId.get(f.id!);
        feed?.refused(f, f.code === "not_found");
        return feed !== undefined;
      }
    }
    return false;
  }

  get behind(): boolean {
    for (const feed of this.#all) if (!feed.live) return true;
    return false;
  }

  lost(): void {
    for (const feed of this.#all) feed.lost();
    this.#byId.clear();
  }

  /** The log is another one: what refers to the one before can't go on. */
  otherLog(log: string): void {
    for (const feed of [...this.#all]) {
      if (feed.resumes) {
        feed.end(
          errorOf({ code: "cursor_ahead", message: `the cursor belongs to another log than ${log}: what you know was lost here; start again` }),
        );
      }
    }
  }

  closed(error: GanglionError | undefined): void {
    for (const feed of [...this.#all]) feed.end(error);
  }
}

/** One subscription: what has come, what the application has had, and where to go on. */
export class Feed implements Subscription<any> {
  id: string | undefined; // on the current connection
  live = false;

  #received: string | undefined; // the cursor of what has come
  #delivered: string | undefined; // that of what the application has had
  #start: Start;
  #position = 0; // of the last event that came
  #version: number | undefined; // of a stream: that of the last event that came
  #versions: Map<string, number> | undefined; // of a category, by stream
  #whole: boolean; // a category from its beginning: streams begin at version 1
  #buffer: Item[] = [];
  #paused = false;
  #retry: unknown; // the timer of the next attempt
  #attempt = 0;
  #busy = false; // a handler is at work
  #over = false;
  #error: GanglionError | undefined;
  #finished = false; // and has said so
  #waiting: { resolve(r: IteratorResult<any>): void; reject(e: unknown): void }[] = [];
  readonly #calls: boolean; // handlers, else an iterator
  readonly #marks: boolean; // "live" is an item
  readonly #most: number;
  readonly #abort: (() => void) | undefined;

  constructor(
    private readonly all: Subscriptions,
    readonly topic: Topic,
    start: Start,
    private readonly options: Handlers,
  ) {
    this.#start = start;
    this.#received = this.#delivered = start.cursor;
    this.#version = start.after;
    this.#whole = start.cursor === "0";
    if ("category" in topic) this.#versions = new Map();
    this.#most = options.buffer ?? bufferEvents;
    const { signal, onEvent, onState, onLive, onEnd } = options;
    this.#calls = !!(onEvent || onState || onLive || onEnd);
    this.#marks = !!(options.live || onLive);
    if (signal) {
      this.#abort = () => this.close();
      signal.addEventListener("abort", this.#abort, { once: true });
    }
  }

  /** Whether a connection is to have it. */
  get wanted(): boolean {
    return this.id === undefined && !this.#paused && this.#retry === undefined && !this.#over;
  }

  /** Whether it goes on from something known of the log. */
  get resumes(): boolean {
    const { after, cursor } = this.where();
    return !!after || (cursor !== undefined && cursor !== "0");
  }

  where(): Start {
    return this.#received === undefined ? this.#start : { cursor: this.#received };
  }

  get cursor(): string | undefined {
    return this.#buffer.length ? this.#delivered : this.#received;
  }

  begun(cursor: string): void {
    this.#attempt = 0;
    const { after, last, state } = this.#start;
    if (after === undefined && last === undefined && !state) this.#received ??= cursor;
  }

  state(f: StateFrame): void {
    const stream = (this.topic as { stream: string }).stream;
    this.#version = f.version;
    this.#position = f.position;
    this.#push({ kind: "state", stream, id: idOf(stream), version: f.version, position: f.position, cursor: String(f.position), data: f.data });
  }

  event(f: EventFrame): void {
    const { stream, version, position } = f;
    const known = this.#versions ? (this.#versions.get(stream) ?? (this.#whole ? 0 : undefined)) : this.#version;
    if (position <= this.#position || (known !== undefined && version <= known)) {
      this.all.report(errorOf({ code: "protocol", message: `version ${version} of ${stream}, position ${position}, came again: left out`, version }));
      return;
    }
    if (known !== undefined && version !== known + 1) return this.#gap(stream, known + 1, version);
    if (this.#versions) {
      this.#versions.delete(stream);
      this.#versions.set(stream, version);
      if (this.#versions.size > watchedStreams) {
        this.#versions.delete(this.#versions.keys().next().value!);
        this.#whole = false;
      }
    } else {
      this.#version = version;
    }
    this.#position = position;
    const item: Item = {
      kind: "event", event: f.event, data: f.data, stream, id: idOf(stream), version, position,
      cursor: String(position), time: f.time, cause: f.cause,
    };
    if (f.by !== undefined) item.by = f.by;
    this.#push(item);
  }

  #gap(stream: string, expected: number, got: number): void {
    this.all.stop(this);
    this.end(
      errorOf({
        code: "gap",
        message: `the server left out version ${expected} of ${stream} before version ${got}: subscribe again from the cursor ${this.#received}`,
        version: expected,
      }),
    );
  }

  caughtUp(f: { version?: number; cursor: string }): void {
    if (f.version !== undefined && !this.#versions) {
      if (this.#version !== undefined && f.version !== this.#version) {
        return this.#gap((this.topic as { stream: string }).stream, this.#version + 1, f.version + 1);
      }
      this.#version = f.version;
    }
    this.live = true;
    if (this.#marks) this.#push({ kind: "live", cursor: f.cursor });
    else this.#received = f.cursor;
  }

  heartbeat(cursor: string, behind: string | undefined): void {
    if (behind !== undefined) this.live = false;
    if (behind !== undefined || this.live) this.#received = behind ?? cursor;
  }

  unsubscribed(code: string, message: string | undefined, cursor: string | undefined): void {
    this.#received = cursor ?? this.#received;
    this.refused({ code, message: message ?? code }, code === "unavailable");
  }

  /** The server does not serve it: for good, for now, or as long as it is this server. */
  refused(fault: Fault, away: boolean): void {
    const { clock, connection } = this.all;
    this.all.forget(this);
    away &&= connection.elsewhere(fault.code === "not_found");
    const error = errorOf(away ? { ...fault, retry: "later" } : fault);
    if (error.retry === "no") return this.end(error);
    this.all.report(error);
    const again = () => {
      this.#retry = undefined;
      if (this.wanted) this.all.begin(this);
    };
    this.#retry = away ? elsewhere : clock.setTimeout(again, fault.after_ms ?? backoff(clock, this.#attempt++));
    connection.settle();
  }

  /** The connection is lost. */
  lost(): void {
    this.id = undefined;
    this.live = false;
    if (this.#retry === elsewhere) this.#retry = undefined;
  }

  #push(item: Item): void {
    if (item.position! > Number.MAX_SAFE_INTEGER) {
      this.all.stop(this);
      return this.end(errorOf({ code: "protocol", message: `position ${item.position} may have been rounded` }));
    }
    this.#received = item.cursor;
    const waiting = this.#waiting.shift();
    if (waiting) {
      this.#delivered = item.cursor;
      waiting.resolve({ value: item, done: false });
      return;
    }
    this.#buffer.push(item);
    if (this.#calls) this.#pump();
    if (this.#buffer.length >= this.#most && !this.#paused && !this.#over) {
      // A browser can't stop reading a socket: the events that follow come
      // again from the cursor.
      this.#paused = true;
      this.all.stop(this);
    }
  }

  #take(): Item | undefined {
    const item = this.#buffer.shift();
    if (!item) return;
    this.#delivered = item.cursor;
    if (this.#paused && this.#buffer.length <= this.#most / 2) {
      this.#paused = false;
      if (this.wanted) this.all.begin(this);
    }
    return item;
  }

  /** Calls the handlers. One that returns a promise is waited for. */
  #pump(): void {
    while (!this.#busy && this.#buffer.length) {
      const item = this.#take()!;
      const { onEvent, onState, onLive } = this.options;
      const call: ((item: any) => unknown) | undefined = item.kind === "event" ? onEvent : item.kind === "state" ? onState : onLive;
      this.#busy = true;
      let done: unknown;
      try {
        done = call?.(item);
      } catch (e) {
        failed(e);
      }
      if (typeof (done as PromiseLike<unknown> | undefined)?.then === "function") {
        void Promise.resolve(done)
          .catch(failed)
          .then(() => {
            this.#busy = false;
            this.#pump();
          });
        return;
      }
      this.#busy = false;
    }
    this.#finish();
  }

  /** Ends it; what has come before is still delivered. */
  end(error?: GanglionError): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.all.clock.clearTimeout(this.#retry);
    this.all.forget(this);
    this.all.remove(this);
    if (this.#abort) this.options.signal!.removeEventListener("abort", this.#abort);
    this.#finish();
  }

  #finish(): void {
    if (!this.#over || this.#buffer.length || this.#busy) return;
    if (this.#calls && !this.#finished) {
      this.#finished = true;
      const error = this.#error;
      if (this.options.onEnd) this.options.onEnd(error);
      else if (error) this.all.report(error);
    }
    for (const w of this.#waiting.splice(0)) this.#last(w);
  }

  #last(w: { resolve(r: IteratorResult<any>): void; reject(e: unknown): void }): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) w.reject(error);
    else w.resolve({ value: undefined, done: true });
  }

  close(): void {
    if (this.#buffer.length) this.#received = this.#delivered; // the application has not had these
    this.#buffer = [];
    if (!this.#over) this.all.stop(this);
    this.end();
  }

  [Symbol.asyncIterator](): AsyncIterator<any> {
    if (this.#calls) throw new TypeError("this subscription calls its handlers: leave them out to iterate");
    return {
      next: () =>
        new Promise((resolve, reject) => {
          const item = this.#take();
          if (item) resolve({ value: item, done: false });
          else if (this.#over) this.#last({ resolve, reject });
          else this.#waiting.push({ resolve, reject });
        }),
      return: async () => {
        this.close();
        return { value: undefined, done: true };
      },
    };
  }
}

const idOf = (stream: string): string => stream.slice(stream.indexOf("/") + 1);

/** An error of the application's handler is the application's: it goes where uncaught ones go. */
function failed(e: unknown): void {
  queueMicrotask(() => {
    throw e;
  });
}
