// What the node reads from its database for a page.
import type { ComponentChildren, JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { get } from "./api.js";

/** The time between two requests, in milliseconds. The node reads its database for all pages together, and less often. */
const every = 2000;

/** Reads what a page shows while it is open and visible. */
export function View<T>(p: { name: string; every?: number; children: (v: T) => ComponentChildren }): JSX.Element {
  const value = useSignal<T | undefined>(undefined);
  const problem = useSignal("");
  useEffect(() => {
    const ended = new AbortController();
    let next = 0;
    const read = async (): Promise<void> => {
      // A dialog of an action stays with the row that it belongs to.
      if (!document.hidden && !document.querySelector("dialog"))
        try {
          value.value = await get<T>(`api/views/${p.name}`, ended.signal);
          problem.value = "";
        } catch (e) {
          problem.value = (e as Error).message;
        }
      if (!ended.signal.aborted) next = window.setTimeout(() => void read(), p.every ?? every);
    };
    void read();
    return () => {
      clearTimeout(next);
      ended.abort();
    };
  }, [p.name]);
  return (
    <>
      {problem.value && (
        <p class="note bad" role="alert">
          {problem.value}
          {value.value && " The page shows what was read before."}
        </p>
      )}
      {value.value ? p.children(value.value) : <p class="empty">Reading.</p>}
    </>
  );
}
