import type { Options, Status } from "./api.js";
import { backoff, type Clock } from "./clock.js";
import { errorOf, GanglionError, type Fault } from "./errors.js";
import type { Answer, Welcome } from "./frames.js";
import type { Socket, SocketClass } from "./socket.js";

/** What stands on a connection. */
export interface Owner {
  /** The subscriptions that hello asks for, as frames. */
  hello(): object[];
  /** Welcomed: requests may be sent. */
  opened(): void;
  frame(frame: Answer): void;
  /** The log is another one than the client knew; a new connection follows. */
  otherLog(log: string): void;
  lost(): void;
  behind(): boolean;
  status(status: Status): void;
  report(error: GanglionError): void;
  /** It is over for good. */
  closed(error: GanglionError): void;
}

/** A session that lasted this long, in ms, begins the backoff anew. */
const settledAfter = 5_000;
/** How long a socket may take until welcome, and a silent one to answer a ping, in ms. */
const connectWithin = 10_000;
const pongWithin = 5_000;
/** Messages end at about this many characters, and sooner if the gateway takes less than three bytes each. */
const messageChars = 24_000;
/** The least that a gateway takes in a message, in bytes. */
const leastMessage = 32 << 10;
/** No server may keep a client away for longer than this, in ms. */
const longestAway = 120_000;
/** A session that lasted this long, in ms, begins the pauses before moves anew. */
const calmAfter = 2 * longestAway;
/** How many other gateways are asked for a name that one does not know, if there are not more URLs. */
const leastAsked = 3;
/** How many times in a row a token that was good before is tried although gateways refuse it. */
const mostStale = 5;

/** Keeps one socket to one of the gateways open, with a session that was welcomed. */
export class Connection {
  status: Status = "connecting";
  welcome: Welcome | undefined;
  log: string | undefined;

  #socket: Socket | undefined;
  #turn = 0; // counts the sockets: what belongs to an earlier one comes too late
  #url: number;
  #attempt = 0;
  #timer: unknown; // of the connection: until welcome, until the next ping, until the next attempt
  #told = false; // a server said how long to stay away: nothing shortens it
  #away: number | undefined; // for how long, from goodbye
  #lastSeen = 0;
  #since = 0; // when welcome came
  #probing = false;
  #token: string | undefined;
  #fresh = false; // the token was not used before
  #spent: string | undefined; // the token before it, which a gateway refused
  #stale = 0; // refusals in a row of tokens that were used before
  #fetched = 0; // when the token function was last called
  #renewal: unknown; // the timer of the next renewal
  #renewing = false; // a token is being fetched for this connection
  #expires = 0;
  #failures = 0; // renewals in a row that failed
  #auth: string | undefined; // the id of the renewal that is not answered
  #moving: unknown; // the timer of a move to another gateway
  #moves = 0; // since the last calm session
  #unknown = 0; // of those, moves for a name that the gateway does not know
  #refusal: Fault | undefined; // why hello was refused
  #bare = false; // hello has no subscriptions, perhaps the one before had too many; they follow welcome
  #out: string[] = [];
  #ids = 0;

  constructor(
    private readonly options: Options,
    private readonly urls: string[],
    private readonly socketClass: SocketClass,
    private readonly clock: Clock,
    private readonly owner: Owner,
  ) {
    this.log = options.log;
    this.#url = Math.floor(clock.random() * urls.length);
  }

