/** The time, timers and random numbers. Tests replace it. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** At least 0, below 1. */
  random(): number;
}

export const realClock: Clock = {
  now: () => Date.now(),
  setTimeout: (f, ms) => setTimeout(f, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
  random: () => Math.random(),
};

/**
 * Returns a pause with full jitter: a random time below a bound that doubles
 * with each attempt (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
export function backoff(clock: Clock, attempt: number, first = 500, most = 20_000): number {
  return clock.random() * Math.min(most, first * 2 ** attempt);
}

/** Returns a UUIDv7 (RFC 9562). Such keys ascend with time, so the server adds them at the end of its index. */
export function uuidv7(now: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  bytes[0] = 0x70 | (bytes[0]! & 0x0f);
  bytes[2] = 0x80 | (bytes[2]! & 0x3f);
  const hex = (b: Uint8Array) => Array.from(b, (n) => n.toString(16).padStart(2, "0")).join("");
  const time = now.toString(16).padStart(12, "0");
  return [time.slice(0, 8), time.slice(8), hex(bytes.slice(0, 2)), hex(bytes.slice(2, 4)), hex(bytes.slice(4))].join("-");
}
