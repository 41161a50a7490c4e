// Which member owns which partition, and where an aggregate is.
import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { get } from "./api.js";
import { moments } from "./event.js";
import { number } from "./format.js";
import { link, replace, route } from "./route.js";
import { picture } from "./status.js";
import { Data, Table } from "./ui.js";

interface Move {
  at: string;
  from: string;
  to: string;
  partitions: number;
}

interface Answer {
  members: string[];
  owners: number[];
  moves: Move[];
  sought?: { aggregate: string; partition: number; owner: string };
}

/** Partitions in one line of the picture. */
const columns = 64;
/** Colours of members; further ones begin again. */
const colours = 6;
const none = "no member";

export function Ring(): JSX.Element {
  const answer = useSignal<Answer | undefined>(undefined);
  const problem = useSignal("");
  const sought = route.value.query.get("aggregate") ?? "";
  const ring = picture.value?.ring; // another ring makes the page ask again
  useEffect(() => {
    const ended = new AbortController();
    const wait = setTimeout(() => {
      get<Answer>(`api/ring?${new URLSearchParams(sought ? { aggregate: sought } : {}).toString()}`, ended.signal)
        .then((a) => {
          answer.value = a;
          problem.value = "";
        })
        .catch((e: Error) => {
          if (ended.signal.aborted) return;
          problem.value = e.message;
          if (!answer.value) void get<Answer>("api/ring", ended.signal).then((a) => (answer.value = a), () => {});
        });
    }, 150); // while somebody types
    return () => {
      clearTimeout(wait);
      ended.abort();
    };
  }, [sought, ring]);

  const a = answer.value;
  if (!a) return <p class="empty">{problem.value || "Reading the ring."}</p>;
  const found = problem.value === "" && a.sought?.aggregate === sought ? a.sought : undefined;
  const time = moments(a.moves.map((m) => m.at));
  const counts = a.members.map((_, i) => a.owners.filter((o) => o === i).length);
  return (
    <>
      <section class="card" aria-label="Owner of an aggregate">
        <label class="look">
          Who owns the aggregate
          <input id="aggregate" dir="auto" value={sought} placeholder="auction/42" spellcheck={false} autocomplete="off" onInput={(e) => replace(link(["ring"], { aggregate: e.currentTarget.value }))} />
        </label>
        {sought && (problem.value ? <p class="wrong" role="alert">{problem.value}</p> : found && (
          <p id="owner">
            <Data>{found.aggregate}</Data> is in partition {found.partition}, which <strong>{found.owner || none}</strong> owns. <a href={link(["try", ...split(found.aggregate)])}>Get its state</a>
          </p>
        ))}
      </section>
      <section class="card" aria-label="Partitions">
        <h2>{number(a.owners.length)} partitions by owner</h2>
        <Picture answer={a} found={found?.partition} />
      </section>
      <Table
        name="Owners"
        rows={a.members.map((id, i) => ({ id, i, count: counts[i]! }))}
        id={(m) => m.id}
        empty="No domain node is ready, so no partition has an owner."
        columns={[
          { title: "", cell: (m) => <span class={`swatch owner-${m.i % colours}`} />, text: () => "" },
          { title: "Member", cell: (m) => <Data>{m.id}</Data>, text: (m) => m.id },
          { title: "Partitions", cell: (m) => number(m.count), isNumber: true },
          { title: "Share", cell: (m) => `${((100 * m.count) / a.owners.length).toFixed(1)} %`, isNumber: true },
        ]}
      />
      <Table<Move>
        name="Moves of the last hour"
        rows={a.moves}
        id={(m) => `${m.at} ${m.from} ${m.to}`}
        empty="No partitions have moved in the last hour, as this node has seen it. A move would be here after a member joined, left or was lost."
        columns={[
          { title: "At", cell: (m) => time(m.at) },
          { title: "From", cell: (m) => <Data>{m.from || none}</Data>, text: (m) => m.from || none },
          { title: "To", cell: (m) => <Data>{m.to || none}</Data>, text: (m) => m.to || none },
          { title: "Partitions", cell: (m) => number(m.partitions), isNumber: true },
        ]}
      />
    </>
  );
}

const split = (stream: string): string[] => [stream.slice(0, stream.indexOf("/")), stream.slice(stream.indexOf("/") + 1)];

/** A square for each partition, in the colour of its owner: one path for each member. */
function Picture(p: { answer: Answer; found: number | undefined }): JSX.Element {
  const { owners, members } = p.answer;
  const place = (i: number): [number, number] => [i % columns, Math.floor(i / columns)];
  const paths = [...members.keys(), -1].map((member) => owners.flatMap((o, i) => (o === member ? [`M${place(i).join(" ")}h.9v.9h-.9z`] : [])).join(""));
  const lines = Math.ceil(owners.length / columns);
  return (
    <svg class="ring" viewBox={`-.5 -.5 ${columns + 1} ${lines + 1}`} role="img" aria-label={members.map((m, i) => `${m} owns ${owners.filter((o) => o === i).length} partitions`).join(", ")}>
      {paths.map((d, i) => d && <path key={i} d={d} class={i < members.length ? `owner-${i % colours}` : "owner-none"} />)}
      {p.found !== undefined && <rect x={place(p.found)[0] - 0.25} y={place(p.found)[1] - 0.25} width="1.4" height="1.4" class="found" />}
    </svg>
  );
}
