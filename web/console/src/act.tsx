// Actions of operators: a button, a dialog that asks before it acts, and the outcome.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { signal, useSignal } from "@preact/signals";
import { me, pause, Refusal, request } from "./api.js";

export interface Outcome {
  /** The position of the request in the log. */
  request: number;
  text: string;
  failed?: boolean;
  unknown?: boolean;
  replayed?: boolean;
}

/** Reports whether the user may do something, and the node can. */
export const may = (action: string): boolean => me.value?.actions.includes(action) ?? false;

/** Acts once, also if the connection breaks: the same key does not act again. */
export async function act(action: string, args: object, reason?: string): Promise<Outcome> {
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  for (let tries = 1; ; tries++) {
    try {
      const response = await request(`api/actions/${action}`, { method: "POST", body: JSON.stringify({ key, reason, args }) });
      return (await response.json()) as Outcome;
    } catch (e) {
      if (e instanceof Refusal || tries === 5) throw e;
      await pause(1000);
    }
  }
}

interface Props {
  /** The text of the button. */
  name: string;
  action: string;
  args: object | (() => object);
  /** What the dialog says, or asks. */
  children: ComponentChildren;
  /** A text that the user must type. */
  type?: string;
  /** The user must give a reason. Without it, a reason is asked for and may be left out. */
  needsReason?: boolean;
  /** What the dialog shows while the node acts. */
  progress?: () => ComponentChildren;
  /** Called with the outcome. */
  acted?: (o: Outcome) => void;
}

/** A dialog that asks and shows an outcome, and what it does. */
interface Asking extends Omit<Props, "action" | "args" | "acted"> {
  /** Returns the outcome. Without askReason, reason is undefined. */
  run: (reason?: string) => Promise<Pick<Outcome, "text" | "failed" | "unknown">>;
  askReason?: boolean;
}

/** The action of the open dialog. The dialog stays when its button goes, for instance with the member that has left. */
const asked = signal<Asking | undefined>(undefined);

/** A button for an action. Users who may not act do not see it. */
export const Act = (p: Props): JSX.Element | null => {
  const run = async (reason?: string): Promise<Outcome> => {
    const o = await act(p.action, typeof p.args === "function" ? (p.args as () => object)() : p.args, reason);
    p.acted?.(o);
    return o;
  };
  return may(p.action) ? <Ask {...p} run={run} askReason /> : null;
};

/** A button that opens a dialog. */
export const Ask = (p: Asking): JSX.Element => (
  <button type="button" class="small" onClick={() => (asked.value = p)}>
    {p.name}
  </button>
);

/** The dialog of the last button, if it is open. */
export function Asked(): JSX.Element | null {
  const p = asked.value;
  return p ? <Dialog key={p} {...p} close={() => asked.peek() === p && (asked.value = undefined)} /> : null;
}

function Dialog(p: Asking & { close: () => void }): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const typed = useSignal("");
  const reason = useSignal("");
  const acting = useSignal(false);
  const answer = useSignal<{ text: string; bad: boolean } | undefined>(undefined);
  useEffect(() => dialog.current?.showModal(), []);
  const submit = async (e: SubmitEvent): Promise<void> => {
    e.preventDefault();
    acting.value = true;
    try {
      const o = await p.run(reason.value || undefined);
      answer.value = { text: o.text, bad: Boolean(o.failed || o.unknown) };
    } catch (e) {
      answer.value = { text: (e as Error).message, bad: true };
    }
    acting.value = false;
  };
  return (
    <dialog ref={dialog} aria-label={p.name} onClose={p.close}>
      <form onSubmit={(e) => void submit(e)}>
        <h2>{p.name}</h2>
        <div>{p.children}</div>
        {answer.value ? (
          <p role="status" class={answer.value.bad ? "wrong" : "good"} id="outcome">
            <bdi>{answer.value.text}</bdi>
          </p>
        ) : acting.value ? (
          <p role="status">{p.progress?.() ?? "The node acts."}</p>
        ) : (
          <>
            {p.type !== undefined && (
              <label>
                <span>
                  Type <strong><bdi>{p.type}</bdi></strong> to continue
                </span>
                <input name="typed" value={typed.value} autocomplete="off" spellcheck={false} onInput={(e) => (typed.value = e.currentTarget.value)} />
              </label>
            )}
            {p.askReason && (
              <label>
                {p.needsReason ? "Reason, for the audit" : "Reason, for the audit (may be left out)"}
                <input name="reason" value={reason.value} maxLength={300} autocomplete="off" onInput={(e) => (reason.value = e.currentTarget.value)} />
              </label>
            )}
          </>
        )}
        <div class="buttons">
          {!answer.value && !acting.value && (
            <button class="act" disabled={(p.type !== undefined && typed.value !== p.type) || (p.needsReason && reason.value.trim() === "")}>{p.name}</button>
          )}
          <button type="button" onClick={() => dialog.current?.close()}>
            {answer.value || acting.value ? "Close" : "Cancel"}
          </button>
        </div>
      </form>
    </dialog>
  );
}
