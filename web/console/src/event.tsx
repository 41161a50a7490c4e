// Events as the node sends them, and the parts that show them.
import type { ComponentChildren, JSX } from "preact";
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { me } from "./api.js";
import { number } from "./format.js";
import { type Line, lines, type Mark } from "./json.js";
import { link } from "./route.js";
import { copyText, Data, Id } from "./ui.js";

export interface Event {
  position: number;
  version: number;
  type: string;
  id: string;
  event: string;
  form?: number;
  at: string;
  client?: string;
  key: string;
  trace?: string;
  depth?: number;
  /** The position of the first event of the command, and their number. */
  first: number;
  count: number;
  /** The position of the event to which a process manager reacted with the command. */
  cause?: number;
  /** The text of the data; missing for viewers. */
  data?: string;
  bytes?: number;
  clipped?: boolean;
}

export const seesData = (): boolean => me.value?.role !== "viewer";

/** The URL of an event on the page of its stream. */
export const streamLink = (e: { type: string; id: string }, version?: number): string => link(["stream", e.type, e.id], { at: version });

/** The URL of the page Try for an aggregate. */
export const tryLink = (e: { type: string; id: string }): string => link(["try", e.type, e.id]);

/** Returns how the times of a list are written: all with the date, unless all are of today. */
export function moments(list: (string | undefined)[]): (at: string) => string {
  const today = new Date().toDateString();
  const hasDate = list.some((at) => at !== undefined && new Date(at).toDateString() !== today);
  return (at) => moment(at, hasDate);
}

/** The time of day with milliseconds, after the date unless it is today. */
export function moment(at: string, hasDate = new Date(at).toDateString() !== new Date().toDateString()): string {
  const d = new Date(at);
  const two = (n: number): string => String(n).padStart(2, "0");
  const time = `${d.toLocaleTimeString("en-GB")}.${String(d.getMilliseconds()).padStart(3, "0")}`;
  return hasDate ? `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${time}` : time;
}

/** A request to the console as a line for a shell. The reader puts a token into its place. */
export function curl(path: string, flags = ""): string {
  const url = new URL(path, location.href.split("#")[0]).href.replaceAll("'", "%27");
  return `curl ${flags}-H "Authorization: Bearer $TOKEN" '${url}'`;
}

/** A button that copies a text, and says so. */
export function Copy(p: { name: string; text: () => string; disabled?: boolean }): JSX.Element {
  const copied = useSignal(false);
  const copy = async (): Promise<void> => {
    await copyText(p.text());
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" class="small" disabled={p.disabled ?? false} onClick={() => void copy()}>
      {copied.value ? "Copied" : p.name}
    </button>
  );
}

