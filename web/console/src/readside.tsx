// The read side: projections and process managers, what is blocked, consumer groups, and wake-ups.
import type { ComponentChildren, JSX } from "preact";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { Act, act, may } from "./act.js";
import { moments, seesData, streamLink } from "./event.js";
import { compact, number, seconds } from "./format.js";
import { link, route } from "./route.js";
import { Badge, type Column, Data, Figure, Table } from "./ui.js";
import { View } from "./view.js";

interface Segment {
  segment: string;
  owner: string;
  position: number;
  lag: number;
  rate?: number;
  state: string;
}

/** A build of a projection or a process manager, or a consumer group. */
interface Parts {
  name: string;
  kind: string;
  build?: number;
  own?: boolean;
  state: string;
  paused?: boolean;
  stopped?: boolean;
  position: number;
  lag: number;
  rate?: number;
  blocked: number;
  members?: number;
  segments: Segment[];
}

interface Waiting {
  kind: string;
  of: string;
  build?: number;
  key: string;
  stream?: string;
  event?: string;
  position: number;
  tries?: number;
  since?: string;
  retried?: boolean;
  error: string;
}

/** The segments in a table. */
const mostRows = 500;
const none = "–";

const rate = (r?: number): string => (r === undefined ? none : compact(r));
const tone = (p: { paused?: boolean; stopped?: boolean; blocked?: number }): string | undefined => (p.paused || p.stopped || p.blocked ? "doubtful" : undefined);
const name = (page: string) => ({ title: "Name", cell: (p: Parts) => <a href={link([page, p.name])}><Data>{p.name}</Data></a>, text: (p: Parts) => p.name });

/** The column with the actions of a row, for users who may act. */
const actions = <T,>(cell: (row: T) => ComponentChildren): Column<T>[] => (may("processor_pause") ? [{ title: "Actions", cell: (row) => <div class="buttons">{cell(row)}</div>, text: () => "" }] : []);

function Pause(p: { of: string; args?: object; paused: boolean | undefined; children: ComponentChildren }): JSX.Element {
  const name = p.paused ? "Resume" : "Pause";
  return (
    <Act key={name} name={name} action={`${p.of}_${name.toLowerCase()}`} args={p.args ?? {}}>
      {p.paused ? "It continues where it stopped." : p.children}
    </Act>
  );
}

/** What a rebuild would do. */
function DryRun(p: { name: string }): JSX.Element {
  const text = useSignal("Counting the events that a rebuild handles.");
  useEffect(() => {
    act("processor_dry_run", { name: p.name }).then(
      (o) => (text.value = o.text),
      (e: Error) => (text.value = e.message),
    );
  }, []);
  return (
    <p id="dry-run" role="status">
      {text}
    </p>
  );
}

/** How far something is; its segments are the same. */
const figures: Column<Segment | Parts>[] = [
  { title: "Position", cell: (s) => number(s.position), isNumber: true },
  { title: "Lag", cell: (s) => number(s.lag), isNumber: true },
  { title: "Events/s", cell: (s) => rate(s.rate), isNumber: true },
];

function Segments(p: { of: Parts[]; owner: string; leftOut?: number | undefined }): JSX.Element {
  const only = route.value.path[1];
  const rows = p.of.flatMap((one) => (only === undefined || one.name === only ? one.segments.map((s) => ({ ...s, of: one.build ? `${one.name}, build ${one.build}` : one.name })) : []));
  const page = route.value.path[0]!;
  return (
    <>
      <Table
        name={only === undefined ? "Segments" : `Segments of ${only}`}
        rows={rows.slice(0, mostRows)}
        id={(s) => `${s.of} ${s.segment}`}
        empty="The segments would be here, with the member that works on each."
        columns={[
          { title: "Name", cell: (s) => <Data>{s.of}</Data>, text: (s) => s.of },
          { title: "Segment", cell: (s) => <Data>{s.segment}</Data>, text: (s) => s.segment },
          { title: p.owner, cell: (s) => (s.owner ? <Data>{s.owner}</Data> : none), text: (s) => s.owner },
          ...figures,
          { title: "State", cell: (s) => s.state },
        ]}
      />
      {(rows.length > mostRows || (p.leftOut ?? 0) > 0) && <p class="quiet">Not all segments are shown: choose a name above, or use the command line.</p>}
      {only !== undefined && <a href={link([page])}>Show the segments of all</a>}
    </>
  );
}

