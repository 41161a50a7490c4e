import type { Options, Status } from "./api.js";
import { backoff, type Clock } from "./clock.js";
import { errorOf, GanglionError, type Fault } from "./errors.js";
import type { GatewayFrame, Welcome } from "./frames.js";
import type { Socket, SocketClass } from "./socket.js";

/** The callbacks of a connection, for requests and subscriptions. */
export interface Hooks {
  /** Returns the subscribe frames for hello. */
  hello(): object[];
  /** The session was welcomed: requests may be sent. */
  onWelcome(): void;
  onFrame(frame: GatewayFrame): void;
  /** The gateway's log is not the one that the client knows. The client then connects again. */
  onOtherLog(log: string): void;
  onDisconnect(): void;
  isCatchingUp(): boolean;
  onStatus(status: Status): void;
  report(error: GanglionError): void;
  /** The client is closed permanently. */
  onClosed(error: GanglionError): void;
}

/** The age of a session that resets the backoff, in ms. */
const backoffResetAfter = 5_000;
/** Bounds an attempt, in ms: fetching the token, connecting and waiting for welcome. */
const welcomeTimeout = 10_000;
/** Bounds the wait for the answer to a ping, in ms. */
const pongTimeout = 5_000;
/** Bounds the characters of a message of several frames. Each may need three bytes, so frame_bytes / 3 bounds them too. */
const maxMessageChars = 24_000;
/** The bytes that every gateway accepts in a message. */
const minFrameBytes = 32 << 10;
/** Bounds the pause in a gateway's goodbye, and the pauses before moves to another gateway, in ms. */
const maxAway = 120_000;
/** The age of a session that resets the pauses before moves, in ms. */
const moveResetAfter = 2 * maxAway;
/** The number of other gateways that the client asks for an unknown name, unless it has more URLs. */
const minGatewaysAsked = 3;
/** Bounds consecutive refusals of tokens that were accepted before. */
const maxStaleRefusals = 5;

/** Keeps a session with one of the gateways open. */
export class Connection {
  status: Status = "connecting";
  welcome: Welcome | undefined;
  log: string | undefined;

  #socket: Socket | undefined;
  #generation = 0; // counts the sockets, so that callbacks of earlier ones are ignored
  #url: number;
  #attempts = 0;
  #timer: unknown; // until welcome, the next ping or the next attempt
  #waitIsFixed = false; // a server set the wait, so wake() does not shorten it
  #reconnectIn: number | undefined; // from goodbye
  #lastSeen = 0;
  #welcomedAt = 0; // when welcome arrived
  #probing = false;
  #token: string | undefined;
  #tokenIsFresh = false; // the token was not used before
  #refusedToken: string | undefined; // the previous token, which a gateway refused
  #staleRefusals = 0; // consecutive refusals of tokens that were accepted before
  #tokenFetched = 0; // when the token function was last called
  #renewalTimer: unknown; // until the next renewal
  #renewing = false; // a token is being fetched for this connection
  #tokenExpires = 0;
  #renewalFailures = 0; // consecutive
  #authId: string | undefined; // id of the pending renewal
  #moveTimer: unknown; // until the move to another gateway
  #moveCount = 0; // since a session that lasted moveResetAfter
  #unknownMoves = 0; // moves because of an unknown name
  #refusal: Fault | undefined; // the error frame that refused hello
  #bareHello = false; // the last hello was refused, perhaps for its subscriptions: they follow the next welcome
  #out: string[] = [];
  #ids = 0;

  constructor(
    private readonly options: Options,
    private readonly urls: string[],
    private readonly socketClass: SocketClass,
    private readonly clock: Clock,
    private readonly hooks: Hooks,
  ) {
    this.log = options.log;
    this.#url = Math.floor(clock.random() * urls.length);
  }

