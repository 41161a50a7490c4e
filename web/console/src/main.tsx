// The console: one page whose URL names what it shows.
import { render, type ComponentChildren, type JSX } from "preact";
import { useEffect } from "preact/hooks";
import { effect, signal, useSignal } from "@preact/signals";
import { Asked } from "./act.js";
import { hasToken, me, refused, signIn, signOut, who } from "./api.js";
import "./console.css";
import "./log.css";
import { Overview } from "./overview.js";
import type * as Others from "./pages.js";
import { link, route } from "./route.js";
import { follow, isLive, picture } from "./status.js";

/** The pages. The code of all but the first is loaded when one of them is opened. */
const pages: { name: string; path: string; other?: keyof typeof Others }[] = [
  { name: "Overview", path: "" },
  { name: "Log", path: "log", other: "Log" },
  { name: "Stream", path: "stream", other: "Stream" },
  { name: "Try", path: "try", other: "Try" },
  { name: "Processors", path: "processors", other: "Processors" },
  { name: "Blocked", path: "blocked", other: "Blocked" },
  { name: "Groups", path: "groups", other: "Groups" },
  { name: "Relays", path: "relays", other: "Relays" },
  { name: "Wake-ups", path: "wakeups", other: "Wakes" },
  { name: "Ring", path: "ring", other: "Ring" },
  { name: "Sessions", path: "sessions", other: "Sessions" },
  { name: "Health", path: "health", other: "Health" },
  { name: "Audit", path: "audit", other: "Audit" },
];

const others = signal<typeof Others | undefined>(undefined);

/** A page that is loaded when it is opened. */
function Other(p: { name: keyof typeof Others }): JSX.Element {
  const problem = useSignal("");
  useEffect(() => {
    import("./pages.js").then(
      (all) => (others.value = all),
      () => (problem.value = "The node did not send this page. It may have another version of the console now: load the page again."),
    );
  }, []);
  const Shown = others.value?.[p.name];
  return Shown ? <Shown /> : <p class="empty" role={problem.value ? "alert" : undefined}>{problem.value || "Loading the page."}</p>;
}

function App(): JSX.Element {
  if (refused.value !== undefined) return <SignIn reason={refused.value} />;
  if (!me.value) return <p class="empty">Connecting to the node.</p>;
  const [first = ""] = route.value.path;
  const shown = pages.find((p) => p.path === first);
  return (
    <Frame at={first}>
      {shown ? (
        shown.other ? <Other name={shown.other} /> : <Overview />
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
const app = document.getElementById("app")!;
app.textContent = ""; // render keeps the text that was shown while this was loaded
render(<App />, app);
