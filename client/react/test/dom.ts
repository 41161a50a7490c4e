import { JSDOM } from "jsdom";

// React looks for a page when it is imported, so this module comes first.
const { window } = new JSDOM("<!doctype html><main></main>", { pretendToBeVisual: true });
for (const [name, value] of Object.entries({ window, document: window.document, navigator: window.navigator })) {
  Object.defineProperty(globalThis, name, { value, configurable: true }); // Node has a navigator that can't be assigned
}
export const main: HTMLElement = window.document.querySelector("main")!;

/** Waits until the page shows a text. */
export async function shows(text: string): Promise<void> {
  if (main.textContent === text) return;
  await new Promise<void>((resolve, reject) => {
    const watch = new window.MutationObserver(() => main.textContent === text && end(resolve));
    const late = setTimeout(() => end(() => reject(new Error(`the page shows ${JSON.stringify(main.textContent)}, want ${JSON.stringify(text)}`))), 15_000);
    const end = (f: () => void) => (watch.disconnect(), clearTimeout(late), f());
    watch.observe(main, { childList: true, characterData: true, subtree: true });
  });
}
