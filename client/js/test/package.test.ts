import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
  // The contract that is generated from the aggregates of this repository.
  copyFileSync(join(root, "../../domain/api/contract.ts"), join(folder, "contract.ts"));
  writeFileSync(
    join(folder, "generated.ts"),
    `import { connect } from "@ganglion-es/client";
     import type { Contract } from "./contract.js";
     const client = connect<Contract>({ url: "ws://x" });
     const auction = client.aggregate("auction", "42");
     export async function all(): Promise<string> {
       await auction.send("bid", { amount: 120 });
       await auction.send("close");
       // @ts-expect-error: ammount is no member
       await auction.send("bid", { ammount: 120 });
       // @ts-expect-error: amounts are numbers
       await auction.send("bid", { amount: "120" });
       // @ts-expect-error: a bid needs its amount
       await auction.send("bid");
       // @ts-expect-error: that is a counter's
       await auction.send("add", { by: 1 });
       const { data } = await auction.get();
       // @ts-expect-error: there is none before the first bid
       data.top.amount.toFixed();
       for await (const e of auction.subscribe({ from: "start" })) {
         switch (e.event) {
           case "opened": return e.data.seller + e.data.closes_at;
           case "bid_placed": return e.data.bidder + e.data.amount.toFixed();
           // @ts-expect-error: an auction that closes has no bidder
           case "closed": return e.data.bidder;
           default: e satisfies never;
         }
       }
       return String(data.top?.amount);
     }`,
  );
  for (const [module, resolution] of [["node16", "node16"], ["esnext", "bundler"]] as const) {
    execFileSync(
      bin("tsc"),
      ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", "", "--module", module, "--moduleResolution", resolution, join(folder, "uses.ts"), join(folder, "generated.ts")],
      { stdio: "inherit", cwd: folder },
    );
  }
  writeFileSync(join(folder, "runs.mjs"), 'import { connect, GapError } from "@ganglion-es/client"; console.log(typeof connect, GapError.name);');
  assert.equal(execFileSync(process.execPath, ["runs.mjs"], { cwd: folder, encoding: "utf8" }), "function GapError\n");
});

const npm = Number(execFileSync("npm", ["--version"], { encoding: "utf8" }).split(".")[0]);
test("npm sbom tells of this package alone", { skip: npm < 10 && "npm sbom came with npm 10" }, () => {
  const sbom = JSON.parse(execFileSync("npm", ["sbom", "--sbom-format", "cyclonedx", "--omit", "dev"], { cwd: root, encoding: "utf8" }));
  assert.equal(sbom.metadata.component.purl, `pkg:npm/%40ganglion-es/client@${manifest.version}`);
  assert.deepEqual(sbom.components, []);
});

test("the licence is the repository's", () => {
  assert.equal(readFileSync(join(root, "LICENSE"), "utf8"), readFileSync(join(root, "../../LICENSE"), "utf8"));
});
