import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const root = fileURLToPath(new URL("../../", import.meta.url));
const bin = (name: string) => join(root, "node_modules/.bin", name);
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const folder = mkdtempSync(join(tmpdir(), "ganglion-client-"));
after(() => rmSync(folder, { recursive: true }));

test("a browser loads less than 8 kB, and nothing but this package", () => {
  const bundled = execFileSync(bin("esbuild"), ["--bundle", "--minify", "--format=esm", "--platform=browser", join(root, "dist/index.js")]);
  const size = gzipSync(bundled, { level: 9 }).length;
  assert.ok(size < 8_000, `${size} bytes`);
  assert.deepEqual(manifest.dependencies, undefined);
});

test("what npm packs can be imported and is typed, under node16 and bundler", () => {
  const [{ files, filename }] = JSON.parse(
    execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", folder], { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
  );
  const names: string[] = files.map((f: { path: string }) => f.path);
  assert.deepEqual(names.filter((n) => !n.startsWith("dist/")).sort(), ["LICENSE", "README.md", "package.json"]);
  assert.ok(names.every((n) => !n.startsWith("dist/") || /\.(js|d\.ts)$/.test(n)), names.join());

  const installed = join(folder, "node_modules/@ganglion-es/client");
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", join(folder, filename), "-C", installed, "--strip-components=1"]);

  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
  writeFileSync(
    join(folder, "uses.ts"),
    `import { connect, type Client, RejectedError } from "@ganglion-es/client";
     interface Mine { counter: { state: { value: number }; commands: { add: { by: number } }; events: { added: { by: number } } } }
     export const client: Client<Mine> = connect<Mine>({ url: "ws://x" });
     export const sending: Promise<number> = client.aggregate("counter", "a").send("add", { by: 1 }).then((r) => r.position);
     // @ts-expect-error
     client.aggregate("counter", "a").send("add", { bye: 1 });
     export const is = (e: unknown) => e instanceof RejectedError && e.reason;`,
  );
  for (const [module, resolution] of [["node16", "node16"], ["esnext", "bundler"]] as const) {
    execFileSync(
      bin("tsc"),
      ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", "", "--module", module, "--moduleResolution", resolution, join(folder, "uses.ts")],
      { stdio: "inherit", cwd: folder },
    );
  }
  writeFileSync(join(folder, "runs.mjs"), 'import { connect, GapError } from "@ganglion-es/client"; console.log(typeof connect, GapError.name);');
  assert.equal(execFileSync(process.execPath, ["runs.mjs"], { cwd: folder, encoding: "utf8" }), "function GapError\n");
});

test("the licence is the repository's", () => {
  assert.equal(readFileSync(join(root, "LICENSE"), "utf8"), readFileSync(join(root, "../../LICENSE"), "utf8"));
});
