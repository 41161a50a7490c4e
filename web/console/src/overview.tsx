// What the cluster does, and what is wrong with it.
import type { JSX } from "preact";
import { useSignal } from "@preact/signals";
import { Act, Ask } from "./act.js";
import { me, request } from "./api.js";
import { Chart } from "./chart.js";
import { bytes, compact, number, seconds } from "./format.js";
import { Problems } from "./problems.js";
import { type Member, picture, samples } from "./status.js";
import { Data, Figure, save, Table } from "./ui.js";

export function Overview(): JSX.Element {
  const p = picture.value;
  if (!p) return <p class="empty">Waiting for the first figures of the cluster.</p>;
  const s = p.sample;
  const sessions = Object.values(s.sessions).reduce((a, b) => a + b, 0);
  return (
    <>
      <Problems list={p.problems} />
      <div class="figures">
        <Figure name="Commands/s" value={compact(s.commands)} hint="Commands that clients have sent to all gateways" />
        <Figure name="Events/s" value={compact(s.events)} hint="Events that were added to the log" />
        <Figure name="Deliveries/s" value={compact(s.delivered)} hint="Event frames that gateways have written to sockets" />
        <Figure name="p99 of answers" value={s.p99 === null ? "–" : seconds(s.p99)} hint="99 % of the commands of the last second were answered within this time" />
        <Figure name="Sessions" value={number(sessions)} hint="Open sessions of all gateways" />
        <Figure name="Slow sessions" value={number(p.full)} hint="Sessions whose socket is full" tone={p.full > 0 ? "warning" : undefined} />
        <Figure name="Lag" value={s.lag_events === 0 ? "0" : `${compact(s.lag_events)} ${s.lag_events === 1 ? "event" : "events"}`} hint="How far the slowest projection is behind the log" />
        <Figure name="Blocked rows" value={number(p.blocked)} hint="Rows of projections that wait for an operator" tone={p.blocked > 0 ? "bad" : undefined} />
        <Figure name="Head" value={number(p.head)} hint={`Position of the newest event; the log is ${p.log}`} />
      </div>
      <Charts />
      <Members />
    </>
  );
}

function Charts(): JSX.Element {
  const list = samples.value;
  const times = list.map((s) => s.at);
  const gateways = [...new Set(list.flatMap((s) => Object.keys(s.sessions)))].sort();
  return (
    <div class="charts">
      <Chart
        name="Commands, events and deliveries per second"
        times={times}
        format={compact}
        lines={[
          { name: "commands", values: list.map((s) => s.commands) },
          { name: "events", values: list.map((s) => s.events) },
          { name: "deliveries", values: list.map((s) => s.delivered) },
        ]}
      />
      <Chart
        name="Time to answer a command"
        times={times}
        format={seconds}
        lines={[
          { name: "p50", values: list.map((s) => s.p50) },
          { name: "p99", values: list.map((s) => s.p99) },
        ]}
      />
      <Chart name="Events that the slowest projection is behind" times={times} format={compact} lines={[{ name: "lag", values: list.map((s) => s.lag_events) }]} />
      <Chart name="Sessions by gateway" times={times} format={compact} lines={gateways.map((g) => ({ name: g, values: list.map((s) => s.sessions[g] ?? null) }))} />
    </div>
  );
}

const Actions = (p: { member: Member }): JSX.Element => (
  <span class="buttons">
    {p.member.state !== "draining" && <Drain id={p.member.id} />}
    <LogLevel id={p.member.id} />
    <Profile id={p.member.id} />
  </span>
);

/** The profiles of a process: what the user chooses, and the file. */
const profiles = { "CPU, for 10 s": "cpu.pb.gz", memory: "heap.pb.gz", goroutines: "goroutines.txt" };

function Profile(p: { id: string }): JSX.Element {
  const file = useSignal("cpu.pb.gz");
  const download = async (): Promise<{ text: string }> => {
    const response = await request(`api/profiles/${encodeURIComponent(p.id)}/${file.value}`);
    const name = `${p.id}-${file.value}`;
    save(await response.blob(), name);
    return { text: `${name} is in the folder for downloads.${name.endsWith(".gz") ? ` Open it with go tool pprof -http : ${name}` : ""}` };
  };
  return (
    <Ask name="Profile" run={download} progress={() => `${p.id} makes the profile.`}>
      <label>
        <span>
          Where the process of <Data>{p.id}</Data> spends its time or memory, as a file
        </span>
        <select name="profile" onChange={(e) => (file.value = e.currentTarget.value)}>
          {Object.entries(profiles).map(([name, file]) => (
            <option key={file} value={file}>
              {name}
            </option>
          ))}
        </select>
      </label>
    </Ask>
  );
}