/** The state of a build, and how much of a new one is built. */
function stateOf(p: Parts): string {
  if (!p.state.startsWith("building")) return p.state;
  const left = p.rate ? `, ${seconds(p.lag / p.rate)} left` : "";
  return `${p.state}, ${Math.floor((100 * p.position) / Math.max(1, p.position + p.lag))} %${left}`;
}

interface ProcessorsView {
  builds: Parts[];
  left_out?: number;
  memories: { name: string; member: string; position: number; state: string }[];
  outboxes: { name: string; commands: number; oldest: number; held: number; rejected: number }[];
  silent: string[];
}

export function Processors(): JSX.Element {
  return (
    <View<ProcessorsView> name="processors">
      {(v) => (
        <>
          {v.silent.length > 0 && <p class="note">{v.silent.join(", ")} did not say what it works on, so owners may be missing.</p>}
          <Table<Parts>
            name="Projections and process managers"
            rows={v.builds}
            id={(b) => String(b.build)}
            tone={tone}
            empty="No projection has a build. One would be here after a node whose program defines a projection or a process manager has run on this log."
            columns={[
              name("processors"),
              { title: "Kind", cell: (b) => b.kind || "of another program" },
              { title: "Build", cell: (b) => b.build, isNumber: true },
              { title: "State", cell: stateOf },
              ...figures,
              { title: "Segments", cell: (b) => b.segments.length, isNumber: true },
              { title: "Blocked", cell: (b) => (b.blocked ? <a href={link(["blocked"])}>{number(b.blocked)}</a> : 0), text: (b) => String(b.blocked), isNumber: true },
              ...actions<Parts>((b) => (
                <>
                  <Pause of="processor" args={{ name: b.name }} paused={b.paused}>
                    All builds of {b.name} stop. Queries answer from the rows as they are.
                  </Pause>
                  {b.own && b.state !== "retired" && (
                    <Act name="Rebuild" action="processor_rebuild" args={{ name: b.name }}>
                      <DryRun name={b.name} />
                      Queries answer from the old build until the new one has caught up. Events that were skipped are handled again.
                    </Act>
                  )}
                </>
              )),
            ]}
          />
          <Segments of={v.builds} owner="Owner" leftOut={v.left_out} />
          <Table
            name="Commands of process managers"
            rows={v.outboxes}
            id={(o) => o.name}
            empty="This program has no process managers. The commands that they have decided to send would be here."
            columns={[
              { title: "Name", cell: (o) => <Data>{o.name}</Data>, text: (o) => o.name },
              { title: "Pending", cell: (o) => number(o.commands), isNumber: true },
              { title: "Oldest", cell: (o) => (o.commands ? seconds(o.oldest) : none), isNumber: true },
              { title: "Held", cell: (o) => number(o.held), isNumber: true },
              { title: "Rejected, ever", cell: (o) => number(o.rejected), isNumber: true },
            ]}
          />
          <Table
            name="Projections in memory"
            rows={v.memories}
            id={(m) => `${m.name} ${m.member}`}
            empty="This program has no projections in memory. Their states on each member would be here."
            columns={[
              { title: "Name", cell: (m) => <Data>{m.name}</Data>, text: (m) => m.name },
              { title: "Member", cell: (m) => <Data>{m.member}</Data>, text: (m) => m.member },
              { title: "Position", cell: (m) => number(m.position), isNumber: true },
              { title: "State", cell: (m) => m.state },
            ]}
          />
        </>
      )}
    </View>
  );
}

/** A link to the page of a stream, type/id. */
function StreamLink(p: { of: string; version?: number }): JSX.Element {
  const slash = p.of.indexOf("/");
  return (
    <a href={streamLink({ type: p.of.slice(0, slash), id: p.of.slice(slash + 1) }, p.version)}>
      <Data>{p.of}</Data>
    </a>
  );
}

/** Text that a program has made, such as an error, in several lines. */
const Long = (p: { text: string }): JSX.Element => <div class="long">{p.text ? <Data>{p.text}</Data> : <span class="quiet">{seesData() ? none : "for readers"}</span>}</div>;

