import type { Clock } from "../src/index.js";

/** A clock that only moves by advance and sleep. */
export class FakeClock implements Clock {
  #now = Date.UTC(2026, 10, 22, 12);
  #timers = new Map<number, { at: number; f: () => void }>();
  #next = 1;

  /** value is every random number. */
  constructor(private readonly value = 0.5) {}

  now = () => this.#now;
  random = () => this.value;

  setTimeout = (f: () => void, ms: number): number => {
    this.#timers.set(this.#next, { at: this.#now + ms, f });
    return this.#next++;
  };

  clearTimeout = (timer: unknown): void => {
    this.#timers.delete(timer as number);
  };

  /** Runs the timers of the next ms milliseconds, in order. */
  async advance(ms: number): Promise<void> {
    for (const end = this.#now + ms; ; ) {
      let due: [number, { at: number; f: () => void }] | undefined;
      for (const timer of this.#timers) if (timer[1].at <= end && (!due || timer[1].at < due[1].at)) due = timer;
      if (!due) {
        this.#now = end;
        return;
      }
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].f();
      await idle();
    }
  }

  /** Lets the machine sleep: time passes, and no timer runs. */
  sleep(ms: number): void {
    this.#now += ms;
  }
}

/** Waits until all pending callbacks have run. */
export async function idle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}
