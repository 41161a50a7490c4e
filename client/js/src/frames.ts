import { errorOf, type Fault } from "./errors.js";

/** The frames of a gateway, which docs/protocol.md defines. */
export type GatewayFrame =
  | Welcome
  | { op: "result"; id: string; key?: string; version?: number; position?: number; replayed?: boolean; data?: unknown }
  | ({ op: "error"; id?: string } & Fault)
  | { op: "subscribed"; id: string; cursor: string }
  | { op: "consuming"; id: string; window: number; ack_within_ms: number }
  | SubscriptionFrame
  | { op: "heartbeat"; cursor: string; behind?: { sub: string; cursor: string }[] }
  | { op: "unsubscribed"; id?: string; sub: string; code?: string; message?: string; cursor?: string }
  | { op: "pong"; id: string }
  | { op: "expiring"; in_ms: number }
  | { op: "goodbye"; reason: string; reconnect_in_ms: number };

/** The frames of one subscription, to events or to a query, or of a member of a consumer group. */
export type SubscriptionFrame =
  | StateFrame
  | EventFrame
  | { op: "live"; sub: string; version?: number; cursor: string; position?: number; blocked?: number }
  | { op: "state"; sub: string; rows: RowFrame[]; more?: boolean }
  | ({ op: "update"; sub: string } & RowFrame & { gone?: undefined })
  | { op: "update"; sub: string; key: string; gone: true }
  | { op: "keys"; sub: string; keys: string[] }
  | { op: "synced"; sub: string; cursor: string; position: number; blocked?: number }
  | { op: "reset"; sub: string; reason: string }
  | { op: "assigned"; sub: string; segment: string; epoch: number; cursor: string; log: string }
  | { op: "revoking" | "revoked"; sub: string; segment: string; epoch: number };

/** A row of a query. Rows sort by rank, as strings of ASCII. */
export interface RowFrame {
  key: string;
  rank: string;
  position: number;
  data: unknown;
}

export interface Welcome {
  op: "welcome";
  id: string;
  session: string;
  client: string;
  node: string;
  server: string;
  log: string;
  cursor: string;
  heartbeat_ms: number;
  limits: { frame_bytes: number; open_requests: number; subscriptions: number; commands_per_second?: number };
}

export interface StateFrame {
  op: "state";
  sub: string;
  version: number;
  position: number;
  data: unknown;
}

export interface EventFrame {
  op: "event";
  sub: string;
  segment?: string; // of a consumer group
  stream: string;
  version: number;
  position: number;
  event: string;
  data: unknown;
  time: string;
  cause: string;
  by?: string;
}

/** Returns an event in the form for applications. */
export function eventOf({ event, data, stream, version, position, time, cause, by }: EventFrame) {
  const id = stream.slice(stream.indexOf("/") + 1);
  return { kind: "event" as const, event, data, stream, id, version, position, cursor: String(position), time, cause, ...(by !== undefined && { by }) };
}

/** Where a subscription begins, as members of its frame. */
export interface Start {
  after?: number;
  cursor?: string;
  last?: number;
  state?: true | "each";
}

/** Returns the number of bytes of a text in UTF-8. */
export const bytes = (text: string): number => new TextEncoder().encode(text).length;

/** A replacer for JSON.stringify. It throws an error for numbers that may have been rounded, and for numbers that JSON can't represent. */
export function exact(name: string, value: unknown): unknown {
  if (typeof value === "number" && !(Math.abs(value) <= Number.MAX_SAFE_INTEGER)) {
    throw errorOf({ code: "bad_request", message: `${name} is ${value}: numbers from 2^53 on may have been rounded: send them as strings`, field: name });
  }
  return value;
}

export type Topic = { stream: string } | { category: string };