export function Blocked(): JSX.Element {
  return (
    <View<{ list: Waiting[]; more?: boolean }> name="blocked">
      {(v) => {
        const time = moments(v.list.map((w) => w.since));
        return (
          <>
            <Table<Waiting>
              name="Blocked sequences"
              rows={v.list}
              id={(w) => `${w.of} ${w.build} ${w.key} ${w.position}`}
              empty="Nothing is blocked. A row or a sequence of which an event cannot be handled would be here, with the event and the error; so would commands that process managers cannot send, and what consumer groups have parked."
              columns={[
                { title: "Name", cell: (w) => <><Data>{w.of}</Data> <span class="quiet">{w.kind}{w.build ? `, build ${w.build}` : ""}</span></>, text: (w) => `${w.of} (${w.kind})` },
                { title: "Sequence", cell: (w) => (w.key ? <Data>{w.key}</Data> : <span class="quiet">for readers</span>), text: (w) => w.key },
                { title: "Event", cell: (w) => (w.stream ? <><a href={link(["log"], { position: w.position })}>{w.event}</a> of <StreamLink of={w.stream} /></> : none), text: (w) => `${w.event ?? ""} ${w.stream ?? ""}` },
                { title: "Position", cell: (w) => number(w.position), isNumber: true },
                { title: "Tries", cell: (w) => w.tries ?? none, isNumber: true },
                { title: "Since", cell: (w) => (w.since ? time(w.since) : none) },
                { title: "Error", cell: (w) => <Long text={(w.retried ? "is being retried; " : "") + w.error} />, text: (w) => w.error },
                ...actions<Waiting>((w) => {
                  const of = w.kind === "consumer group" ? "group" : "processor";
                  const args = { name: w.of, key: w.key, position: w.position };
                  return (
                    <>
                      <Act name="Retry" action={`${of}_retry`} args={args}>
                        {w.kind === "command" ? "The command is sent again." : "The events that waited are handled in the order of the log, from this one on."}
                      </Act>
                      <Act name="Skip" action={`${of}_skip`} args={args} needsReason>
                        {w.kind === "command" ? "The command is never sent." : `The event at position ${w.position} is left out of ${w.key}${of === "group" ? "" : ", until the next rebuild"}. Later ones are handled.`}
                      </Act>
                    </>
                  );
                }),
              ]}
            />
            {v.more && <p class="quiet">More are blocked: the first 100 of each kind are shown.</p>}
          </>
        );
      }}
    </View>
  );
}

export function Groups(): JSX.Element {
  return (
    <View<{ groups: Parts[]; left_out?: number }> name="groups">
      {(v) => (
        <>
          <Table<Parts>
            name="Consumer groups"
            rows={v.groups}
            id={(g) => g.name}
            tone={tone}
            empty="No consumer group is stored. One would be here after a node whose program declares a group has run on this log."
            columns={[
              name("groups"),
              { title: "State", cell: (g) => <Badge tone={g.stopped ? "bad" : g.state === "consumed" ? "live" : ""} text={g.state} />, text: (g) => g.state },
              { title: "Members", cell: (g) => number(g.members ?? 0), isNumber: true },
              ...figures,
              { title: "Segments", cell: (g) => g.segments.length, isNumber: true },
              { title: "Parked", cell: (g) => (g.blocked ? <a href={link(["blocked"])}>{number(g.blocked)}</a> : 0), text: (g) => String(g.blocked), isNumber: true },
              ...actions<Parts>((g) => (
                <Pause of="group" args={{ name: g.name }} paused={g.paused}>
                  Deliveries to {g.name} stop. Members can acknowledge what they have.
                </Pause>
              )),
            ]}
          />
          <Segments of={v.groups} owner="Member" leftOut={v.left_out} />
        </>
      )}
    </View>
  );
}

interface RelayView {
  name: string;
  owner: string;
  position: number;
  lag: number;
  rate?: number;
  state: string;
  paused?: boolean;
  stopped?: boolean;
  blocked?: number;
  problem?: string;
}

