/**
 * What is known about the outcome of a failed request: `no` (not executed, and
 * would fail again), `same_key` (perhaps executed: send it again with the same
 * key) or `later` (not executed: send it again later). The client itself
 * retries after the last two; an application sees them only if the client gave
 * up the request.
 */
export type Retry = "no" | "same_key" | "later";

/** The codes of the protocol, and then those of this client. */
export type Code =
  | "bad_request"
  | "unsupported"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "rejected"
  | "conflict"
  | "key_reused"
  | "cursor_ahead"
  | "too_large"
  | "rate_limited"
  | "busy"
  | "unavailable"
  | "timeout"
  | "internal"
  | "replaced"
  | "closed"
  | "queue_full"
  | "gap"
  | "protocol"
  | "handler";

/** An error frame, or an error of this client in that form. */
export interface Fault {
  code: Code | (string & {});
  message?: string;
  retry?: Retry;
  reason?: string;
  key?: string;
  field?: string;
  version?: number;
  position?: number;
  after_ms?: number;
  replayed?: boolean;
}

/** An error of a server or of this client. */
export class GanglionError extends Error {
  override name = "GanglionError";
  /** The kind of failure. */
  readonly code: Fault["code"];
  readonly retry: Retry;
  /** The aggregate's own code, for a rejection. */
  readonly reason: string | undefined;
  /** The key of the command. */
  readonly key: string | undefined;
  /** The invalid member of the request. */
  readonly field: string | undefined;
  /** The stream's version for a conflict, and the missing version for a gap. */
  readonly version: number | undefined;
  /** The position that the rows show, if a query did not reach `atLeast`. */
  readonly position: number | undefined;
  /** An earlier command with this key was rejected, and this is its error. */
  readonly replayed: boolean;

  constructor(fault: Fault, options?: ErrorOptions) {
    super(fault.message ?? fault.code, options);
    this.code = fault.code;
    this.retry = fault.retry ?? "no";
    this.reason = fault.reason;
    this.key = fault.key;
    this.field = fault.field;
    this.version = fault.version;
    this.position = fault.position;
    this.replayed = fault.replayed === true;
  }
}

/** A business rule rejected the command; `reason` is the aggregate's code. `aggregate.rejected(e)` knows which codes there are. */
export class RejectedError<R extends string = string> extends GanglionError {
  override name = "RejectedError";
  declare readonly reason: R | undefined;
}

/** The stream was not at the expected version; `version` is its version. */
export class ConflictError extends GanglionError {
  override name = "ConflictError";
}

/** The client has no valid token. */
export class UnauthenticatedError extends GanglionError {
  override name = "UnauthenticatedError";
}

/** An access rule denied the request. */
export class ForbiddenError extends GanglionError {
  override name = "ForbiddenError";
}

/** The server lost events that the application received: discard the application's copy and start again. */
export class CursorAheadError extends GanglionError {
  override name = "CursorAheadError";
}

/**
 * The client was closed, by the application or by a server that refused it
 * permanently. The `retry` of a command is `same_key` if it was sent and may
 * have been executed, and `later` if not.
 */
export class ClosedError extends GanglionError {
  override name = "ClosedError";
}

/** Too many requests are pending. This one was not sent. */
export class QueueFullError extends GanglionError {
  override name = "QueueFullError";
}

/** The server left out an event. The subscription has ended; no event after the gap was delivered. */
export class GapError extends GanglionError {
  override name = "GapError";
}

/** Throw it in the handler of a consumer group to park the event: no retry can succeed, and an operator must decide. The operator sees the message. */
export class Park extends Error {
  override name = "Park";
}

const classes: Record<string, typeof GanglionError> = {
  rejected: RejectedError,
  conflict: ConflictError,
  unauthenticated: UnauthenticatedError,
  forbidden: ForbiddenError,
  cursor_ahead: CursorAheadError,
  closed: ClosedError,
  queue_full: QueueFullError,
  gap: GapError,
};

/** Returns the error for a fault, of the class of its code. */
export function errorOf(fault: Fault, options?: ErrorOptions): GanglionError {
  return new (classes[fault.code] ?? GanglionError)(fault, options);
}
