// What can be wrong with the log and the members while commands still work.
import type { JSX } from "preact";
import { number } from "./format.js";
import { Problems } from "./problems.js";
import { type Member, picture } from "./status.js";
import { Data, Table } from "./ui.js";

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
              <Data>{p.log}</Data>
            </dd>
          </div>
          <div>
            <dt>Newest event</dt>
            <dd>position {number(p.head)}</dd>
          </div>
          <div>
            <dt>Check it</dt>
            <dd>
              <code>ganglion verify --store URL</code>, which reads every event, also while the cluster works
            </dd>
          </div>
          <div>
            <dt>After a loss</dt>
            <dd>
              if the database was restored and events are missing, nodes stop, and <code>ganglion log accept-loss --store URL</code> says that they may continue
            </dd>
          </div>
        </dl>
      </section>
    </>
  );
}
