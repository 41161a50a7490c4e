// The console: one page whose URL names what it shows.
import { render, type ComponentChildren, type JSX } from "preact";
import { useEffect } from "preact/hooks";
import { effect } from "@preact/signals";
import { Asked } from "./act.js";
import { hasToken, me, refused, signIn, signOut, who } from "./api.js";
import { Audit } from "./audit.js";
import "./console.css";
import { Health } from "./health.js";
import { Log } from "./log.js";
import { Overview } from "./overview.js";
import { Blocked, Groups, Processors, Wakes } from "./readside.js";
import { Ring } from "./ring.js";
import { link, route } from "./route.js";
import { follow, isLive, picture } from "./status.js";
import { Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { Try } from "./try.js";

const pages: { name: string; path: string; page: () => JSX.Element }[] = [
  { name: "Overview", path: "", page: Overview },
  { name: "Log", path: "log", page: Log },
  { name: "Stream", path: "stream", page: Stream },
  { name: "Try", path: "try", page: Try },
  { name: "Processors", path: "processors", page: Processors },
  { name: "Blocked", path: "blocked", page: Blocked },
  { name: "Groups", path: "groups", page: Groups },
  { name: "Wake-ups", path: "wakeups", page: Wakes },
  { name: "Ring", path: "ring", page: Ring },
  { name: "Sessions", path: "sessions", page: Sessions },
  { name: "Health", path: "health", page: Health },
  { name: "Audit", path: "audit", page: Audit },
];

function App(): JSX.Element {
  if (refused.value !== undefined) return <SignIn reason={refused.value} />;
  if (!me.value) return <p class="empty">Connecting to the node.</p>;
  const [first = ""] = route.value.path;
  const shown = pages.find((p) => p.path === first);
  return (
    <Frame at={first}>
      {shown ? (
        <shown.page />
      ) : (
        <p class="empty">
          The console has no page “{first}”. <a href={link([])}>Go to the overview</a>
        </p>
      )}
    </Frame>
  );
}

function Frame(p: { at: string; children: ComponentChildren }): JSX.Element {
  useEffect(follow, []);
  const user = me.value!;
  return (
    <>
      <header class="top">
        <strong class="name">{user.cluster}</strong>
        <nav aria-label="Pages">
          {pages.map((page) => (
            <a key={page.path} href={link(page.path ? [page.path] : [])} aria-current={page.path === p.at ? "page" : undefined}>
              {page.name}
              {page.path === "blocked" && (picture.value?.blocked ?? 0) > 0 && <> <span class="pill">{picture.value!.blocked}</span></>}
            </a>
          ))}
        </nav>
        <span id="live" class={isLive.value ? "pill live" : "pill"} title={`Served by ${picture.value?.node ?? user.node}`}>
          {isLive.value ? `live from ${picture.value?.node ?? user.node}` : "reconnecting"}
        </span>
        <span class="quiet user" title={`You have the role ${user.role}`}>
          <bdi>{user.name}</bdi>, {user.role}
        </span>
        {hasToken() && (
          <button class="small" onClick={signOut}>
            Sign out
          </button>
        )}
      </header>
      <main>{p.children}</main>
      <Asked />
    </>
  );
}

function SignIn(p: { reason: string }): JSX.Element {
  const submit = (e: SubmitEvent): void => {
    e.preventDefault();
    const field = (e.target as HTMLFormElement).elements.namedItem("token") as HTMLInputElement;
    if (field.value.trim() !== "") signIn(field.value);
  };
  return (
    <main class="sign-in">
      <form class="card" onSubmit={submit}>
        <h1>Sign in to the console</h1>
        <p>Paste a token of a user of this cluster.</p>
        <p role="alert">{p.reason}</p>
        <label>
          Token
          <input name="token" type="password" autocomplete="off" spellcheck={false} autofocus />
        </label>
        <p class="quiet">The token stays in this tab, and is sent to this node only. Its claim ganglion_role says what you may do: viewer, reader or operator.</p>
        <button>Sign in</button>
      </form>
    </main>
  );
}

void who();
effect(() => {
  const page = pages.find((p) => p.path === (route.value.path[0] ?? ""));
  document.title = `${page?.name ?? "Console"} – ${me.value?.cluster ?? "Ganglion"}`;
});
render(<App />, document.getElementById("app")!);
