import type { Clock } from "../src/index.js";

/** A clock that moves when it is told to. */
export class FakeClock implements Clock {
  #now = Date.UTC(2026, 10, 22, 12);
  #timers = new Map<number, { at: number; f: () => void }>();
  #next = 1;

  /** What chance always says. */
  constructor(private readonly chance = 0.5) {}

  now = () => this.#now;
  random = () => this.chance;

  setTimeout = (f: () => void, ms: number): number => {
    this.#timers.set(this.#next, { at: this.#now + ms, f });
    return this.#next++;
  };

  clearTimeout = (timer: unknown): void => {
    this.#timers.delete(timer as number);
  };

  /** Runs what is due in the next ms milliseconds, in order. */
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
      await settle();
    }
  }

  /** The machine sleeps: time passes, and what was due happens afterwards. */
  sleep(ms: number): void {
    this.#now += ms;
  }
}

/** Lets everything happen that waits for nothing. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}
