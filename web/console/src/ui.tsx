// The parts that pages are made of.
import type { ComponentChildren, JSX } from "preact";
import { useSignal } from "@preact/signals";

export interface Column<T> {
  title: string;
  /** What a cell shows. */
  cell: (row: T) => ComponentChildren;
  /** The same as text, for copies; needed if cell returns no text. */
  text?: (row: T) => string;
  /** Numbers are aligned on the right. */
  isNumber?: boolean;
}

/** A table, which can be copied as text. If it has no rows, it says what would be there. */
export function Table<T>(p: { name: string; rows: T[]; columns: Column<T>[]; empty: string; id: (row: T) => string; tone?: (row: T) => string | undefined }): JSX.Element {
  const copied = useSignal(false);
  const copy = async (): Promise<void> => {
    const lines = [p.columns.map((c) => c.title), ...p.rows.map((r) => p.columns.map((c) => (c.text ? c.text(r) : String(c.cell(r) ?? ""))))];
    await copyText(lines.map((l) => l.join("\t")).join("\n"));
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <section class="card" aria-label={p.name}>
      <header class="bar">
        <h2>{p.name}</h2>
        <button class="small" onClick={() => void copy()} disabled={p.rows.length === 0}>
          {copied.value ? "Copied" : "Copy as text"}
        </button>
      </header>
      {p.rows.length === 0 ? (
        <p class="empty">{p.empty}</p>
      ) : (
        <div class="wide" tabIndex={0} role="region" aria-label={`${p.name}, table`}>
          <table>
            <thead>
              <tr>
                {p.columns.map((c) => (
                  <th class={c.isNumber ? "number" : ""} key={c.title}>
                    {c.title}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {p.rows.map((r) => (
                <tr key={p.id(r)} class={p.tone?.(r) ?? ""}>
                  {p.columns.map((c) => (
                    <td class={c.isNumber ? "number" : ""} data-title={c.title} key={c.title}>
                      {c.cell(r)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

/** Copies text, also on pages without HTTPS, where browsers have no clipboard API. */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Saves a file among the user's downloads. */
export function save(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** An id in short, with the whole one in the title. A click copies it. */
export function Id(p: { id: string }): JSX.Element {
  const copied = useSignal(false);
  const copy = async (): Promise<void> => {
    await copyText(p.id);
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" class="plain" title={`${p.id}: click to copy`} onClick={() => void copy()}>
      {copied.value ? "Copied" : <Data>{p.id.length > 16 ? `${p.id.slice(0, 8)}…${p.id.slice(-4)}` : p.id}</Data>}
    </button>
  );
}

/** A state, which is good, needs a look, or is bad. */
export const Badge = (p: { tone: "live" | "" | "bad"; text: string }): JSX.Element => <span class={`pill ${p.tone}`}>{p.text}</span>;

/** A figure with its name. */
export function Figure(p: { name: string; value: string; hint?: string; tone?: string | undefined }): JSX.Element {
  return (
    <div class={`figure ${p.tone ?? ""}`} title={p.hint ?? ""}>
      <span class="quiet">{p.name}</span>
      <strong>{p.value}</strong>
    </div>
  );
}

/** Text of the application or of clients: its direction does not change that of the page. */
export const Data = (p: { children: ComponentChildren }): JSX.Element => <bdi class="data">{p.children}</bdi>;
