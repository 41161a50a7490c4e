// JSON as lines of text, and the difference between two documents. Numbers keep their digits, which JSON.parse would round.

interface Value {
  /** The text in the document. */
  text: string;
  /** The members of an object with their names as in the document, or the elements of an array. */
  parts?: { name?: string; value: Value }[];
}

export type Mark = "" | "added" | "changed" | "removed";

export interface Line {
  depth: number;
  /** The name of a member, as in the document. */
  name?: string;
  text: string;
  /** The comma after the text. */
  end: string;
  /** What a changed value was. */
  was?: string;
  mark: Mark;
}

const token = /\s*([{}[\]:,]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}[\]:,"]+)/y;

/** Parses a document; undefined if it is not one, for instance since it is clipped. */
function parse(text: string): Value | undefined {
  let at = 0;
  const next = (): string => {
    token.lastIndex = at;
    const found = token.exec(text)?.[1];
    if (found === undefined) throw new SyntaxError("not JSON");
    at = token.lastIndex;
    return found;
  };
  const value = (first: string): Value => {
    const from = at - first.length;
    if (first !== "{" && first !== "[") return { text: first };
    const close = first === "{" ? "}" : "]";
    const parts: { name?: string; value: Value }[] = [];
    let t = next();
    for (; t !== close; t = next()) {
      if (t === ",") t = next();
      if (first === "{") {
        if (next() !== ":") throw new SyntaxError("not JSON");
        parts.push({ name: t, value: value(next()) });
      } else parts.push({ value: value(t) });
    }
    return { text: text.slice(from, at), parts };
  };
  try {
    const made = value(next());
    return /\S/.test(text.slice(at)) ? undefined : made;
  } catch {
    return undefined;
  }
}

/** The lines of a document. With the document before it, they are marked. Text that is not JSON is one line. */
export function lines(after: string, before?: string): Line[] {
  const list: Line[] = [];
  const to = parse(after);
  if (!to) return [{ depth: 0, text: after, end: "", mark: "" }];
  const from = before === undefined ? undefined : parse(before);
  if (from) differ(list, from, to, 0, undefined, "");
  else add(list, to, 0, undefined, "", "");
  return list;
}

const put = (list: Line[], depth: number, name: string | undefined, text: string, end: string, mark: Mark, was?: string): void => {
  list.push({ depth, text: plain(text), end, mark, ...(name !== undefined && { name: plain(name) }), ...(was !== undefined && { was: plain(was) }) });
};

/** JSON without the escapes that encoders for HTML write. */
export const plain = (text: string): string => text.replace(/\\(\\|u003c|u003e|u0026)/gi, (all, code: string) => (code === "\\" ? all : String.fromCharCode(parseInt(code.slice(1), 16))));

const brackets = (v: Value): [string, string] => (v.text[0] === "{" ? ["{", "}"] : ["[", "]"]);

function add(list: Line[], v: Value, depth: number, name: string | undefined, mark: Mark, end: string): void {
  const [open, close] = brackets(v);
  if (!v.parts || v.parts.length === 0) return put(list, depth, name, v.parts ? open + close : v.text, end, mark);
  put(list, depth, name, open, "", mark);
  v.parts.forEach((p, i) => add(list, p.value, depth + 1, p.name, mark, i < v.parts!.length - 1 ? "," : ""));
  put(list, depth, undefined, close, end, mark);
}

function differ(list: Line[], a: Value, b: Value, depth: number, name: string | undefined, end: string): void {
  if (a.text === b.text) return add(list, b, depth, name, "", end);
  const [open, close] = brackets(b);
  if (!a.parts || !b.parts || brackets(a)[0] !== open) {
    if (!a.parts && !b.parts) return put(list, depth, name, b.text, end, "changed", a.text);
    add(list, a, depth, name, "removed", end);
    return add(list, b, depth, name, "added", end);
  }
  put(list, depth, name, open, "", "");
  (open === "{" ? members : elements)(list, a.parts, b.parts, depth + 1);
  put(list, depth, undefined, close, end, "");
}

type Parts = NonNullable<Value["parts"]>;

function members(list: Line[], a: Parts, b: Parts, depth: number): void {
  const before = new Map(a.map((p) => [p.name, p.value]));
  b.forEach((p, i) => {
    const old = before.get(p.name);
    before.delete(p.name);
    const end = i < b.length - 1 ? "," : "";
    if (old) differ(list, old, p.value, depth, p.name, end);
    else add(list, p.value, depth, p.name, "added", end);
  });
  for (const [name, value] of before) add(list, value, depth, name, "removed", "");
}

/** Compares what is between the elements that both arrays begin and end with. */
function elements(list: Line[], a: Parts, b: Parts, depth: number): void {
  const least = Math.min(a.length, b.length);
  let head = 0;
  let tail = 0;
  while (head < least && a[head]!.value.text === b[head]!.value.text) head++;
  while (tail < least - head && a.at(-1 - tail)!.value.text === b.at(-1 - tail)!.value.text) tail++;
  const end = (i: number): string => (i < b.length - 1 ? "," : "");
  for (let i = 0; i < head; i++) add(list, b[i]!.value, depth, undefined, "", end(i));
  for (let i = head; i < Math.max(a.length, b.length) - tail; i++) {
    const [x, y] = [i < a.length - tail ? a[i] : undefined, i < b.length - tail ? b[i] : undefined];
    if (x && y) differ(list, x.value, y.value, depth, undefined, end(i));
    else if (y) add(list, y.value, depth, undefined, "added", end(i));
    else if (x) add(list, x.value, depth, undefined, "removed", "");
  }
  for (let i = b.length - tail; i < b.length; i++) add(list, b[i]!.value, depth, undefined, "", end(i));
}
