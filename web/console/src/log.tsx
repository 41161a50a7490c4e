// The log: new events as they happen, or those around a position or a time.
import { Fragment, type JSX } from "preact";
import { useEffect } from "preact/hooks";
import { type Signal, useSignal } from "@preact/signals";
import { get, Refusal, stream } from "./api.js";
import { Copy, curl, type Event, Facts, Json, moments, seesData, streamLink, tryLink } from "./event.js";
import { bytes, number } from "./format.js";
import { plain } from "./json.js";
import { Journey } from "./journey.js";
import { link, route } from "./route.js";
import { picture } from "./status.js";
import { Data } from "./ui.js";

interface Page {
  log: string;
  head: number;
  /** The positions after `after` and up to `to` were examined. */
  after: number;
  to: number;
  events: Event[];
}

/** Events that are not shown: between the rows, or counted without a look at the filters. */
interface Gap {
  to: number;
  count: number;
  unexamined: boolean;
}
type Row = Event | Gap;
const isGap = (r: Row): r is Gap => "count" in r && !("key" in r);

/** The most rows of the live page. */
const most = 200;
const filters = ["type", "id", "event", "client", "key", "cause"] as const;
const places = ["position", "at", "after", "before"] as const;

const given = (names: readonly string[]): Record<string, string> => Object.fromEntries(names.flatMap((n) => (route.value.query.get(n) ? [[n, route.value.query.get(n)!]] : [])));
const query = (parts: Record<string, string | number>): string => new URLSearchParams(Object.entries(parts).map(([k, v]) => [k, String(v)])).toString();

export function Log(): JSX.Element {
  const at = given(places);
  const isLive = Object.keys(at).length === 0;
  return (
    <>
      <Filters key={route.value.query.toString()} />
      {isLive ? <Live key={query(given(filters))} /> : <Browse key={route.value.query.toString()} at={at} />}
    </>
  );
}

/** The request for a place in the log. The event at a position is the first row, since the newest come first. */
const request = (at: Record<string, string>): Record<string, string | number> => ({ ...given(filters), ...(at.position ? { before: Number(at.position) + 1 } : at) });

function Filters(): JSX.Element {
  const problem = useSignal("");
  const now = given([...filters, ...places]);
  const go = (e: SubmitEvent): void => {
    e.preventDefault();
    const form = new FormData(e.target as HTMLFormElement);
    const text = (name: string): string => String(form.get(name) ?? "").trim();
    const next: Record<string, string> = {};
    for (const name of filters) next[name] = text(name) || (name === "id" || name === "cause" ? (now[name] ?? "") : "");
    const place = text("place").replaceAll(",", "");
    if (/^\d+$/.test(place)) next.position = place;
    else if (place) {
      const time = new Date(place);
      if (Number.isNaN(time.getTime())) {
        problem.value = `“${place}” is neither a position nor a time such as 2026-01-31 12:00.`;
        return;
      }
      next.at = time.toISOString();
    }
    problem.value = "";
    location.hash = link(["log"], next);
  };
  const field = (name: string, title: string, hint: string): JSX.Element => (
    <label>
      {title}
      <input name={name} value={now[name] ?? ""} placeholder={hint} dir="auto" autocomplete="off" spellcheck={false} />
    </label>
  );
  const without = (name: string): string => link(["log"], { ...now, [name]: undefined } as Record<string, string>);
  return (
    <form class="card filters" onSubmit={go} aria-label="Filters">
      {field("type", "Type", "any")}
      {field("event", "Event", "any")}
      {field("client", "Client", "any")}
      {field("key", "Command’s key", "any")}
      <label>
        Position or time
        <input name="place" value={now.position ?? now.at ?? ""} placeholder="the newest" autocomplete="off" spellcheck={false} />
      </label>
      <button>Show</button>
      {now.id && (
        <a class="chip" href={without("id")} title="Show all ids">
          id <Data>{now.id}</Data> ×
        </a>
      )}
      {now.cause && (
        <a class="chip" href={without("cause")} title="Show commands with any cause">
          caused by position {now.cause} ×
        </a>
      )}
      {problem.value && <p role="alert">{problem.value}</p>}
    </form>
  );
}

