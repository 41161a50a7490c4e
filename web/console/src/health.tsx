// What can be wrong with the log and the members while commands still work.
import type { ComponentChildren, JSX } from "preact";
import { Act } from "./act.js";
import { moment } from "./event.js";
import { bytes, number } from "./format.js";
import { link } from "./route.js";
import { Problems } from "./problems.js";
import { type Member, picture } from "./status.js";
import { Data, Id, Table } from "./ui.js";
import { View } from "./view.js";

interface Stored {
  /** Bytes; the part of the log and what is left on the disk are missing if they are not known. */
  database: number;
  log?: number;
  free?: number;
  head: number;
  day_events: number;
  verify?: { at: string; ended?: string; failed?: boolean; text?: string };
}

const day = 86_400_000;

function certificate(m: Member, now: number): string {
  if (m.silent) return "–";
  if (!m.certificate_expires) return "none: links have no TLS";
  const left = Math.floor((m.certificate_expires - now) / day);
  return `${new Date(m.certificate_expires).toISOString().slice(0, 10)}, ${left < 0 ? "expired" : `${number(left)} days left`}`;
}

export function Health(): JSX.Element {
  const p = picture.value;
  if (!p) return <p class="empty">Waiting for the figures of the members.</p>;
  return (
    <>
      <Problems list={p.problems} />
      <Table<Member>
        name="Members"
        rows={p.members}
        id={(m) => m.id}
        tone={(m) => (m.silent || !m.store_up ? "doubtful" : undefined)}
        empty="The members of the cluster would be here."
        columns={[
          { title: "Member", cell: (m) => <Data>{m.id}</Data>, text: (m) => m.id },
          { title: "Database", cell: (m) => (m.silent ? m.silent : m.store_up ? "answers and stores" : "refuses, or does not answer") },
          { title: "Version", cell: (m) => <Data>{m.version}</Data>, text: (m) => m.version },
          { title: "Clock", cell: (m) => (m.clock_ms === 0 ? "as the database's" : `${number(m.clock_ms)} ms off`) },
          { title: "Ring", cell: (m) => (m.ring === p.ring ? "agrees" : `differs: ${m.ring}`) },
          { title: "Certificate", cell: (m) => certificate(m, p.at) },
        ]}
      />
      <section class="card" aria-label="Log">
        <h2>Log</h2>
        <dl class="facts column">
          <div>
            <dt>Incarnation</dt>
            <dd>
              <Id id={p.log} />
            </dd>
          </div>
          <div>
            <dt>Newest event</dt>
            <dd>position {number(p.head)}</dd>
          </div>
          <div>
            <dt>After a loss</dt>
            <dd>
              if the database was restored and events are missing, nodes stop, and <code>ganglion log accept-loss --store URL</code> says that they may continue
            </dd>
          </div>
        </dl>
      </section>
      <section class="card" aria-label="Storage">
        <h2>Storage</h2>
        <View<Stored> name="health" every={10_000}>
          {(v) => <Storage of={v} />}
        </View>
      </section>
    </>
  );
}

/** The bytes that the events of a day take, by the mean of all. */
const growth = (v: Stored): number => (v.head > 0 ? ((v.log ?? v.database) / v.head) * v.day_events : 0);

function left(v: Stored): string {
  if (v.free === undefined) return "not known to the node: ask the machine of the database";
  const days = Math.floor(v.free / growth(v)); // infinite without growth
  return bytes(v.free) + (days < 3650 ? `, enough for ${number(days)} days like the last one` : ", enough for more than 10 years like the last day");
}

function Storage(p: { of: Stored }): JSX.Element {
  const v = p.of;
  const facts: [string, ComponentChildren][] = [
    ["Database", bytes(v.database) + (v.log === undefined ? "" : `, of which the log takes ${bytes(v.log)}`)],
    ["Growth", `${number(v.day_events)} ${v.day_events === 1 ? "event" : "events"} in the last 24 hours, ${v.log === undefined ? "at most about" : "about"} ${bytes(growth(v))}`],
    ["Free disk", left(v)],
    [
      "Last check",
      <span id="verify">
        <Check of={v.verify} />
        <span class="buttons">
          <Act name="Check the log" action="verify" args={{}} progress={() => "The node reads every event. You may close this: the outcome will be here."}>
            The node reads every event of the log, as <code>ganglion verify</code> does, with connections of its own and for at most an hour. The cluster works in the meantime.
          </Act>
        </span>
      </span>,
    ],
  ];
  return (
    <dl class="facts column">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Check(p: { of: Stored["verify"] }): JSX.Element {
  const v = p.of;
  if (!v)
    return (
      <>
        none on the console lately; <code>ganglion verify --store URL</code> on the command line is not recorded
      </>
    );
  const result = v.ended === undefined ? "in progress, or its node ended" : v.failed ? "failed" : "sound";
  return (
    <>
      <a href={link(["audit"], { q: "verify" })} title={v.ended ?? v.at}>
        {moment(v.ended ?? v.at)}
      </a>
      : <span class={v.failed ? "wrong" : v.ended ? "good" : ""}>{result}</span>
      {v.text && (
        <>
          , <Data>{v.text}</Data>
        </>
      )}
    </>
  );
}
