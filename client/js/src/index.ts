export { connect } from "./client.js";
export type * from "./api.js";
export type * from "./schema.js";
export type { Clock } from "./clock.js";
export type { Socket, SocketClass } from "./socket.js";
export {
  ClosedError,
  ConflictError,
  CursorAheadError,
  ForbiddenError,
  GanglionError,
  GapError,
  Park,
  QueueFullError,
  RejectedError,
  UnauthenticatedError,
  type Code,
  type Retry,
} from "./errors.js";