/** The newest events, and the ones that follow. */
function Live(): JSX.Element {
  const rows = useSignal<Row[]>([]); // the newest first
  const paused = useSignal(false);
  const from = useSignal<number | undefined>(undefined); // the page continues after this position; undefined until the first answer
  const examined = useSignal(0); // the first answer has looked at the events after this position
  const hidden = useSignal(0);
  const connected = useSignal(false);
  const problem = useSignal("");
  const tries = useSignal(0);

  useEffect(() => {
    rows.value = [];
    const ended = new AbortController();
    get<Page>(`api/events?${query({ ...given(filters), limit: 50 })}`, ended.signal).then(
      (p) => {
        problem.value = "";
        rows.value = p.events.reverse();
        examined.value = p.after;
        from.value = p.to;
      },
      (e: Error) => {
        if (!ended.signal.aborted) problem.value = e.message;
      },
    );
    return () => ended.abort();
  }, [tries.value]);

  useEffect(() => {
    if (paused.value || from.value === undefined) return;
    let log: string | undefined;
    return stream({
      path: () => `api/log?${query({ ...given(filters), after: from.peek()! })}`,
      connected: (yes) => (connected.value = yes),
      message: (kind, data) => {
        if (kind === "at") {
          const at = data as { log: string; position: number };
          if (log !== undefined && log !== at.log) rows.value = []; // the log went back
          log = at.log;
          from.value = at.position;
        } else if (kind === "skipped") {
          const gap = data as Gap;
          hidden.value += gap.count;
          const [newest, ...older] = rows.peek();
          rows.value = newest && isGap(newest) && newest.unexamined === gap.unexamined ? [{ ...gap, count: gap.count + newest.count }, ...older] : [gap, ...rows.peek()];
          from.value = gap.to;
        } else {
          const events = data as Event[];
          from.value = events.at(-1)!.position;
          rows.value = [...events.reverse(), ...rows.peek()].slice(0, most);
        }
      },
    });
  }, [paused.value, from.value === undefined]);

  const list = rows.value;
  const newer = paused.value ? Math.max(0, (picture.value?.head ?? 0) - (from.value ?? 0)) : 0;
  const oldest = list.findLast((r) => !isGap(r)) as Event | undefined;
  return (
    <section class="card" aria-label="Events">
      <header class="bar">
        <h2>Newest events</h2>
        <span class={`pill ${!paused.value && connected.value ? "live" : ""}`} id="tail">
          {paused.value ? `paused, ${number(newer)} newer` : connected.value ? "live" : "connecting"}
        </span>
        <span class="quiet" id="hidden">
          {hidden.value > 0 && `${number(hidden.value)} events were not shown`}
        </span>
        <span class="buttons">
          <button type="button" class="small" id="pause" aria-pressed={paused.value} onClick={() => (paused.value = !paused.value)}>
            {paused.value ? "Resume" : "Pause"}
          </button>
          <Copies rows={list} path={`api/log?${query({ ...given(filters), after: from.value ?? 0 })}`} flags="-N " />
        </span>
      </header>
      {problem.value ? (
        <Problem text={problem.value} retry={() => tries.value++} />
      ) : from.value === undefined ? (
        <p class="empty">Reading the newest events.</p>
      ) : list.length === 0 ? (
        <p class="empty">
          {Object.keys(given(filters)).length > 0 ? "Matching events" : "Events"} appear here as they happen.{" "}
          {examined.value > 0 && `None of the last ${number(from.value - examined.value)} events matches.`}
        </p>
      ) : (
        <Rows rows={list} />
      )}
      <nav class="turn" aria-label="Pages of the log">
        {oldest && oldest.position > 1 && <a href={link(["log"], { ...given(filters), before: oldest.position })}>← Older events</a>}
        {!oldest && examined.value > 0 && <a href={link(["log"], { ...given(filters), before: examined.value + 1 })}>← Look further back</a>}
      </nav>
    </section>
  );
}

