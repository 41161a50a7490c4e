// One aggregate: its events by version, and its state after each.
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { get, stream } from "./api.js";
import { Copy, curl, type Event, Facts, Json, moments, seesData, streamLink, tryLink } from "./event.js";
import { number } from "./format.js";
import { WholeData } from "./log.js";
import { Journey } from "./journey.js";
import { link, replace, route } from "./route.js";
import { Data } from "./ui.js";

/** An event with the state after it. */
interface Version extends Event {
  /** The text of JSON. */
  state?: string;
  error?: string;
}

interface Page {
  owner?: string;
  /** The version of the newest event. */
  head: number;
  /** The version before the first of the events. */
  after: number;
  events: Version[];
  before?: string;
  /** The version up to which the state is made; missing if the events have states. */
  folded?: number;
  /** Why there are no states. */
  error?: string;
}

/** The events of a page, and thus the rows of the list. */
const size = 100;
/** The node folds at most this number of events for one request. */
const foldMore = 200_000;

export function Stream(): JSX.Element {
  const [, type, id] = route.value.path;
  return type && id ? <History key={`${type}/${id}`} type={type} id={id} /> : <Open />;
}

function Open(): JSX.Element {
  const problem = useSignal("");
  const open = (e: SubmitEvent): void => {
    e.preventDefault();
    const name = String(new FormData(e.target as HTMLFormElement).get("name") ?? "").trim();
    const slash = name.indexOf("/");
    if (slash < 1 || slash === name.length - 1) problem.value = "Write type/id, such as auction/42.";
    else location.hash = streamLink({ type: name.slice(0, slash), id: name.slice(slash + 1) });
  };
  return (
    <section class="card">
      <h2>Open a stream</h2>
      <p class="quiet">A stream has the events of one aggregate. This page shows them by version, beside the state after each.</p>
      <form class="jump" onSubmit={open}>
        <label>
          Aggregate
          <input name="name" placeholder="type/id" dir="auto" autocomplete="off" spellcheck={false} required />
        </label>
        <button>Open</button>
        {problem.value && <p role="alert">{problem.value}</p>}
      </form>
      <p class="quiet">
        The <a href={link(["log"])}>log</a> links to the streams of its events.
      </p>
    </section>
  );
}

/** The place of the page that has a version. */
const pageOf = (version: number): number => Math.floor((version - 1) / size) * size;