  id(): string {
    return String(++this.#ids);
  }

  /** Queues a frame. Frames that are queued in one turn of the event loop share messages. */
  enqueue(text: string): void {
    if (this.#out.push(text) === 1) {
      const generation = this.#generation;
      queueMicrotask(() => generation === this.#generation && this.#flush());
    }
  }

  #flush(): void {
    const out = this.#out;
    const most = Math.min(maxMessageChars, (this.welcome?.limits.frame_bytes ?? minFrameBytes) / 3);
    this.#out = [];
    for (let from = 0; from < out.length; ) {
      let to = from + 1;
      for (let chars = out[from]!.length; to < out.length && (chars += out[to]!.length + 1) <= most; ) to++;
      this.#socket!.send(out.slice(from, to).join("\n"));
      from = to;
    }
  }

  /** Makes a connection. */
  async dial(): Promise<void> {
    const generation = ++this.#generation;
    const { clock, options, hooks } = this;
    this.#waitIsFixed = false;
    this.#refusal = undefined;
    this.#setStatus("connecting");
    this.#armTimer(welcomeTimeout, () => this.drop());
    try {
      if (options.token && this.#token === undefined) {
        this.#tokenFetched = clock.now();
        const token = await options.token();
        if (generation !== this.#generation) return;
        this.#token = token;
        this.#tokenIsFresh = token !== this.#refusedToken;
      }
      const socket = new this.socketClass(this.urls[this.#url % this.urls.length]!, "ganglion.v1");
      this.#socket = socket;
      socket.onopen = () => {
        if (generation !== this.#generation) return;
        this.#lastSeen = clock.now();
        const subscriptions = this.#bareHello ? [] : hooks.hello();
        this.enqueue(
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
        if (generation !== this.#generation) return;
        this.#lastSeen = clock.now();
        this.#probing = false;
        const text = event.data as string;
        for (let from = 0; from < text.length && generation === this.#generation; ) {
          let to = text.indexOf("\n", from);
          if (to < 0) to = text.length;
          if (to > from) this.#receive(text.slice(from, to));
          from = to + 1;
        }
      };
      socket.onerror = () => {}; // onclose follows and has the reason
      socket.onclose = (event) => generation === this.#generation && this.#onDisconnect(event.code, event.reason);
    } catch (cause) {
      if (generation !== this.#generation) return;
      hooks.report(errorOf({ code: "unavailable", message: "can't connect: " + String(cause), retry: "later" }, { cause }));
      this.#onDisconnect(1006);
    }
  }

  #receive(line: string): void {
    let frame: GatewayFrame;
    try {
      frame = JSON.parse(line);
    } catch (cause) {
      this.hooks.report(errorOf({ code: "protocol", message: "the server sent an invalid frame", retry: "later" }, { cause }));
      return this.drop();
    }
    switch (frame.op) {
      case "welcome":
        return this.#onWelcome(frame);
      case "expiring":
        this.#tokenExpires = this.clock.now() + frame.in_ms;
        return this.#scheduleRenewal(this.#tokenFetched + frame.in_ms / 2 - this.clock.now());
      case "goodbye":
        this.#reconnectIn = Math.min(frame.reconnect_in_ms, maxAway);
        return;
      case "error":
        if (!this.welcome) {
          this.#refusal = frame;
          return;
        }
    }
    if ("id" in frame && frame.id !== undefined && frame.id === this.#authId) {
      this.#authId = undefined;
      if (frame.op === "error") return this.#renewalFailed(frame);
      this.#renewalFailures = 0;
    }
    this.hooks.onFrame(frame);
  }

  #onWelcome(welcome: Welcome): void {
    const known = this.log;
    this.log = welcome.log;
    if (known !== undefined && known !== welcome.log) {
      // This session sent the old log id, so the gateway refuses its cursors.
      this.hooks.onOtherLog(welcome.log);
      return this.drop(true);
    }
    this.welcome = welcome;
    this.#tokenIsFresh = false;
    this.#staleRefusals = 0;
    this.#welcomedAt = this.clock.now();
    this.#watchSilence();
    this.hooks.onWelcome();
    this.updateStatus();
  }

  /** Sets the status of a welcomed connection. */
  updateStatus(): void {
    if (this.welcome) this.#setStatus(this.hooks.isCatchingUp() ? "catching-up" : "live");
  }

  #setStatus(status: Status): void {
    if (this.status === status || this.status === "closed") return;
    this.status = status;
    this.hooks.onStatus(status);
  }

  #armTimer(ms: number, f: () => void): void {
    this.clock.clearTimeout(this.#timer);
    this.#timer = this.clock.setTimeout(f, ms);
  }

  /** Pings the gateway after one and a half heartbeats of silence, or immediately after the machine has slept longer than that. */
  #watchSilence(): void {
    const allowed = this.welcome!.heartbeat_ms * 1.5;
    const left = Math.min(allowed, this.#lastSeen + allowed - this.clock.now());
    if (left > 0) this.#armTimer(left, () => this.#watchSilence());
    else this.#probe();
  }

  #probe(): void {
    if (this.#probing) return;
    this.#probing = true;
    this.enqueue(JSON.stringify({ op: "ping", id: this.id() }));
    this.#armTimer(pongTimeout, () => (this.#probing ? this.drop() : this.#watchSilence()));
  }

  /** Connects immediately or checks the connection, after the network changed or a tab woke up. */
  wake(): void {
    if (this.welcome) this.#probe();
    else if (this.status === "offline" && !this.#waitIsFixed) void this.dial();
  }

  /** Renews the token after ms, if that is at least a second before it expires. Otherwise the client lets the gateway close the session, and begins the next one with a new token. */
  #scheduleRenewal(ms: number): void {
    if (!this.options.token || this.#renewing || this.#tokenExpires - this.clock.now() < ms + 1_000) return;
    this.clock.clearTimeout(this.#renewalTimer);
    if (ms > 0) this.#renewalTimer = this.clock.setTimeout(() => void this.#renewToken(), ms);
    else void this.#renewToken();
  }

  async #renewToken(): Promise<void> {
    const { clock } = this;
    const generation = this.#generation;
    this.#renewing = true;
    this.#tokenFetched = clock.now();
    try {
      const token = await this.options.token!();
      if (generation !== this.#generation) return;
      this.#renewing = false;
      // A cache may return the same token. Ask again after half of the remaining time.
      if (token === this.#token) return this.#scheduleRenewal((this.#tokenExpires - clock.now()) / 2);
      this.#token = token;
      this.enqueue(JSON.stringify({ op: "auth", id: (this.#authId = this.id()), token }));
    } catch (cause) {
      if (generation !== this.#generation) return;
      this.#renewing = false;
      this.#renewalFailed({ code: "unauthenticated", message: String(cause) }, { cause });
    }
  }

  /** Reports a token that could not be fetched or was refused, and schedules the next renewal. */
  #renewalFailed(fault: Fault, options?: ErrorOptions): void {
    this.hooks.report(errorOf({ ...fault, message: "can't renew the token: " + fault.message, retry: "later" }, options));
    this.#scheduleRenewal(Math.min(backoff(this.clock, this.#renewalFailures++, 10_000), (this.#tokenExpires - this.clock.now()) / 2));
  }

  /**
   * Moves to another gateway, which may know a name or show an event that this
   * one can't, after a pause that grows with each move. unknown means that the
   * gateway does not know a name. scheduleMove then returns false if enough
   * other gateways have been asked.
   */
  scheduleMove(unknown: boolean): boolean {
    const { clock } = this;
    if (this.#moveTimer === undefined) {
      if (clock.now() - this.#welcomedAt >= moveResetAfter) this.#moveCount = this.#unknownMoves = 0;
      if (unknown && this.#unknownMoves++ >= Math.max(minGatewaysAsked, this.urls.length - 1)) return false;
      this.#moveTimer = clock.setTimeout(() => this.#onDisconnect(0), backoff(clock, this.#moveCount++, 500, maxAway));
    }
    return true;
  }

  /** Gives up the socket and reconnects, without a pause if immediately is set. */
  drop(immediately = false): void {
    this.#onDisconnect(immediately ? 4200 : 1006);
  }

  #releaseSocket(code?: number): void {
    this.#generation++;
    for (const timer of [this.#timer, this.#renewalTimer, this.#moveTimer]) this.clock.clearTimeout(timer);
    this.#renewalTimer = this.#moveTimer = this.#authId = undefined;
    this.#renewing = false;
    this.#renewalFailures = 0;
    this.#out = [];
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // the package ws throws an error that has no listener
    socket.close(code);
  }

  /** Handles the end of a connection. code is the gateway's close code, 1006 without one, or 0 to move to another gateway. */
  #onDisconnect(code: number, reason?: string): void {
    if (this.status === "closed") return;
    const { clock } = this;
    const welcomed = this.welcome !== undefined;
    this.#releaseSocket();
    this.welcome = undefined;
    this.#probing = false;
    if (welcomed && clock.now() - this.#welcomedAt >= backoffResetAfter) this.#attempts = 0;
    this.#url++;
    this.hooks.onDisconnect();

    const band = Math.floor(code / 100);
    let wait: number | undefined;
    if (code === 4001 && this.options.token && (welcomed || (!this.#tokenIsFresh && this.#staleRefusals++ < maxStaleRefusals))) {
      this.#refusedToken = this.#token; // expired: a new token may be accepted
      this.#token = undefined;
      if (this.#attempts === 0) wait = 0;
    } else if (band === 40 || code === 1009) {
      return this.close(
        errorOf({
          message: reason || `closed with ${code}`,
          ...this.#refusal,
          code: code === 4001 ? "unauthenticated" : code === 4004 ? "forbidden" : code === 1009 ? "too_large" : "protocol",
          retry: "no",
        }),
      );
    } else if (this.#reconnectIn !== undefined) {
      wait = this.#reconnectIn;
      this.#waitIsFixed = true;
    } else if (band === 41) {
      this.#attempts = Math.max(this.#attempts, 4);
      this.#waitIsFixed = true;
    } else if (code === 0 || (band === 42 && this.#attempts === 0)) {
      wait = 0;
    }
    if (this.#refusal || band === 41) {
      this.hooks.report(errorOf({ code: "unavailable", message: reason || `closed with ${code}`, ...this.#refusal, retry: "later" }));
    }
    this.#bareHello = !!this.#refusal;
    this.#refusal = this.#reconnectIn = undefined;
    wait ??= backoff(clock, this.#attempts);
    this.#attempts++;
    if (wait === 0) return void this.dial();
    this.#setStatus("offline");
    this.#armTimer(wait, () => void this.dial());
  }

  close(error: GanglionError): void {
    if (this.status === "closed") return;
    this.#releaseSocket(1000);
    this.welcome = undefined;
    this.#setStatus("closed");
    this.hooks.onClosed(error);
  }
}
