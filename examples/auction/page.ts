// What both parts of the page use: elements, amounts and the remaining time.

export const at = <E extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as E;

export function make<K extends keyof HTMLElementTagNameMap>(tag: K, text = ""): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

const euros = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });
export const money = (cents: number): string => euros.format(cents / 100);

/** Returns the cents of an amount such as "25.50" or "25,50", or NaN. */
export const cents = (amount: string): number => Math.round(Number(amount.trim().replace(",", ".")) * 100);

/** Returns the remaining time, such as "Closes in 12:30", or undefined once it is over. */
export function remaining(closesAt: string): string | undefined {
  const left = Math.ceil((Date.parse(closesAt) - Date.now()) / 1000);
  if (left <= 0) return undefined;
  if (left > 86_400) return "Open";
  const [h, m, s] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60];
  return `Closes in ${h ? h + ":" : ""}${String(m).padStart(h ? 2 : 1, "0")}:${String(s).padStart(2, "0")}`;
}

/** Plays the animation of a changed price. */
export function flash(element: HTMLElement): void {
  element.classList.remove("new");
  void element.offsetWidth; // restarts it
  element.classList.add("new");
}

export function pick<T>(of: T[]): T {
  return of[Math.floor(Math.random() * of.length)]!;
}
