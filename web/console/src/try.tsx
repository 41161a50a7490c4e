// A client of the application: forms for its commands and queries, and the frames that go to and fro.
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { signal, useSignal } from "@preact/signals";
import { hasToken, me, token } from "./api.js";
import { clock } from "./format.js";
import { Journey } from "./journey.js";
import { link, replace, route } from "./route.js";
import { type Contract, contract, type Field, fields, load, read, resolve, type Schema, write } from "./schema.js";
import { Data } from "./ui.js";

/** A frame of the protocol between clients and gateways. */
interface Frame {
  op: string;
  id?: string;
  [member: string]: unknown;
}

interface Line {
  at: number;
  number: number;
  isSent: boolean;
  frame: Frame;
}

/** The frames that are shown. */
const kept = 200;
const lines = signal<Line[]>([]);
let number = 0;
const show = (isSent: boolean, frame: Frame): void => {
  lines.value = [{ at: Date.now(), number: number++, isSent, frame }, ...lines.value].slice(0, kept);
};

/** A session with the gateway of the node that serves the console. */
class Session {
  #socket: WebSocket | undefined;
  #client = "";
  #waiting: [Frame, string][] = [];
  #followed = "";
  #ids = 0;

  /** Sends a frame as a client, after a connection and a hello if necessary. data is sent as it is written, since JavaScript
   * would round large numbers. Returns the frame's id. */
  send(client: string, frame: Frame, data?: string): string {
    if (!this.#socket || this.#socket.readyState > WebSocket.OPEN || this.#client !== client) this.#connect(client);
    const id = String(++this.#ids);
    const whole = { ...frame, id };
    if (data === undefined) this.#write(whole);
    else this.#write({ ...whole, data: JSON.parse(data) as unknown }, `${JSON.stringify(whole).slice(0, -1)},"data":${data}}`);
    return id;
  }

  /** Makes the events of an aggregate arrive from now on. */
  follow(client: string, stream: string): void {
    if (this.#followed === stream && this.#client === client && this.#socket?.readyState === WebSocket.OPEN) return;
    const before = this.#followed;
    this.#followed = stream;
    if (before !== "" && this.#client === client && this.#socket?.readyState === WebSocket.OPEN) this.send(client, { op: "unsubscribe", sub: `events of ${before}` });
    this.send(client, { op: "ping" }); // connects
    this.#write({ op: "subscribe", id: `events of ${stream}`, stream });
  }

  close(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }

  #write(frame: Frame, text = JSON.stringify(frame)): void {
    if (this.#socket!.readyState !== WebSocket.OPEN) {
      this.#waiting.push([frame, text]);
      return;
    }
    this.#socket!.send(text);
    if (frame.op !== "ping") show(true, frame.token === undefined ? frame : { ...frame, token: "…" });
  }

  #connect(client: string): void {
    this.close();
    this.#client = client;
    this.#followed = "";
    this.#waiting = [];
    const url = new URL("v1/ws", location.href.replace(/#.*/, ""));
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, "ganglion.v1");
    this.#socket = socket;
    socket.onopen = () => {
      const own = token();
      this.#write({ op: "hello", id: "hello", ...(own === undefined ? { token: `dev:${client}` } : { token: own }) });
      for (const [frame, text] of this.#waiting.splice(0)) this.#write(frame, text);
    };
    socket.onmessage = (e: MessageEvent<string>) => {
      for (const line of e.data.split("\n")) {
        const frame = JSON.parse(line) as Frame;
        if (frame.op === "heartbeat" || frame.op === "pong") continue;
        show(false, frame);
        answer.value = frame;
      }
    };
    socket.onclose = (e) => show(false, { op: "(connection closed)", code: e.code, ...(e.reason ? { reason: e.reason } : {}) });
  }
}

/** The newest frame of the gateway. */
const answer = signal<Frame | undefined>(undefined);

type Kind = "command" | "get" | "query";

/** What the URL says: /try/TYPE/ID/COMMAND, /try/TYPE/ID or /try?query=NAME, with data, key and client. */
function fromURL(c: Contract): { kind: Kind; type: string; id: string; name: string; data: string; client: string } {
  const { path, query } = route.value;
  const [, type, id, command] = path;
  const types = Object.keys(c.aggregates ?? {}).sort();
  const asked = query.get("query");
  const common = { data: query.get("data") ?? "", client: query.get("client") ?? "" };
  if (asked !== null) return { kind: "query", type: types[0] ?? "", id: "", name: asked, ...common };
  if (type !== undefined && id !== undefined && command === undefined) return { kind: "get", type, id, name: "", ...common };
  const known = type ?? types[0] ?? "";
  return { kind: "command", type: known, id: id ?? "", name: command ?? Object.keys(c.aggregates?.[known]?.commands ?? {})[0] ?? "", ...common };
}

export function Try(): JSX.Element {
  useEffect(() => void load(), []);
  const c = contract.value;
  if (c === undefined) return <p class="empty">Reading the application's commands and queries.</p>;
  if (typeof c === "string") return <p class="empty">This node serves no clients, so nothing can be tried here: {c}</p>;
  return <Form contract={c} />;
}

function Form(p: { contract: Contract }): JSX.Element {
  const c = p.contract;
  const at = fromURL(c);
  const session = useRef<Session | undefined>(undefined);
  const wrong = useSignal<{ field: string; problem: string } | undefined>(undefined);
  const raw = useSignal(false);
  const key = useSignal("");
  const sent = useSignal<{ id: string; key: string } | undefined>(undefined);
  useEffect(() => () => session.current?.close(), []);
  useEffect(() => {
    const f = answer.value;
    if (f?.op === "error" && f.id === sent.value?.id && typeof f.field === "string") wrong.value = { field: f.field, problem: String(f.message) };
  }, [answer.value]);

  const go = (next: Partial<typeof at>): void => {
    const to = { ...at, ...next };
    wrong.value = undefined;
    const query = { data: to.data, client: to.client };
    replace(to.kind === "query" ? link(["try"], { query: to.name, ...query }) : link(["try", to.type, to.id, to.kind === "get" ? "" : to.name].slice(0, to.id === "" ? 2 : to.kind === "get" ? 3 : 4), query));
  };
  const schema: Schema = at.kind === "get" ? {} : at.kind === "query" ? resolve(c, c.queries?.[at.name]?.data) : resolve(c, c.aggregates?.[at.type]?.commands?.[at.name]);
  const list = fields(schema);
  const values = list && read(list, at.data === "" ? "{}" : at.data);
  const asText = raw.value || !list || !values;
  const set = (f: Field, value: string): void => {
    const next = { ...values, [f.name]: value };
    const made = write(list!, next);
    if ("json" in made) go({ data: made.json });
    else wrong.value = made;
  };
  const client = at.client || (hasToken() ? me.value!.name : "operator");

  const send = (e: SubmitEvent): void => {
    e.preventDefault();
    wrong.value = undefined;
    const data = at.data === "" ? "{}" : at.data;
    try {
      JSON.parse(data);
    } catch (error) {
      wrong.value = { field: "", problem: `The data is not JSON: ${(error as Error).message}` };
      return;
    }
    session.current ??= new Session();
    const s = session.current;
    const stream = `${at.type}/${at.id}`;
    if (at.kind === "query") {
      sent.value = { id: s.send(client, { op: "query", query: at.name }, data), key: "" };
      return;
    }
    if (at.id === "") {
      wrong.value = { field: "", problem: "An aggregate needs an id." };
      return;
    }
    s.follow(client, stream);
    if (at.kind === "get") {
      sent.value = { id: s.send(client, { op: "get", aggregate: stream }), key: "" };
      return;
    }
    const used = key.value || crypto.randomUUID?.() || `try-${Date.now()}`;
    sent.value = { id: s.send(client, { op: "command", aggregate: stream, command: at.name, key: used }, data), key: used };
  };
  const types = Object.keys(c.aggregates ?? {}).sort();
  const commands = Object.keys(c.aggregates?.[at.type]?.commands ?? {}).sort();
  const queries = Object.keys(c.queries ?? {}).sort();
  const description = at.kind === "query" ? c.queries?.[at.name]?.description : at.kind === "command" ? schema.description : "Reads the aggregate's public state.";

  return (
    <div class="try">
      <form class="card" onSubmit={send} aria-label="Request">
        <label>
          Request
          <select id="kind" value={at.kind} onChange={(e) => go({ kind: e.currentTarget.value as Kind, data: "", name: e.currentTarget.value === "query" ? (queries[0] ?? "") : (commands[0] ?? "") })}>
            <option value="command">send a command</option>
            <option value="get">get the state</option>
            {queries.length > 0 && <option value="query">ask a query</option>}
          </select>
        </label>
        {at.kind === "query" ? (
          <Choice name="Query" id="query" value={at.name} all={queries} change={(name) => go({ name, data: "" })} />
        ) : (
          <>
            <Choice name="Type" id="type" value={at.type} all={types} change={(type) => go({ type, data: "", name: Object.keys(c.aggregates?.[type]?.commands ?? {}).sort()[0] ?? "" })} />
            <label>
              Id
              <input id="aggregate" dir="auto" value={at.id} spellcheck={false} autocomplete="off" placeholder="42" onInput={(e) => go({ id: e.currentTarget.value })} />
            </label>
            {at.kind === "command" && <Choice name="Command" id="command" value={at.name} all={commands} change={(name) => go({ name, data: "" })} />}
          </>
        )}
        {description && <p class="quiet">{description}</p>}
        {at.kind !== "get" && (
          <>
            {asText ? (
              <label>
                Data as JSON
                <textarea id="data" rows={6} dir="auto" spellcheck={false} value={at.data} onInput={(e) => go({ data: e.currentTarget.value })} />
              </label>
            ) : (
              list.map((f) => <Input key={`${at.name} ${f.name}`} field={f} value={values[f.name] ?? ""} change={(v) => set(f, v)} problem={wrong.value?.field === f.name ? wrong.value.problem : undefined} />)
            )}
            <div class="bar">
              {(schema.examples ?? []).slice(0, 3).map((example, i) => (
                <button type="button" class="small" key={i} onClick={() => go({ data: JSON.stringify(example) })}>
                  Example {i + 1}
                </button>
              ))}
              <label class="check">
                <input type="checkbox" checked={asText} disabled={!list || !values} onChange={(e) => (raw.value = e.currentTarget.checked)} /> as JSON
              </label>
            </div>
          </>
        )}
        {!hasToken() && (
          <label>
            As the client
            <input id="client" dir="auto" value={at.client} placeholder="operator" spellcheck={false} autocomplete="off" onInput={(e) => go({ client: e.currentTarget.value })} />
          </label>
        )}
        {at.kind === "command" && (
          <label>
            Key
            <input id="key" value={key.value} placeholder="a new one each time" spellcheck={false} autocomplete="off" onInput={(e) => (key.value = e.currentTarget.value)} />
          </label>
        )}
        {wrong.value && (asText || !list.some((f) => f.name === wrong.value!.field)) && (
          <p class="wrong" role="alert" id="wrong">
            {wrong.value.field && <code>{wrong.value.field}</code>} {wrong.value.problem}
          </p>
        )}
        {at.kind === "command" && <p class="quiet">The command goes to the cluster, and its events stay in the log.</p>}
        <div class="bar">
          <button>{at.kind === "command" ? "Send" : at.kind === "get" ? "Get" : "Ask"}</button>
          {sent.value?.key && key.value === "" && (
            <button type="button" class="small" onClick={() => (key.value = sent.value!.key)}>
              Use the last key again
            </button>
          )}
        </div>
      </form>
      <Frames id={sent.value?.id} />
    </div>
  );
}

function Choice(p: { name: string; id: string; value: string; all: string[]; change: (v: string) => void }): JSX.Element {
  return (
    <label>
      {p.name}
      <select id={p.id} value={p.value} onChange={(e) => p.change(e.currentTarget.value)}>
        {[...new Set([...p.all, p.value])].filter(Boolean).map((one) => (
          <option key={one} value={one}>
            {one}
          </option>
        ))}
      </select>
    </label>
  );
}

function Input(p: { field: Field; value: string; change: (v: string) => void; problem: string | undefined }): JSX.Element {
  const f = p.field;
  const common = { id: `field-${f.name}`, "aria-invalid": p.problem !== undefined, "aria-describedby": `about-${f.name}` };
  return (
    <label class={p.problem ? "invalid" : ""}>
      <span>
        {f.name} {!f.isRequired && <span class="quiet">(optional)</span>}
      </span>
      {f.kind === "choice" || f.kind === "yes-no" ? (
        <select {...common} value={p.value} onChange={(e) => p.change(e.currentTarget.value)}>
          <option value="" />
          {(f.kind === "choice" ? f.choices : ["true", "false"]).map((one) => (
            <option key={one} value={one}>
              {one}
            </option>
          ))}
        </select>
      ) : (
        <input {...common} dir="auto" value={p.value} inputMode={f.kind === "number" ? "decimal" : "text"} spellcheck={false} autocomplete="off" onInput={(e) => p.change(e.currentTarget.value)} />
      )}
      <span id={`about-${f.name}`} class={p.problem ? "wrong" : "quiet"} role={p.problem ? "alert" : undefined}>
        {p.problem ?? f.description}
      </span>
    </label>
  );
}

function Frames(p: { id: string | undefined }): JSX.Element {
  return (
    <section class="card" aria-label="Frames">
      <header class="bar">
        <h2>Frames</h2>
        <button class="small" onClick={() => (lines.value = [])} disabled={lines.value.length === 0}>
          Clear
        </button>
      </header>
      {lines.value.length === 0 ? (
        <p class="empty">The frames that you send, and what the gateway answers, would be here, the newest first. After a command its events arrive as well.</p>
      ) : (
        <ol class="frames" aria-live="polite">
          {lines.value.map((l) => (
            <FrameLine key={l.number} line={l} isAnswer={!l.isSent && l.frame.id === p.id} />
          ))}
        </ol>
      )}
    </section>
  );
}

/** What a frame means, in words. */
function summary(f: Frame): string {
  switch (f.op) {
    case "result":
      return f.version === undefined ? `position ${String(f.position)}` : `version ${String(f.version)}, position ${String(f.position)}${f.replayed ? "; the same key was executed before, and this is its first answer" : ""}`;
    case "error":
      return `${String(f.code)}${f.reason ? `: ${String(f.reason)}` : ""}. ${String(f.message)}`;
    case "event":
      return `${String(f.event)}, version ${String(f.version)}`;
  }
  return "";
}

function FrameLine(p: { line: Line; isAnswer: boolean }): JSX.Element {
  const { frame, isSent, at } = p.line;
  const isBad = frame.op === "error" || frame.op.startsWith("(");
  const [type, ...id] = typeof frame.stream === "string" ? frame.stream.split("/") : [];
  return (
    <li class={`${isSent ? "sent" : "received"} ${isBad ? "bad" : ""} ${p.isAnswer ? "answer" : ""}`}>
      <div class="bar">
        <strong>
          {isSent ? "→" : "←"} {frame.op}
        </strong>
        <Data>{summary(frame)}</Data>
        {frame.op === "event" && type !== undefined && (
          <a href={link(["stream", type, id.join("/")], { at: String(frame.version) })}>stream</a>
        )}
        <span class="quiet">{clock(at)}</span>
      </div>
      <pre tabIndex={0} aria-label="The frame">
        <Data>{JSON.stringify(frame, null, 1)}</Data>
      </pre>
      {frame.op === "result" && typeof frame.version === "number" && <Journey position={frame.position as number} />}
    </li>
  );
}