/** What is known of an event besides its data. */
export function Facts(p: { event: Event; onStream?: boolean }): JSX.Element {
  const e = p.event;
  const facts: [string, ComponentChildren][] = [
    [
      "Stream",
      <a href={streamLink(e, e.version)}>
        <Data>{`${e.type}/${e.id}`}</Data>, version {number(e.version)}
      </a>,
    ],
    ["Position", <a href={link(["log"], { position: e.position })}>{number(e.position)}</a>],
    ["Time", e.at],
    ["By", e.client ? <a href={link(["log"], { client: e.client, before: e.position + 1 })}><Data>{e.client}</Data></a> : "the client is not known"],
    [
      "Command",
      <>
        <a href={link(["log"], { type: e.type, id: e.id, key: e.key, after: e.first - 1 })}>
          <Data>{e.key}</Data>
        </a>
        <span class="quiet"> {e.count === 1 ? "with this event alone" : `event ${e.position - e.first + 1} of ${e.count}`}</span>
      </>,
    ],
    e.cause
      ? ["Cause", <a href={link(["log"], { position: e.cause })}>the event at position {number(e.cause)}</a>]
      : ["Cause", (e.client ?? "").startsWith("~") ? "the program itself" : "a client"],
    ["Effects", <a href={link(["log"], { cause: e.position, after: e.position })}>commands that process managers sent</a>],
  ];
  if (e.depth) facts.push(["Depth", `${number(e.depth)} commands of process managers led to it`]);
  if (e.trace) facts.push(["Trace", <Id id={e.trace} />]);
  if (e.form && e.form > 1) facts.push(["Form", `stored form ${e.form}`]);
  return (
    <dl class="facts">
      {facts.slice(p.onStream ? 1 : 0).map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** How much of a document is shown unless the user asks for all of it: lines, and characters of a value. */
const [someLines, allLines, someText, context] = [300, 20_000, 500, 3];
const signs: Record<Mark, string> = { "": " ", added: "+", changed: "~", removed: "−" };

/** A JSON document. With the document before it, the differences are marked. */
export function Json(p: { name: string; text: string; before?: string | undefined; children?: ComponentChildren }): JSX.Element {
  const all = useSignal(false);
  const list = useMemo(() => lines(p.text, p.before), [p.text, p.before]);
  const shown = useMemo(() => (all.value ? list.slice(0, allLines) : fold(list)), [list, all.value]);
  const isShort = list.length <= someLines && list.every((l) => l.text.length <= someText && (l.was ?? "").length <= someText);
  return (
    <section class="json" aria-label={p.name}>
      <header class="bar">
        <h3>{p.name}</h3>
        <span class="buttons">
          {p.children}
          {!isShort && (
            <button type="button" class="small" onClick={() => (all.value = !all.value)}>
              {all.value ? "Show less" : "Show all"}
            </button>
          )}
          <Copy name="Copy" text={() => p.text} />
        </span>
      </header>
      <div class="lines" tabIndex={0} role="region" aria-label={`${p.name}, text`}>
        {shown.map((l, i) =>
          typeof l === "number" ? (
            <div class="line quiet" key={i}>
              {`  … ${number(l)} ${l === 1 ? "line" : "lines"} more`}
            </div>
          ) : (
            <div class={`line ${l.mark}`} key={i}>
              <span class="sign">{signs[l.mark]}</span>
              {"  ".repeat(Math.min(l.depth, 40))}
              {l.name !== undefined && (
                <>
                  <Text text={l.name} all={all.value} />:{" "}
                </>
              )}
              {l.was !== undefined && (
                <>
                  <del>
                    <Text text={l.was} all={all.value} />
                  </del>{" "}
                </>
              )}
              <Text text={l.text} all={all.value} />
              {l.end}
            </div>
          ),
        )}
        {all.value && list.length > allLines && <div class="line quiet">{`  … ${number(list.length - allLines)} lines more: copy them`}</div>}
      </div>
    </section>
  );
}

const Text = (p: { text: string; all: boolean }): JSX.Element =>
  p.all || p.text.length <= someText ? (
    <Data>{p.text}</Data>
  ) : (
    <>
      <Data>{p.text.slice(0, someText)}</Data>
      <span class="quiet"> … {number(p.text.length)} characters</span>
    </>
  );

/** Leaves out lines of a long document: those far from a difference, and the end. A number stands for that number of lines. */
function fold(list: Line[]): (Line | number)[] {
  if (list.length <= someLines) return list;
  const near = new Uint8Array(list.length);
  if (list.some((l) => l.mark !== "")) {
    list.forEach((l, i) => l.mark !== "" && near.fill(1, Math.max(0, i - context), i + context + 1));
    near.fill(1, 0, context);
  } else near.fill(1);
  const shown: (Line | number)[] = [];
  let lines = 0;
  list.forEach((l, i) => {
    if (near[i] && lines < someLines) {
      shown.push(l);
      lines++;
    } else if (typeof shown.at(-1) === "number") (shown[shown.length - 1] as number)++;
    else shown.push(1);
  });
  return shown;
}