interface IntakeView {
  name: string;
  member: string;
  state: string;
  since: string;
  queue: string;
  problem?: string;
  unfinished: number;
  executed: number;
  rejected: number;
  conflicts: number;
  dead: number;
}

/** The place to which a relay is rewound, and the action. */
function Rewind(p: { relay: RelayView }): JSX.Element {
  const position = useSignal("");
  return (
    <>
      <input class="count" type="number" min={0} aria-label={`Position to rewind ${p.relay.name} to`} value={position.value} placeholder={String(p.relay.position)} onInput={(e) => (position.value = e.currentTarget.value)} />
      <Act name="Rewind" action="relay_rewind" args={{ name: p.relay.name, position: Number(position.value || p.relay.position) }} needsReason>
        The events after position {position.value || p.relay.position} are published again; 0 is the whole log. Consumers drop what they have.
      </Act>
    </>
  );
}

export function Relays(): JSX.Element {
  return (
    <View<{ relays: RelayView[]; intakes: IntakeView[]; silent: string[] }> name="relays">
      {(v) => (
        <>
          {v.silent.length > 0 && <p class="note">{v.silent.join(", ")} did not say what it works on, so owners may be missing.</p>}
          <Table<RelayView>
            name="Relays to brokers"
            rows={v.relays}
            id={(r) => r.name}
            tone={tone}
            empty="No relay has run on this log. One would be here after a node whose configuration has a relay has started."
            columns={[
              { title: "Name", cell: (r) => <Data>{r.name}</Data>, text: (r) => r.name },
              { title: "State", cell: (r) => <Badge tone={r.stopped ? "bad" : r.state === "active" ? "live" : ""} text={r.state} />, text: (r) => r.state },
              { title: "Owner", cell: (r) => (r.owner ? <Data>{r.owner}</Data> : none), text: (r) => r.owner },
              { title: "Position", cell: (r) => number(r.position), isNumber: true },
              { title: "Lag", cell: (r) => number(r.lag), isNumber: true },
              { title: "Events/s", cell: (r) => rate(r.rate), isNumber: true },
              { title: "Stopped at", cell: (r) => (r.blocked ? <a href={link(["log"], { position: r.blocked })}>{number(r.blocked)}</a> : none), text: (r) => String(r.blocked ?? "") },
              { title: "Reason", cell: (r) => (r.problem || r.blocked ? <Long text={r.problem ?? ""} /> : none), text: (r) => r.problem ?? "" },
              ...actions<RelayView>((r) => (
                <>
                  {r.paused || r.blocked ? (
                    <Act key="Resume" name="Resume" action="relay_resume" args={{ name: r.name }}>
                      {r.blocked ? `The event at position ${r.blocked} is published again.` : "It continues where it stopped."}
                    </Act>
                  ) : (
                    <Act key="Pause" name="Pause" action="relay_pause" args={{ name: r.name }}>
                      The broker gets no further events. The log keeps them.
                    </Act>
                  )}
                  {r.blocked && (
                    <Act name="Skip" action="relay_skip" args={{ name: r.name, position: r.blocked }} needsReason>
                      The event at position {r.blocked} is never published, also after a rewind. Later ones are.
                    </Act>
                  )}
                  <Rewind relay={r} />
                </>
              )),
            ]}
          />
          <Table<IntakeView>
            name="Intakes from queues"
            rows={v.intakes}
            id={(i) => `${i.name} ${i.member}`}
            tone={(i) => (i.state === "away" ? "doubtful" : undefined)}
            empty="No member takes commands from a queue. Intakes would be here, with what each member does."
            columns={[
              { title: "Name", cell: (i) => <Data>{i.name}</Data>, text: (i) => i.name },
              { title: "State", cell: (i) => <Badge tone={i.state === "away" ? "bad" : i.state === "working" ? "live" : ""} text={i.state} />, text: (i) => i.state },
              { title: "Member", cell: (i) => <Data>{i.member}</Data>, text: (i) => i.member },
              { title: "Since", cell: (i) => moments(v.intakes.map((one) => one.since))(i.since), text: (i) => i.since },
              { title: "Unfinished", cell: (i) => number(i.unfinished), isNumber: true },
              { title: "Executed", cell: (i) => number(i.executed), isNumber: true },
              { title: "Rejected", cell: (i) => number(i.rejected), isNumber: true },
              { title: "Conflicts", cell: (i) => number(i.conflicts), isNumber: true },
              { title: "Dead letters", cell: (i) => number(i.dead), isNumber: true },
              { title: "Queue", cell: (i) => <Long text={i.queue} />, text: (i) => i.queue },
              { title: "Last error", cell: (i) => (i.problem ? <Long text={i.problem} /> : none), text: (i) => i.problem ?? "" },
            ]}
          />
        </>
      )}
    </View>
  );
}

