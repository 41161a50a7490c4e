// Requests to the node that serves the console. All paths are relative to the page, so
// that a proxy may serve it under a prefix.
import { signal } from "@preact/signals";

export interface Me {
  name: string;
  role: "viewer" | "reader" | "operator";
  node: string;
  cluster: string;
  /** What the user may do here. */
  actions: string[];
}

/** The user; undefined until the node has answered. */
export const me = signal<Me | undefined>(undefined);
/** Why the user must sign in; undefined while that is not necessary. */
export const refused = signal<string | undefined>(undefined);

const place = "ganglion-console-token";

/** Keeps a token for this tab, and forgets why the last one was refused. */
export function signIn(text: string): void {
  sessionStorage.setItem(place, text.trim());
  refused.value = undefined;
  void who();
}

export function signOut(): void {
  sessionStorage.removeItem(place);
  me.value = undefined;
  refused.value = "You have signed out.";
}

/** The token of this tab; undefined if there is none. */
export const token = (): string | undefined => sessionStorage.getItem(place) ?? undefined;
export const hasToken = (): boolean => token() !== undefined;

/** An answer of the node that is not the expected one. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Sends a request with the user's token. If the token is not accepted, the page asks for another one. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const own = token();
  const headers = new Headers(init.headers);
  if (own !== undefined) headers.set("Authorization", `Bearer ${own}`);
  const response = await fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  if (response.ok) return response;
  const message = await response
    .json()
    .then((body: { error?: string; message?: string }) => body.error ?? body.message)
    .catch(() => undefined);
  const refusal = new Refusal(response.status, message ?? `The node answered ${response.status} ${response.statusText}.`);
  if (response.status === 401 || (response.status === 403 && me.value === undefined)) {
    me.value = undefined;
    refused.value = refusal.message;
  }
  throw refusal;
}

/** Returns the JSON of an answer. */
export const get = async <T>(path: string, signal?: AbortSignal): Promise<T> => (await request(path, signal ? { signal } : {})).json() as Promise<T>;

/** Asks the node who the user is, until it answers. */
export async function who(): Promise<void> {
  for (;;) {
    try {
      me.value = await get<Me>("api/me");
      refused.value = undefined;
      return;
    } catch (e) {
      if (e instanceof Refusal) return;
      await pause(1000);
    }
  }
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

export interface StreamOptions {
  /** The path; it is computed again for each connection, for instance to continue after the last event. */
  path: () => string;
  /** Called with each message. */
  message: (kind: string, data: unknown) => void;
  /** Called when the connection begins and ends. */
  connected?: (yes: boolean) => void;
}

/** Reads Server-Sent Events until the returned function is called. It connects again when the connection ends. EventSource
 * cannot do this, since it sends no header. */
export function stream(o: StreamOptions): () => void {
  const ended = new AbortController();
  const run = async (): Promise<void> => {
    for (let wait = 250; !ended.signal.aborted; ) {
      try {
        const response = await request(o.path(), { signal: ended.signal });
        o.connected?.(true);
        wait = 250;
        await messages(response.body!, o.message);
      } catch (e) {
        if (ended.signal.aborted || (e instanceof Refusal && e.status < 500)) return;
      }
      o.connected?.(false);
      await pause(wait);
      wait = Math.min(2 * wait, 4000);
    }
  };
  void run();
  return () => ended.abort();
}

/** Parses the messages of a body. Each has one line of data. */
async function messages(body: ReadableStream<Uint8Array>, message: StreamOptions["message"]): Promise<void> {
  const reader = body.pipeThrough(new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop()!;
    for (const part of parts) {
      const kind = /^event: (.*)$/m.exec(part)?.[1];
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (kind !== undefined && data !== undefined) message(kind, JSON.parse(data));
    }
  }
}