  id(): string {
    return String(++this.#ids);
  }

  /** Queues a frame for the socket; frames of one turn of the event loop share a message. */
  say(text: string): void {
    if (this.#out.push(text) === 1) {
      const turn = this.#turn;
      queueMicrotask(() => turn === this.#turn && this.#flush());
    }
  }

  #flush(): void {
    const out = this.#out;
    const most = Math.min(messageChars, (this.welcome?.limits.frame_bytes ?? leastMessage) / 3);
    this.#out = [];
    for (let from = 0; from < out.length; ) {
      let to = from + 1;
      for (let chars = out[from]!.length; to < out.length && (chars += out[to]!.length + 1) <= most; ) to++;
      this.#socket!.send(out.slice(from, to).join("\n"));
      from = to;
    }
  }

  /** Connects, unless it was closed. */
  async dial(): Promise<void> {
    const turn = ++this.#turn;
    const { clock, options, owner } = this;
    this.#told = false;
    this.#refusal = undefined;
    this.#set("connecting");
    this.#arm(connectWithin, () => this.drop());
    try {
      if (options.token && this.#token === undefined) {
        this.#fetched = clock.now();
        const token = await options.token();
        if (turn !== this.#turn) return;
        this.#token = token;
        this.#fresh = token !== this.#spent;
      }
      const socket = new this.socketClass(this.urls[this.#url % this.urls.length]!, "ganglion.v1");
      this.#socket = socket;
      socket.onopen = () => {
        if (turn !== this.#turn) return;
        this.#lastSeen = clock.now();
        const subscriptions = this.#bare ? [] : owner.hello();
        this.say(
          JSON.stringify({
            op: "hello",
            id: this.id(),
            token: this.#token,
            client: options.client,
            log: this.log,
            subscriptions: subscriptions.length ? subscriptions : undefined,
          }),
        );
      };
      socket.onmessage = (event) => {
        if (turn !== this.#turn) return;
        this.#lastSeen = clock.now();
        this.#probing = false;
        const text = event.data as string;
        for (let from = 0; from < text.length && turn === this.#turn; ) {
          let to = text.indexOf("\n", from);
          if (to < 0) to = text.length;
          if (to > from) this.#receive(text.slice(from, to));
          from = to + 1;
        }
      };
      socket.onerror = () => {}; // what happened comes with onclose
      socket.onclose = (event) => turn === this.#turn && this.#lost(event.code, event.reason);
    } catch (cause) {
      if (turn !== this.#turn) return;
      owner.report(errorOf({ code: "unavailable", message: "can't connect: " + String(cause), retry: "later" }, { cause }));
      this.#lost(1006);
    }
  }

  #receive(line: string): void {
    let frame: Answer;
    try {
      frame = JSON.parse(line);
    } catch (cause) {
      this.owner.report(errorOf({ code: "protocol", message: "the server sent what is not JSON", retry: "later" }, { cause }));
      return this.drop();
    }
    switch (frame.op) {
      case "welcome":
        return this.#opened(frame);
      case "expiring":
        this.#expires = this.clock.now() + frame.in_ms;
        return this.#renewIn(this.#fetched + frame.in_ms / 2 - this.clock.now());
      case "goodbye":
        this.#away = Math.min(frame.reconnect_in_ms, longestAway);
        return;
      case "error":
        if (!this.welcome) {
          this.#refusal = frame;
          return;
        }
    }
    if ("id" in frame && frame.id !== undefined && frame.id === this.#auth) {
      this.#auth = undefined;
      if (frame.op === "error") return this.#notRenewed(frame);
      this.#failures = 0;
    }
    this.owner.frame(frame);
  }

  #opened(welcome: Welcome): void {
    const known = this.log;
    this.log = welcome.log;
    if (known !== undefined && known !== welcome.log) {
      // The gateway refuses all that resumes, for as long as this session lasts.
      this.owner.otherLog(welcome.log);
      return this.drop(true);
    }
    this.welcome = welcome;
    this.#fresh = false;
    this.#stale = 0;
    this.#since = this.clock.now();
    this.#watch();
    this.owner.opened();
    this.settle();
  }

  /** Finds the status anew. */
  settle(): void {
    if (this.welcome) this.#set(this.owner.behind() ? "catching-up" : "live");
  }

  #set(status: Status): void {
    if (this.status === status || this.status === "closed") return;
    this.status = status;
    this.owner.status(status);
  }

  #arm(ms: number, f: () => void): void {
    this.clock.clearTimeout(this.#timer);
    this.#timer = this.clock.setTimeout(f, ms);
  }

  /** Waits for silence, which a heartbeat should have broken. A machine that slept finds it at once. */
  #watch(): void {
    const allowed = this.welcome!.heartbeat_ms * 1.5;
    const left = Math.min(allowed, this.#lastSeen + allowed - this.clock.now());
    if (left > 0) this.#arm(left, () => this.#watch());
    else this.#probe();
  }

  #probe(): void {
    if (this.#probing) return;
    this.#probing = true;
    this.say(JSON.stringify({ op: "ping", id: this.id() }));
    this.#arm(pongWithin, () => (this.#probing ? this.drop() : this.#watch()));
  }

  /** Something changed outside: the network came or went, a tab woke up. */
  wake(): void {
    if (this.welcome) this.#probe();
    else if (this.status === "offline" && !this.#told) void this.dial();
  }

  /** Renews the token after a while, if that is in time: else the gateway will close, and a new session gets a new one. */
  #renewIn(ms: number): void {
    if (!this.options.token || this.#renewing || this.#expires - this.clock.now() < ms + 1_000) return;
    this.clock.clearTimeout(this.#renewal);
    if (ms > 0) this.#renewal = this.clock.setTimeout(() => void this.#renew(), ms);
    else void this.#renew();
  }

  async #renew(): Promise<void> {
    const { clock } = this;
    const turn = this.#turn;
    this.#renewing = true;
    this.#fetched = clock.now();
    try {
      const token = await this.options.token!();
      if (turn !== this.#turn) return;
      this.#renewing = false;
      // The same one, perhaps of a cache: half of what is left of it later there may be another.
      if (token === this.#token) return this.#renewIn((this.#expires - clock.now()) / 2);
      this.#token = token;
      this.say(JSON.stringify({ op: "auth", id: (this.#auth = this.id()), token }));
    } catch (cause) {
      if (turn !== this.#turn) return;
      this.#renewing = false;
      this.#notRenewed({ code: "unauthenticated", message: String(cause) }, { cause });
    }
  }

  /** The token could not be fetched, or was refused. */
  #notRenewed(fault: Fault, options?: ErrorOptions): void {
    this.owner.report(errorOf({ ...fault, message: "can't renew the token: " + fault.message, retry: "later" }, options));
    this.#renewIn(Math.min(backoff(this.clock, this.#failures++, 10_000), (this.#expires - this.clock.now()) / 2));
  }

  /**
   * Moves to another gateway, after a pause that grows with each move: this
   * one can't serve something that others may. It returns false if others
   * were asked for unknown names and did not know them either.
   */
  elsewhere(unknown: boolean): boolean {
    const { clock } = this;
    if (this.#moving === undefined) {
      if (clock.now() - this.#since >= calmAfter) this.#moves = this.#unknown = 0;
      if (unknown && this.#unknown++ >= Math.max(leastAsked, this.urls.length - 1)) return false;
      this.#moving = clock.setTimeout(() => this.#lost(0), backoff(clock, this.#moves++, 500, longestAway));
    }
    return true;
  }

  /** Gives the socket up, and connects anew: at once if asked to. */
  drop(atOnce = false): void {
    this.#lost(atOnce ? 4200 : 1006);
  }

  #release(code?: number): void {
    this.#turn++;
    for (const timer of [this.#timer, this.#renewal, this.#moving]) this.clock.clearTimeout(timer);
    this.#renewal = this.#moving = this.#auth = undefined;
    this.#renewing = false;
    this.#failures = 0;
    this.#out = [];
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // the package ws throws what nobody listens to
    socket.close(code);
  }

  /** The connection has ended: with a gateway's close code, 1006 for none, 0 to move to another gateway. */
  #lost(code: number, reason?: string): void {
    if (this.status === "closed") return;
    const { clock } = this;
    const welcomed = this.welcome !== undefined;
    this.#release();
    this.welcome = undefined;
    this.#probing = false;
    if (welcomed && clock.now() - this.#since >= settledAfter) this.#attempt = 0;
    this.#url++;
    this.owner.lost();

    const band = Math.floor(code / 100);
    let wait: number | undefined;
    if (code === 4001 && this.options.token && (welcomed || (!this.#fresh && this.#stale++ < mostStale))) {
      this.#spent = this.#token; // it has expired: a new one may do
      this.#token = undefined;
      if (this.#attempt === 0) wait = 0;
    } else if (band === 40 || code === 1009) {
      return this.close(
        errorOf({
          message: reason || `closed with ${code}`,
          ...this.#refusal,
          code: code === 4001 ? "unauthenticated" : code === 4004 ? "forbidden" : code === 1009 ? "too_large" : "protocol",
          retry: "no",
        }),
      );
    } else if (this.#away !== undefined) {
      wait = this.#away;
      this.#told = true;
    } else if (band === 41) {
      this.#attempt = Math.max(this.#attempt, 4);
      this.#told = true;
    } else if (code === 0 || (band === 42 && this.#attempt === 0)) {
      wait = 0;
    }
    if (this.#refusal || band === 41) {
      this.owner.report(errorOf({ code: "unavailable", message: reason || `closed with ${code}`, ...this.#refusal, retry: "later" }));
    }
    this.#bare = !!this.#refusal;
    this.#refusal = this.#away = undefined;
    wait ??= backoff(clock, this.#attempt);
    this.#attempt++;
    if (wait === 0) return void this.dial();
    this.#set("offline");
    this.#arm(wait, () => void this.dial());
  }

  close(error: GanglionError): void {
    if (this.status === "closed") return;
    this.#release(1000);
    this.welcome = undefined;
    this.#set("closed");
    this.owner.closed(error);
  }
}