/** The events around a place. */
function Browse(p: { at: Record<string, string> }): JSX.Element {
  const page = useSignal<Page | undefined>(undefined);
  const problem = useSignal("");
  const tries = useSignal(0);
  const path = `api/events?${query({ ...request(p.at), limit: 50 })}`;
  useEffect(() => {
    const ended = new AbortController();
    get<Page>(path, ended.signal).then(
      (answer) => {
        problem.value = "";
        page.value = answer;
      },
      (e: Error) => {
        if (!ended.signal.aborted) problem.value = e instanceof Refusal ? e.message : `The node does not answer: ${e.message}`;
      },
    );
    return () => ended.abort();
  }, [path, tries.value]);
  // Reads on until an event matches, one bounded piece of the log after the other.
  const looking = useSignal<"older" | "newer" | undefined>(undefined);
  useEffect(() => {
    const way = looking.value;
    if (way === undefined) return;
    const ended = new AbortController();
    const look = async (): Promise<void> => {
      for (let last = page.peek()!; way === "older" ? last.after > 0 : last.to < last.head; page.value = last) {
        const next = way === "older" ? { before: last.after + 1 } : { after: last.to };
        last = await get<Page>(`api/events?${query({ ...given(filters), ...next, limit: 50 })}`, ended.signal);
        if (last.events.length === 0) continue;
        location.hash = link(["log"], { ...given(filters), ...next });
        return;
      }
      looking.value = undefined;
    };
    look().catch((e: Error) => {
      if (ended.signal.aborted) return;
      looking.value = undefined;
      problem.value = e.message;
    });
    return () => ended.abort();
  }, [looking.value]);
  const shown = page.value;
  const older = shown && shown.after > 0 ? link(["log"], { ...given(filters), before: shown.after + 1 }) : undefined;
  const newer = shown && shown.to < shown.head ? link(["log"], { ...given(filters), after: shown.to }) : undefined;
  const newest = shown?.events.toReversed() ?? [];
  return (
    <section class="card" aria-label="Events">
      <header class="bar">
        <h2>{shown && shown.to > shown.after ? `Positions ${number(shown.after + 1)} to ${number(shown.to)}` : "Events"}</h2>
        <span class="quiet">{shown && `of ${number(shown.head)}, the newest first`}</span>
        <span class="buttons">
          <a class="button small" href={link(["log"], given(filters))}>
            Go live
          </a>
          <Copies rows={newest} path={path} flags="" />
        </span>
      </header>
      {problem.value ? (
        <Problem text={problem.value} retry={() => tries.value++} />
      ) : !shown ? (
        <p class="empty">Reading the log.</p>
      ) : newest.length === 0 ? (
        <p class="empty">{shown.to > shown.after ? "None of these events matches the filters." : "The log has no events here: it ends before this place."}</p>
      ) : (
        <Rows rows={newest} open={p.at.position ? Number(p.at.position) : undefined} />
      )}
      {shown && (
        <nav class="turn" aria-label="Pages of the log">
          {older && (newest.length > 0 ? <a href={older}>← Older events</a> : <Look way="older" looking={looking} />)}
          {newer && (newest.length > 0 ? <a href={newer}>Newer events →</a> : <Look way="newer" looking={looking} />)}
        </nav>
      )}
    </section>
  );
}

/** A button that looks for matching events in the rest of the log, and stops. */
const Look = (p: { way: "older" | "newer"; looking: Signal<"older" | "newer" | undefined> }): JSX.Element => (
  <button type="button" class="small" onClick={() => (p.looking.value = p.looking.value === p.way ? undefined : p.way)}>
    {p.looking.value === p.way ? "Stop looking" : p.way === "older" ? "← Look for older ones" : "Look for newer ones →"}
  </button>
);

const Problem = (p: { text: string; retry: () => void }): JSX.Element => (
  <p class="empty" role="alert">
    {p.text}{" "}
    <button type="button" class="small" onClick={p.retry}>
      Try again
    </button>
  </p>
);

function Copies(p: { rows: Row[]; path: string; flags: string }): JSX.Element {
  const text = (): string =>
    [
      ["Position", "Time", "Stream", "Version", "Event", "Client", "Key", "Data"],
      ...p.rows.map((r) =>
        isGap(r) ? ["", `${r.count} events not shown`] : [r.position, r.at, `${r.type}/${r.id}`, r.version, r.event, r.client ?? "", r.key, `${r.data ?? ""}${r.clipped ? "…" : ""}`],
      ),
    ]
      .map((l) => l.join("\t"))
      .join("\n");
  return (
    <>
      <Copy name="Copy as text" text={text} disabled={p.rows.length === 0} />
      <Copy name="Copy as curl" text={() => curl(p.path, p.flags)} />
    </>
  );
}

