// The page that the URL names. It is in the fragment, so that one file serves all
// pages under any prefix.
import { signal } from "@preact/signals";

export interface Route {
  /** The parts of the path, decoded: ["stream", "auction", "42"]. */
  path: string[];
  query: URLSearchParams;
}

function parse(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const decoded = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

export const route = signal<Route>(parse());
addEventListener("hashchange", () => (route.value = parse()));

/** The URL of a page, for links. Parameters that are undefined or empty are left out. */
export function link(path: string[], query: Record<string, string | number | undefined> = {}): string {
  const given = Object.entries(query).filter(([, v]) => v !== undefined && v !== "") as [string, string][];
  const text = new URLSearchParams(given.map(([k, v]) => [k, String(v)])).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Changes the URL without a new entry in the history, for instance while a filter is typed. */
export function replace(url: string): void {
  history.replaceState(null, "", url);
  route.value = parse();
}
