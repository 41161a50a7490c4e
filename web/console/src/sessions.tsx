// The sessions of all gateways: who is connected where, and what waits.
import type { JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { Act, may } from "./act.js";
import { get, pause } from "./api.js";
import { bytes, number, seconds } from "./format.js";
import { link, replace, route } from "./route.js";
import { Data, Id, Table } from "./ui.js";

interface Topic {
  name: string;
  behind?: number;
}

interface Session {
  id: string;
  client?: string;
  node: string;
  protocol: string;
  seconds: number;
  waiting?: number;
  full?: boolean;
  subscriptions: number;
  topics: Topic[];
}

interface Gateway {
  id: string;
  open: number;
  full: number;
  matching: number;
  silent?: string;
}

interface Answer {
  open: number;
  full: number;
  matching: number;
  gateways: Gateway[];
  sessions: Session[];
}

/** The time between two questions, in milliseconds. */
const every = 2000;

const lag = (t: Topic): string => (t.behind ? ` (${number(t.behind)} positions behind)` : "");
const rest = (s: Session): string => (s.subscriptions > s.topics.length && s.topics.length > 0 ? `, ${number(s.subscriptions)} in all` : "");
const subscriptions = (s: Session): string => s.topics.map((t) => t.name + lag(t)).join(", ") + rest(s) || "none";

export function Sessions(): JSX.Element {
  const answer = useSignal<Answer | undefined>(undefined);
  const problem = useSignal("");
  const sought = route.value.query.get("q") ?? "";
  useEffect(() => {
    const ended = new AbortController();
    const read = async (): Promise<void> => {
      await pause(150); // while somebody types
      while (!ended.signal.aborted) {
        try {
          answer.value = await get<Answer>(`api/sessions?${new URLSearchParams({ q: sought }).toString()}`, ended.signal);
          problem.value = "";
        } catch (e) {
          if (!ended.signal.aborted) problem.value = (e as Error).message;
        }
        await pause(every);
      }
    };
    void read();
    return () => ended.abort();
  }, [sought]);

  const a = answer.value;
  if (!a) return <p class="empty" role={problem.value ? "alert" : undefined}>{problem.value || "Counting the sessions."}</p>;
  const shown = a.sessions.length;
  const acts = may("kick_session");
  return (
    <>
      <section class="card" aria-label="Search">
        <label class="look">
          Find
          <input id="find" dir="auto" value={sought} placeholder="a part of a client id, 8 characters of a session id, or what it subscribes to: auction/42, auction/*, query NAME" spellcheck={false} autocomplete="off" onInput={(e) => replace(link(["sessions"], { q: e.currentTarget.value }))} />
        </label>
        <p id="total" role="status">
          {number(a.open)} {a.open === 1 ? "session" : "sessions"}, {number(a.full)} slow{sought && `; ${number(a.matching)} with this text`}
          {a.matching > shown && `; the first ${number(shown)} are shown, slow ones first`}
        </p>
        {problem.value && <p class="wrong" role="alert">{problem.value}</p>}
        {a.gateways.map((g) => g.silent && <p class="note" key={g.id}><Data>{g.id}</Data>: {g.silent}. Its sessions are not counted.</p>)}
      </section>
      <Table<Gateway>
        name="Gateways"
        rows={a.gateways}
        id={(g) => g.id}
        tone={(g) => (g.silent ? "doubtful" : undefined)}
        empty="The cluster has no gateway, so there are no sessions."
        columns={[
          { title: "Gateway", cell: (g) => <Data>{g.id}</Data>, text: (g) => g.id },
          { title: "Sessions", cell: (g) => (g.silent ? "–" : number(g.open)), isNumber: true },
          { title: "Slow", cell: (g) => (g.silent ? "–" : number(g.full)), isNumber: true },
          ...(sought ? [{ title: "With this text", cell: (g: Gateway) => (g.silent ? "–" : number(g.matching)), isNumber: true }] : []),
          ...(may("move_sessions") && a.gateways.length > 1 ? [{ title: "", cell: (g: Gateway) => (g.open > 0 ? <Move gateway={g} /> : ""), text: () => "" }] : []),
        ]}
      />
      <Table<Session>
        name="Sessions"
        rows={a.sessions}
        id={(s) => `${s.node} ${s.id}`}
        tone={(s) => (s.full ? "doubtful" : undefined)}
        empty={sought ? "No session has this text in its id or in the id of its client, and none subscribes to it." : "No client is connected. Sessions appear here while they are open."}
        columns={[
          { title: "Client", cell: (s) => (s.client ? <Data>{s.client}</Data> : <span class="quiet">anonymous</span>), text: (s) => s.client ?? "" },
          { title: "Session", cell: (s) => <Id id={s.id} />, text: (s) => s.id },
          { title: "Gateway", cell: (s) => <Data>{s.node}</Data>, text: (s) => s.node },
          { title: "Protocol", cell: (s) => s.protocol },
          { title: "Age", cell: (s) => seconds(s.seconds), isNumber: true },
          { title: "Waiting", cell: (s) => bytes(s.waiting ?? 0), isNumber: true },
          { title: "Slow", cell: (s) => (s.full ? "slow" : "no") },
          { title: "Subscriptions", cell: (s) => <Data>{subscriptions(s)}</Data>, text: subscriptions },
          ...(acts ? [{ title: "", cell: (s: Session) => <Actions session={s} />, text: () => "" }] : []),
        ]}
      />
    </>
  );
}

function Move(p: { gateway: Gateway }): JSX.Element {
  const count = useSignal("");
  const n = Number(count.value || Math.max(1, Math.ceil(p.gateway.open / 10)));
  return (
    <span class="buttons">
      <input class="count" type="number" min={1} max={2000} aria-label={`Sessions of ${p.gateway.id} to move`} value={count.value} placeholder={String(n)} onInput={(e) => (count.value = e.currentTarget.value)} />
      <Act name="Move" action="move_sessions" args={{ member: p.gateway.id, count: n }}>
        {number(n)} sessions of <Data>{p.gateway.id}</Data>, picked at random, are asked to connect to another gateway. They lose nothing.
      </Act>
    </span>
  );
}

const Actions = (p: { session: Session }): JSX.Element => (
  <span class="buttons">
    <Act name="Kick" action="kick_session" args={{ session: p.session.id }}>
      The session of <Data>{p.session.client ?? "an anonymous client"}</Data> is closed with code 4004, at which its client does not connect again by itself.
    </Act>
    {p.session.client && (
      <>
        <Act name="Kick client" action="kick_client" args={{ client: p.session.client }}>
          All sessions of <Data>{p.session.client}</Data> at all gateways are closed with code 4004.
        </Act>
        <Act name="Revoke" action="revoke_client" args={{ client: p.session.client }}>
          The tokens of <Data>{p.session.client}</Data> that were issued until now are revoked at all gateways, and its sessions are closed.
        </Act>
      </>
    )}
  </span>
);
