/**
 * What to do about a failure: nothing (`no`: it would fail again), send it
 * again with the same key (`same_key`: whether it happened is unknown), or
 * try again (`later`: it did not happen). The client does the last two by
 * itself; they reach you only with what it had to give up.
 */
export type Retry = "no" | "same_key" | "later";

/** The codes of the protocol, and below them those of this client. */
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
  | "closed"
  | "queue_full"
  | "gap"
  | "protocol";

/** An error frame, or what this client says in the form of one. */
export interface Fault {
  code: Code | (string & {});
  message?: string;
  retry?: Retry;
  reason?: string;
  key?: string;
  field?: string;
  version?: number;
  after_ms?: number;
  replayed?: boolean;
}

/** Every error of a server, and of this client. */
export class GanglionError extends Error {
  override name = "GanglionError";
  /** What kind of failure it is. */
  readonly code: Fault["code"];
  readonly retry: Retry;
  /** The domain's own code, of a rejection. */
  readonly reason: string | undefined;
  /** The command's key. */
  readonly key: string | undefined;
  /** The member that is wrong. */
  readonly field: string | undefined;
  /** The stream's version, of a conflict. */
  readonly version: number | undefined;
  /** This command had been refused before, and this is its first answer. */
  readonly replayed: boolean;

  constructor(fault: Fault, options?: ErrorOptions) {
    super(fault.message ?? fault.code, options);
    this.code = fault.code;
    this.retry = fault.retry ?? "no";
    this.reason = fault.reason;
    this.key = fault.key;
    this.field = fault.field;
    this.version = fault.version;
    this.replayed = fault.replayed === true;
  }
}

/** A business rule said no; `reason` is the domain's code. */
export class RejectedError extends GanglionError {
  override name = "RejectedError";
}

/** The stream was not at the version that was expected; `version` says where it is. */
export class ConflictError extends GanglionError {
  override name = "ConflictError";
}

/** There is no valid token. */
export class UnauthenticatedError extends GanglionError {
  override name = "UnauthenticatedError";
}

/** The access rules say no. */
export class ForbiddenError extends GanglionError {
  override name = "ForbiddenError";
}

/** What you know was lost in the log: throw it away and start again. */
export class CursorAheadError extends GanglionError {
  override name = "CursorAheadError";
}

/**
 * The client was closed, by you or by a server that wants no more of it. The
 * `retry` of a command says whether it may have happened: `same_key` if it
 * was sent, `later` if not.
 */
export class ClosedError extends GanglionError {
  override name = "ClosedError";
}

/** Too many commands wait for their answer. This one was not sent. */
export class QueueFullError extends GanglionError {
  override name = "QueueFullError";
}

/** The server left something out. The subscription has ended; nothing after the gap was delivered. */
export class GapError extends GanglionError {
  override name = "GapError";
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

/** The error of a fault's code. */
export function errorOf(fault: Fault, options?: ErrorOptions): GanglionError {
  return new (classes[fault.code] ?? GanglionError)(fault, options);
}