interface WakesView {
  kinds: string[];
  paused: boolean;
  wakes: { aggregate: string; version: number; due?: string; in?: number; refused?: boolean; error?: string }[];
  more?: boolean;
  schedules: { name: string; when: string; last?: string; next?: string; in?: number; paused?: boolean }[];
}

/** How long until then: in 3 min, 5 s late. */
const until = (s?: number): string => (s === undefined ? none : s < 0 ? `${seconds(-s)} late` : `in ${seconds(s)}`);

export function Wakes(): JSX.Element {
  return (
    <View<WakesView> name="wakeups">
      {(v) => {
        const times = v.wakes.flatMap((w) => (w.refused ? [] : [w.in ?? 0]));
        const due = times.filter((t) => t <= 0);
        const next = times.find((t) => t > 0);
        const refused = v.wakes.length - times.length;
        const time = moments([...v.wakes.map((w) => w.due), ...v.schedules.flatMap((s) => [s.last, s.next])]);
        const when = (at?: string): string => (at ? time(at) : none);
        return (
          <>
            {v.paused && <p class="note">Wake-ups are paused: no aggregate is woken.</p>}
            {v.kinds.length > 0 && <div><Pause of="wakes" paused={v.paused}>No aggregate is woken until they are resumed. What is due then is late.</Pause></div>}
            <div class="figures">
              <Figure name="Due" value={number(due.length) + (v.more ? "+" : "")} hint="Aggregates whose time has come" />
              <Figure name="Late" value={due.length ? seconds(-Math.min(...due)) : none} hint="How long the first of them has been due" />
              <Figure name="Next" value={next === undefined ? none : seconds(next)} hint="The time until the next aggregate is due" />
              <Figure name="Refused" value={number(refused)} hint="Wake-ups that had no events, and wait for an operator or for another state" tone={refused ? "bad" : undefined} />
            </div>
            <Table
              name="Wake-ups"
              rows={v.wakes}
              id={(w) => w.aggregate}
              tone={(w) => (w.refused ? "doubtful" : undefined)}
              empty={v.kinds.length ? `No aggregate is to be woken. Those of the types ${v.kinds.join(", ")} would be here while their state asks for it.` : "This program has no aggregates with wake-ups. They would be here, with their time."}
              columns={[
                { title: "Aggregate", cell: (w) => <StreamLink of={w.aggregate} version={w.version} />, text: (w) => w.aggregate },
                { title: "Due", cell: (w) => when(w.due) },
                { title: "In", cell: (w) => (w.refused ? "refused" : until(w.in ?? 0)) },
                { title: "Why it was refused", cell: (w) => (w.refused ? <Long text={w.error ?? ""} /> : none), text: (w) => w.error ?? "" },
                ...actions<WakesView["wakes"][number]>((w) => w.refused && (
                  <Act name="Retry" action="wake_retry" args={{ key: w.aggregate }}>
                    The aggregate is woken again.
                  </Act>
                )),
              ]}
            />
            {v.more && <p class="quiet">The first 200 are shown: refused ones, and then by their time.</p>}
            <Table
              name="Schedules"
              rows={v.schedules}
              id={(s) => s.name}
              tone={tone}
              empty="This program has no schedules. Their planned times would be here."
              columns={[
                { title: "Name", cell: (s) => <Data>{s.name}</Data>, text: (s) => s.name },
                { title: "Planned", cell: (s) => s.when },
                { title: "Last", cell: (s) => when(s.last) },
                { title: "Next", cell: (s) => when(s.next) },
                { title: "In", cell: (s) => (s.paused ? "paused" : until(s.in)) },
              ]}
            />
          </>
        );
      }}
    </View>
  );
}