function History(p: { type: string; id: string }): JSX.Element {
  const path = `api/streams/${encodeURIComponent(p.type)}/${encodeURIComponent(p.id)}`;
  const page = useSignal<Page | undefined>(undefined);
  const problem = useSignal("");
  const isFolding = useSignal(false);
  const reading = useRef<AbortController | undefined>(undefined);
  // The chosen version; undefined follows the newest one.
  const asked = route.value.query.get("at") ?? "";
  const at = /^[1-9]\d{0,15}$/.test(asked) ? Number(asked) : undefined;
  const chosen = useSignal(at);
  const later = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const newest = useRef(0); // the newest version that the tail has shown

  const read = async (after: number | undefined, fold = false): Promise<void> => {
    reading.current?.abort();
    const ended = (reading.current = new AbortController());
    isFolding.value = fold;
    try {
      const parts = { limit: String(size), ...(after !== undefined && { after: String(after) }), ...(fold && { fold: "yes" }) };
      const answer = await get<Page>(`${path}?${new URLSearchParams(parts).toString()}`, ended.signal);
      if (ended.signal.aborted) return;
      page.value = { ...answer, head: Math.max(answer.head, newest.current) };
      problem.value = "";
    } catch (e) {
      if (!ended.signal.aborted) problem.value = (e as Error).message;
    }
    if (ended.signal.aborted) return; // by another read, or since the user has left
    isFolding.value = false;
    reading.current = undefined;
    const shown = page.value;
    if (shown && problem.value === "" && newest.current > shown.after + shown.events.length) renew(); // the tail was faster
  };
  /** Reads the page again if new events belong to it. */
  const renew = (): void => {
    const shown = page.peek();
    if (reading.current || !shown) return;
    if (chosen.peek() === undefined) void read(undefined);
    else if (shown.events.length < size && shown.after < shown.head) void read(shown.after);
  };
  const has = (version: number): boolean => page.value !== undefined && version > page.value.after && version <= page.value.after + page.value.events.length;
  const choose = (version: number | undefined): void => {
    chosen.value = version;
    if (version === undefined || !has(version)) void read(version === undefined ? undefined : pageOf(version));
    clearTimeout(later.current); // browsers refuse many changes of the URL in a short time
    later.current = setTimeout(() => replace(link(["stream", p.type, p.id], { at: version })), 150);
  };

  useEffect(() => {
    if (at === chosen.peek() && page.peek() !== undefined) return;
    chosen.value = at;
    if (at === undefined || !has(at)) void read(at === undefined ? undefined : pageOf(at));
  }, [at]);
  useEffect(
    () => () => {
      reading.current?.abort();
      clearTimeout(later.current);
    },
    [],
  );

  // Shows new events: the tail says that there are some.
  useEffect(() => {
    let from: number | undefined;
    return stream({
      path: () => `api/log?${new URLSearchParams({ type: p.type, id: p.id, ...(from !== undefined && { after: String(from) }) }).toString()}`,
      message: (kind, data) => {
        if (kind === "at") {
          if (from === undefined) renew(); // events may have been added before the tail began
          from = (data as { position: number }).position;
        } else if (kind === "skipped") from = (data as { to: number }).to;
        else {
          const last = (data as Event[]).at(-1)!;
          from = last.position;
          newest.current = last.version;
          const shown = page.peek();
          if (!shown || last.version <= shown.head) return;
          page.value = { ...shown, head: last.version };
          renew();
        }
      },
    });
  }, []);

  const shown = page.value;
  const version = chosen.value ?? shown?.head ?? 0;
  const step = useRef((_: KeyboardEvent) => {});
  step.current = (e) => {
    const last = shown?.head ?? 0;
    const to = { ArrowDown: version + 1, j: version + 1, ArrowUp: version - 1, k: version - 1, Home: 1, End: last, PageDown: version + 10, PageUp: version - 10 }[e.key];
    if (to === undefined || last === 0 || e.ctrlKey || e.metaKey || e.altKey || (e.target as Element).closest("input, textarea, select, .lines")) return;
    e.preventDefault();
    const next = Math.min(Math.max(to, 1), last);
    if (next !== version) choose(next);
  };
  useEffect(() => {
    const listen = (e: KeyboardEvent): void => step.current(e);
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);

  const i = shown ? version - shown.after - 1 : -1;
  const event = shown?.events[i];
  return (
    <>
      <section class="card">
        <header class="bar">
          <h1 class="title">
            <Data>{`${p.type}/${p.id}`}</Data>
          </h1>
          <span class="buttons">
            <Copy name="Copy link" text={() => new URL(link(["stream", p.type, p.id], { at: version || undefined }), location.href).href} />
            <Copy name="Copy as curl" text={() => curl(`${path}?after=${Math.max(0, version - 1)}&limit=1`)} />
          </span>
        </header>
        {shown && (
          <form
            class="jump"
            onSubmit={(e) => {
              e.preventDefault();
              const to = Number(new FormData(e.target as HTMLFormElement).get("version"));
              if (to >= 1) choose(Math.min(Math.round(to), Math.max(1, shown.head)));
            }}
          >
            <span id="head">
              {number(shown.head)} {shown.head === 1 ? "event" : "events"}
            </span>
            <span>
              owner <Data>{shown.owner ?? "none"}</Data>
            </span>
            <label>
              Version
              <input name="version" type="number" min="1" max={Math.max(1, shown.head)} value={version || ""} key={version} />
            </label>
            <button class="small">Go</button>
            <button type="button" class="small" onClick={() => choose(undefined)} aria-pressed={chosen.value === undefined}>
              {chosen.value === undefined ? "Following the newest" : "Follow the newest"}
            </button>
            <a href={link(["log"], { type: p.type, id: p.id })}>In the log</a>
            <a href={link(["sessions"], { q: `${p.type}/${p.id}` })}>Subscribers</a>
            <a href={tryLink(p)}>Open in Try</a>
          </form>
        )}
        {problem.value && (
          <p class="note bad" role="alert">
            {problem.value}{" "}
            <button type="button" class="small" onClick={() => choose(chosen.value)}>
              Try again
            </button>
          </p>
        )}
      </section>
      {!shown ? (
        !problem.value && <p class="empty">Reading the stream.</p>
      ) : shown.head === 0 ? (
        <p class="card empty">This stream has no events. The first command to the aggregate that causes events begins it, and they appear here.</p>
      ) : (
        <div class="history">
          <Versions page={shown} version={version} choose={choose} />
          <section class="card" aria-label="The chosen version">
            {event ? (
              <Chosen
                key={event.position}
                event={event}
                before={i > 0 ? shown.events[i - 1]!.state : shown.before}
                page={shown}
                path={path}
                fold={() => void read(shown.after, true)}
                isFolding={isFolding.value}
              />
            ) : (
              <p class="empty">{version > shown.head ? `The stream has no version ${number(version)} yet. The newest is ${number(shown.head)}.` : `Reading version ${number(version)}.`}</p>
            )}
          </section>
        </div>
      )}
    </>
  );
}

/** The events of the page. One of them is chosen. */
function Versions(p: { page: Page; version: number; choose: (version: number) => void }): JSX.Element {
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    const box = list.current!;
    const row = box.querySelector<HTMLElement>("[aria-selected=true]");
    if (!row) return;
    const [top, height] = [row.offsetTop - box.offsetTop, row.offsetHeight];
    if (top < box.scrollTop) box.scrollTop = top - height;
    else if (top + height > box.scrollTop + box.clientHeight) box.scrollTop = top + 2 * height - box.clientHeight;
  }, [p.version, p.page]);
  const { after, events, head } = p.page;
  const last = after + events.length;
  const time = moments(events.map((e) => e.at));
  const text = (): string =>
    [["Version", "Position", "Time", "Event", "Client", "Key", "Data"], ...events.map((e) => [e.version, e.position, e.at, e.event, e.client ?? "", e.key, `${e.data ?? ""}${e.clipped ? "…" : ""}`])]
      .map((l) => l.join("\t"))
      .join("\n");
  return (
    <section class="card" aria-label="Events">
      <header class="bar">
        <h2>{events.length === 0 ? "No versions here" : `Versions ${number(after + 1)} to ${number(last)}`}</h2>
        <span class="buttons">
          <Copy name="Copy as text" text={text} disabled={events.length === 0} />
        </span>
      </header>
      <p class="quiet">
        <kbd>j</kbd> <kbd>k</kbd> or <kbd>↓</kbd> <kbd>↑</kbd> step, <kbd>Home</kbd> and <kbd>End</kbd> jump.
      </p>
      <ul class="options" role="listbox" tabIndex={0} aria-label="Events by version" aria-activedescendant={`version-${p.version}`} ref={list}>
        {events.map((e) => (
          <li key={e.version} id={`version-${e.version}`} role="option" aria-selected={e.version === p.version} onClick={() => p.choose(e.version)}>
            <span class="number">{number(e.version)}</span>
            <Data>{e.event}</Data>
            <span class="quiet" title={e.at}>
              {time(e.at)}
            </span>
            <span class="quiet by">
              by <Data>{e.client ?? "an unknown client"}</Data>
            </span>
          </li>
        ))}
      </ul>
      <nav class="turn" aria-label="Pages of the stream">
        {after > 0 && (
          <button type="button" class="small" onClick={() => p.choose(Math.min(after, head))}>
            ← Earlier
          </button>
        )}
        {last < head && (
          <button type="button" class="small" onClick={() => p.choose(last + 1)}>
            Later →
          </button>
        )}
      </nav>
    </section>
  );
}

