// A chart of the last 15 minutes.
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { clock } from "./format.js";

export interface Line {
  name: string;
  values: (number | null)[];
}

const minutes = 15;
const height = 150;
const colours = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

/** The times to show: up to 15 minutes, fewer while there are fewer samples. */
function shownTimes(first: number | null): [number, number] {
  const now = Date.now() / 1000;
  return [Math.max(now - minutes * 60, Math.min(first ?? now, now - 60)), now];
}

/** The value for the legend: under the pointer, or the newest while the pointer is elsewhere. */
const shown = (u: uPlot, value: number | null, line: number, at: number | null | undefined): number | null => (at == null ? (u.data[line]?.at(-1) ?? null) : value);

/** Lines over time, with the values under the pointer in the legend. times are Unix times in milliseconds. */
export function Chart(p: { name: string; times: number[]; lines: Line[]; format: (v: number) => string }): JSX.Element {
  const at = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const names = p.lines.map((l) => l.name).join("\n");
  const format = useRef(p.format);
  format.current = p.format;
  const draw = useRef(() => {});
  draw.current = () => plot.current?.setData([p.times.map((t) => t / 1000), ...p.lines.map((l) => l.values)]);

  useEffect(() => {
    const box = at.current!;
    const make = (): void => {
      plot.current?.destroy();
      const style = getComputedStyle(document.documentElement);
      const colour = (name: string): string => style.getPropertyValue(name).trim();
      const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--edge"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      plot.current = new uPlot(
        {
          width: box.clientWidth,
          height,
          cursor: { sync: { key: "console" }, points: { size: 6 } },
          scales: { x: { range: (_, first) => shownTimes(first) }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
          axes: [
            { ...axis, size: 30, values: (_, splits) => splits.map((s) => clock(s * 1000).slice(0, splits[1]! - splits[0]! < 60 ? undefined : 5)) },
            { ...axis, size: 56, values: (_, splits) => splits.map((v) => format.current(v)) },
          ],
          series: [
            { label: "at", value: (u: uPlot, v: number | null, _: number, at: number | null) => ((v = shown(u, v, 0, at)) === null ? "" : clock(v * 1000)) },
            ...names.split("\n").map((name, i) => ({
              label: name,
              stroke: colour(colours[i % colours.length]!),
              width: 1.5,
              points: { size: 3, show: (u: uPlot, i: number) => (u.data[i] as (number | null)[]).filter((v) => v !== null).length === 1 },
              value: (u: uPlot, v: number | null, line: number, at: number | null) => ((v = shown(u, v, line, at)) === null ? "–" : format.current(v)),
            })),
          ],
        },
        [[], ...names.split("\n").map(() => [])],
        box,
      );
      draw.current();
    };
    make();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height }));
    resized.observe(box);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    return () => {
      resized.disconnect();
      scheme.removeEventListener("change", make);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [names]);

  useEffect(() => draw.current());

  const last = p.lines.map((l) => `${l.name} ${l.values.length && l.values.at(-1) !== null ? p.format(l.values.at(-1)!) : "none"}`).join(", ");
  return (
    <figure class="card chart">
      <figcaption>{p.name}</figcaption>
      <div ref={at} role="img" aria-label={`${p.name} of the last 15 minutes; now ${last}`} />
    </figure>
  );
}
