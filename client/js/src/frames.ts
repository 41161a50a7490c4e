import { errorOf, type Fault } from "./errors.js";

/** What a gateway sends; docs/protocol.md says what it means. */
export type Answer =
  | Welcome
  | { op: "result"; id: string; key?: string; version?: number; position?: number; replayed?: boolean; data?: unknown }
  | ({ op: "error"; id?: string } & Fault)
  | { op: "subscribed"; id: string; cursor: string }
  | StateFrame
  | EventFrame
  | { op: "live"; sub: string; version?: number; cursor: string }
  | { op: "heartbeat"; cursor: string; behind?: { sub: string; cursor: string }[] }
  | { op: "unsubscribed"; id?: string; sub: string; code?: string; message?: string; cursor?: string }
  | { op: "pong"; id: string }
  | { op: "expiring"; in_ms: number }
  | { op: "goodbye"; reason: string; reconnect_in_ms: number };

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
  stream: string;
  version: number;
  position: number;
  event: string;
  data: unknown;
  time: string;
  cause: string;
  by?: string;
}

/** Where a subscription begins, on the wire. */
export interface Start {
  after?: number;
  cursor?: string;
  last?: number;
  state?: true;
}

/** The bytes of a text in UTF-8. */
export const bytes = (text: string): number => new TextEncoder().encode(text).length;

/** For JSON.stringify: refuses numbers that may have been rounded before they came here, and those that JSON does not have. */
export function exact(name: string, value: unknown): unknown {
  if (typeof value === "number" && !(Math.abs(value) <= Number.MAX_SAFE_INTEGER)) {
    throw errorOf({ code: "bad_request", message: `${name} is ${value}: numbers from 2^53 on may have been rounded; send them as strings`, field: name });
  }
  return value;
}

export type Topic = { stream: string } | { category: string };