function LogLevel(p: { id: string }): JSX.Element {
  const level = useSignal("debug");
  return (
    <Act name="Log level" action="log_level" args={() => ({ member: p.id, level: level.value })}>
      <label>
        <span>
          The level of the log of <Data>{p.id}</Data>, until its process ends
        </span>
        <select name="level" onChange={(e) => (level.value = e.currentTarget.value)}>
          {["debug", "info", "warn", "error"].map((l) => (
            <option key={l}>{l}</option>
          ))}
        </select>
      </label>
    </Act>
  );
}

function Drain(p: { id: string }): JSX.Element {
  const progress = (): string => {
    const m = picture.value?.members.find((one) => one.id === p.id);
    return m ? `${m.state}: ${m.sessions === undefined ? "its sessions are not known" : `${number(m.sessions)} sessions are open`}` : "it has left the cluster";
  };
  return (
    <Act name="Drain" action="drain" args={{ member: p.id }} type={p.id} progress={progress}>
      <p>
        <Data>{p.id}</Data> finishes its commands, sends its sessions to other members, and leaves the cluster. Its process then waits to be stopped.
      </p>
      <Moves of={p.id} />
    </Act>
  );
}

const several = (n: number, of: string): string => `${number(n)} ${of}${n === 1 ? "" : "s"}`;

/** What moves to other members if one is drained. */
function Moves(p: { of: string }): JSX.Element | null {
  const all = picture.value!;
  const m = all.members.find((one) => one.id === p.of);
  if (!m) return null;
  const others = (role: string): string => several(all.members.filter((one) => one.id !== m.id && one.state === "ready" && one.roles.includes(role)).length, "other member");
  const moves = [
    m.sessions !== undefined && `${several(m.sessions, "session")} to ${others("gateway")}`,
    m.partitions > 0 && `${several(m.partitions, "partition")} of ${number(all.partitions)} to ${others("domain")}`,
  ].filter(Boolean);
  return <p id="moves">{moves.length > 0 ? `It moves ${moves.join(", and ")}.` : "It has no sessions and no partitions to move."}</p>;
}

function Members(): JSX.Element {
  const p = picture.value!;
  const none = "–";
  return (
    <Table<Member>
      name="Members"
      rows={p.members}
      id={(m) => m.id}
      tone={(m) => (m.state !== "ready" || m.silent ? "doubtful" : undefined)}
      empty="The members of the cluster would be here."
      columns={[
        { title: "Member", cell: (m) => <Data>{m.id}</Data>, text: (m) => m.id },
        { title: "State", cell: (m) => (m.silent ? `${m.state}, did not answer` : m.state) },
        { title: "Roles", cell: (m) => m.roles.join(", ") || "projections" },
        { title: "Version", cell: (m) => m.version },
        { title: "Up for", cell: (m) => seconds(m.age_seconds), isNumber: true },
        { title: "Partitions", cell: (m) => number(m.partitions), isNumber: true },
        { title: "Sessions", cell: (m) => (m.sessions === undefined ? none : number(m.sessions)), isNumber: true },
        { title: "Commands/s", cell: (m) => (m.silent ? none : compact(m.commands)), isNumber: true },
        { title: "Deliveries/s", cell: (m) => (m.silent ? none : compact(m.delivered)), isNumber: true },
        { title: "Events behind", cell: (m) => (m.silent ? none : number(m.behind ?? 0)), isNumber: true },
        { title: "CPU", cell: (m) => (m.cpu === undefined ? none : m.cpu.toFixed(2)), isNumber: true },
        { title: "Memory", cell: (m) => (m.memory ? bytes(m.memory) : none), isNumber: true },
        ...(me.value?.role === "operator" ? [{ title: "", cell: (m: Member) => <Actions member={m} />, text: () => "" }] : []),
      ]}
    />
  );
}
