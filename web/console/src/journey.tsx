// The way of a command through the cluster: from its frame to the sessions.
import type { JSX } from "preact";
import { useSignal } from "@preact/signals";
import { get } from "./api.js";
import { number, seconds } from "./format.js";
import { Data, Table } from "./ui.js";

interface Step {
  member: string;
  kind: string;
  command?: string;
  position?: number;
  /** Microseconds. */
  began: number;
  took: number;
  outcome?: string;
  attempt?: number;
  subscriptions?: number;
}

interface Answer {
  steps: Step[];
  followers: { member: string; name: string; segments: number; lowest: number }[];
  silent: { member: string; why: string }[];
}

function words(s: Step): string {
  const outcome = s.outcome ? `: ${s.outcome}` : "";
  switch (s.kind) {
    case "command":
      return `the gateway received it, and answered${outcome}`;
    case "execute":
      return `the owner executed it${outcome}${(s.attempt ?? 1) > 1 ? `, as member ${s.attempt} that was asked` : ""}`;
    case "append":
      return `its events were appended to the log`;
  }
  const n = s.subscriptions ?? 0;
  return `the gateway passed its events to ${n === 1 ? "1 subscription" : `${number(n)} subscriptions`}`;
}

/** A button that shows what the members did for the command of an event. */
export function Journey(p: { position: number }): JSX.Element {
  const answer = useSignal<Answer | string | undefined>(undefined);
  const ask = async (): Promise<void> => {
    answer.value = await get<Answer>(`api/journey?position=${p.position}`).catch((e: unknown) => (e instanceof Error ? e.message : String(e)));
  };
  const a = answer.value;
  const first = typeof a === "object" ? (a.steps[0]?.began ?? 0) : 0;
  return (
    <section class="journey" aria-label="The way of the command">
      <button type="button" class="small" onClick={() => void ask()}>
        {a === undefined ? "Follow the command" : "Look again"}
      </button>
      {typeof a === "string" && <p role="alert">{a}</p>}
      {typeof a === "object" && (
        <>
          <Table
            name="Steps of the command"
            rows={a.steps}
            id={(s) => `${s.member} ${s.kind} ${s.began}`}
            empty="No member remembers it. Members keep their last 2,048 steps while a page of the console is open: send a command, and follow it."
            columns={[
              { title: "After", cell: (s) => seconds(Math.max(0, s.began - first) / 1e6), isNumber: true },
              { title: "Took", cell: (s) => seconds(s.took / 1e6), isNumber: true },
              { title: "Member", cell: (s) => <Data>{s.member}</Data>, text: (s) => s.member },
              { title: "Step", cell: words },
            ]}
          />
          {a.followers.length > 0 && (
            <Table
              name="Processors"
              rows={a.followers}
              id={(f) => `${f.name} ${f.member}`}
              empty=""
              columns={[
                { title: "Processor", cell: (f) => <Data>{f.name}</Data>, text: (f) => f.name },
                { title: "Member", cell: (f) => <Data>{f.member}</Data>, text: (f) => f.member },
                { title: "Segments", cell: (f) => number(f.segments), isNumber: true },
                { title: "Has passed it", cell: (f) => (f.lowest >= p.position ? "yes" : `no, ${number(p.position - f.lowest)} positions behind it`) },
              ]}
            />
          )}
          {a.silent.map((s) => (
            <p key={s.member}>{`${s.member} did not answer: ${s.why}.`}</p>
          ))}
        </>
      )}
    </section>
  );
}
