// What is wrong with the cluster, and what to do.
import type { JSX } from "preact";
import { link } from "./route.js";
import type { Problem } from "./status.js";

const runbooks = "https://github.com/ganglion-es/ganglion/blob/main/docs/runbooks.md";

export function Problems(p: { list: Problem[] }): JSX.Element {
  if (p.list.length === 0)
    return (
      <p class="card good" id="problems">
        No problems found.
      </p>
    );
  return (
    <ul class="problems" id="problems" aria-label="Problems">
      {p.list.map((one) => (
        <li class={one.severity} key={one.text}>
          <strong>{one.text}</strong> {one.do}{" "}
          {one.page && <a href={link([one.page])}>Show</a>}{" "}
          <a href={`${runbooks}#${one.runbook.toLowerCase().replaceAll(" ", "-")}`} target="_blank" rel="noreferrer">
            Runbook
          </a>
        </li>
      ))}
    </ul>
  );
}