function Rows(p: { rows: Row[]; open?: number | undefined }): JSX.Element {
  const open = useSignal<number | undefined>(p.open);
  const hasData = seesData();
  const time = moments(p.rows.map((r) => (isGap(r) ? undefined : r.at)));
  return (
    <table class="log">
      <thead>
        <tr>
          <th class="position">Position</th>
          <th class="time">Time</th>
          <th class="stream">Stream</th>
          <th class="version">Version</th>
          <th class="event">Event</th>
          <th class="client">Client</th>
          {hasData && <th>Data</th>}
        </tr>
      </thead>
      <tbody>
        {p.rows.map((r) =>
          isGap(r) ? (
            <tr class="gap" key={`gap ${r.to}`}>
              <td colSpan={7}>
                {number(r.count)} {r.unexamined ? "events up to" : "matching events up to"} position {number(r.to)} are not shown. <a href={link(["log"], { ...given(filters), before: r.to + 1 })}>Show them</a>
              </td>
            </tr>
          ) : (
            <Fragment key={r.position}>
              <tr class={open.value === r.position ? "open" : ""}>
                <td class="position number">
                  <button class="plain" type="button" aria-expanded={open.value === r.position} title="Show all of it" onClick={() => (open.value = open.value === r.position ? undefined : r.position)}>
                    {number(r.position)}
                  </button>
                </td>
                <td class="time" title={r.at}>
                  {time(r.at)}
                </td>
                <td class="stream">
                  <a href={streamLink(r, r.version)} title={`${r.type}/${r.id}`}>
                    <Data>{`${r.type}/${r.id}`}</Data>
                  </a>
                </td>
                <td class="version number">{number(r.version)}</td>
                <td class="event">
                  <Data>{r.event}</Data>
                </td>
                <td class="client">
                  <Data>{r.client ?? ""}</Data>
                </td>
                {hasData && (
                  <td class="text">
                    <Data>{plain((r.data ?? "").slice(0, 300))}</Data>
                  </td>
                )}
              </tr>
              {open.value === r.position && (
                <tr class="details">
                  <td colSpan={7}>
                    <Details event={r} />
                  </td>
                </tr>
              )}
            </Fragment>
          ),
        )}
      </tbody>
    </table>
  );
}

function Details(p: { event: Event }): JSX.Element {
  const e = p.event;
  const one = `api/events?${query({ after: e.position - 1, limit: 1, whole: "yes" })}`;
  return (
    <>
      <Facts event={e} />
      <Journey key={e.position} position={e.position} />
      {e.data !== undefined && <WholeData event={e} path={one} />}
      <p class="buttons">
        <Copy name="Copy this event as curl" text={() => curl(one)} />
        <Copy name="Copy link" text={() => new URL(link(["log"], { position: e.position }), location.href).href} />
        <a class="button small" href={tryLink(e)}>
          Open in Try
        </a>
      </p>
    </>
  );
}

/** The data of an event; if it is clipped, all of it is read when the user asks for it. */
export function WholeData(p: { event: Event; path: string }): JSX.Element {
  const whole = useSignal<string | undefined>(undefined);
  const problem = useSignal("");
  const e = p.event;
  const read = async (): Promise<void> => {
    try {
      const answer = await get<{ events: Event[] }>(p.path);
      whole.value = answer.events[0]?.data;
      problem.value = "";
    } catch (error) {
      problem.value = (error as Error).message;
    }
  };
  return (
    <Json name={e.clipped && whole.value === undefined ? `Data, the first ${bytes(e.data!.length)} of ${bytes(e.bytes!)}` : "Data"} text={whole.value ?? e.data!}>
      {e.clipped && whole.value === undefined && (
        <button type="button" class="small" onClick={() => void read()}>
          Read all of it
        </button>
      )}
      {problem.value && <span role="alert">{problem.value}</span>}
    </Json>
  );
}