/** The chosen event and the state after it, with what the event has changed. */
function Chosen(p: { event: Version; before: string | undefined; page: Page; path: string; fold: () => void; isFolding: boolean }): JSX.Element {
  const e = p.event;
  const alone = useSignal<Page | undefined>(undefined);
  const problem = useSignal("");
  const one = `${p.path}?after=${e.version - 1}&limit=1`;
  // The node leaves out states of a page that has too many bytes.
  const isMissing = seesData() && e.state === undefined && !e.error && !p.page.error && p.page.folded === undefined;
  useEffect(() => {
    if (!isMissing) return;
    const ended = new AbortController();
    const timer = setTimeout(() => {
      get<Page>(one, ended.signal).then(
        (answer) => (alone.value = answer),
        (error: Error) => {
          if (!ended.signal.aborted) problem.value = error.message;
        },
      );
    }, 100);
    return () => {
      clearTimeout(timer);
      ended.abort();
    };
  }, [isMissing, p.page]);
  const state = e.state ?? alone.value?.events[0]?.state;
  const before = p.before ?? alone.value?.before;
  const error = e.error ?? p.page.error ?? alone.value?.events[0]?.error ?? alone.value?.error;
  const folded = p.page.folded ?? alone.value?.folded;
  return (
    <>
      <header class="bar">
        <h2 id="chosen">
          Version {number(e.version)}: <Data>{e.event}</Data>
        </h2>
      </header>
      <Facts event={e} onStream />
      <Journey key={e.position} position={e.position} />
      {!seesData() && <p class="note">You have the role viewer, which sees neither the data of events nor states.</p>}
      {e.data !== undefined && <WholeData event={e} path={one} />}
      {problem.value && (
        <p class="note bad" role="alert">
          {problem.value}
        </p>
      )}
      {error && (
        <p class="note bad">
          There is no state: <Data>{error}</Data>
        </p>
      )}
      {state !== undefined ? (
          <Json name={`State after version ${number(e.version)}`} text={state} before={before}>
            <span class="quiet" id="difference">
              {before === undefined ? "the state before is not known" : state === before ? "no difference to the state before" : "differences to the state before are marked"}
            </span>
          </Json>
      ) : (
        folded !== undefined &&
        !error && (
          <p class="note">
            The state is made of {number(e.version - 1)} earlier events, of which {number(folded)} are folded. The node folds at most {number(foldMore)} for one request.{" "}
            <button type="button" class="small" disabled={p.isFolding} onClick={p.fold}>
              {p.isFolding ? "Folding" : "Fold further"}
            </button>
          </p>
        )
      )}
    </>
  );
}
