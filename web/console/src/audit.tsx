// Who did what on the console.
import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { get, pause } from "./api.js";
import { moments, seesData } from "./event.js";
import { number } from "./format.js";
import { link, replace, route } from "./route.js";
import { Data, Table } from "./ui.js";

interface Entry {
  version: number;
  position: number;
  at: string;
  client: string;
  key?: string;
  action?: string;
  /** The position of the request of an outcome. */
  of?: number;
  failed?: boolean;
  reason?: string;
  args?: string;
  text?: string;
}

interface Page {
  stream: string;
  after: number;
  entries: Entry[];
}

interface Row extends Entry {
  outcome: Entry | undefined;
}

/** The time between two questions for new entries, in milliseconds. */
const every = 2000;

/** kick_client → kick client */
const title = (r: Row): string => (r.action ?? "").replaceAll("_", " ");
const target = (r: Row): string => {
  try {
    return Object.entries(JSON.parse(r.args ?? "{}") as object)
      .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`)
      .join(", ");
  } catch {
    return r.args ?? "";
  }
};
const outcome = (r: Row): string => (r.outcome ? `${r.outcome.failed ? "failed" : "done"}${r.outcome.text ? `: ${r.outcome.text}` : ""}` : "not known (yet)");

export function Audit(): JSX.Element {
  const page = useSignal<Page | undefined>(undefined);
  const problem = useSignal("");
  const sought = route.value.query.get("q") ?? "";
  const older = useSignal(false);
  useEffect(() => {
    const ended = new AbortController();
    const read = async (): Promise<void> => {
      while (!ended.signal.aborted) {
        try {
          const p = await get<Page>("api/audit", ended.signal);
          problem.value = "";
          const known = page.peek();
          const first = p.entries.at(-1)?.version ?? 0; // the pages that were read before follow
          page.value = known?.entries[0] && known.entries[0].version >= p.after ? { ...known, entries: [...p.entries, ...known.entries.filter((e) => e.version < first)] } : p;
        } catch (e) {
          if (!ended.signal.aborted) problem.value = (e as Error).message;
        }
        await pause(every);
      }
    };
    void read();
    return () => ended.abort();
  }, []);
  const more = async (): Promise<void> => {
    older.value = true;
    try {
      const next = await get<Page>(`api/audit?before=${page.value!.after + 1}`);
      page.value = { ...next, entries: [...page.value!.entries, ...next.entries] };
    } catch (e) {
      problem.value = (e as Error).message;
    }
    older.value = false;
  };
  const p = page.value;
  if (!p) return <p class="empty" role={problem.value ? "alert" : undefined}>{problem.value || "Reading the audit."}</p>;
  const outcomes = new Map(p.entries.filter((e) => e.of).map((e) => [e.of!, e]));
  const all: Row[] = p.entries.filter((e) => !e.of).map((e) => ({ ...e, outcome: outcomes.get(e.position) }));
  const words = sought.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = all.filter((r) => {
    const text = [r.client, title(r), target(r), r.reason, outcome(r), r.at, r.key].join(" ").toLowerCase();
    return words.every((w) => text.includes(w));
  });
  const hasData = seesData();
  const time = moments(rows.map((r) => r.at));
  const [type = "", id = ""] = p.stream.split("/");
  return (
    <>
      <section class="card" aria-label="Filter">
        <label class="look">
          Find
          <input id="find" dir="auto" value={sought} placeholder="a person, an action, a target" spellcheck={false} autocomplete="off" onInput={(e) => replace(link(["audit"], { q: e.currentTarget.value }))} />
        </label>
        {problem.value && <p class="wrong" role="alert">{problem.value}</p>}
        {!hasData && <p class="note">You have the role viewer, so targets, reasons and outcomes are hidden.</p>}
      </section>
      <Table<Row>
        name="Actions"
        rows={rows}
        id={(r) => String(r.version)}
        tone={(r) => (r.outcome && !r.outcome.failed ? undefined : "doubtful")}
        empty={all.length > 0 ? (p.after > 0 ? `None of the newest ${number(all.length)} actions has this text.` : "No action has this text.") : "What operators do on the console is recorded here: who, what, why, and the outcome. There is nothing yet."}
        columns={[
          { title: "Time", cell: (r) => <a href={link(["stream", type, id], { at: r.version })} title={r.at}>{time(r.at)}</a>, text: (r) => r.at },
          { title: "By", cell: (r) => <Data>{r.client}</Data>, text: (r) => r.client },
          { title: "Action", cell: (r) => <Data>{title(r)}</Data>, text: title },
          ...(hasData
            ? [
                { title: "Target", cell: (r: Row) => <Data>{target(r)}</Data>, text: target },
                { title: "Reason", cell: (r: Row) => <Data>{r.reason ?? ""}</Data>, text: (r: Row) => r.reason ?? "" },
              ]
            : []),
          { title: "Outcome", cell: (r) => <Data>{outcome(r)}</Data>, text: outcome },
        ]}
      />
      {p.after > 0 && (
        <button class="small" disabled={older.value} onClick={() => void more()}>
          Older actions
        </button>
      )}
    </>
  );
}
