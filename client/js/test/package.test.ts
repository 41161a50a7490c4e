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

test("the bundle is smaller than 12 kB and has no dependencies", () => {
  const bundled = execFileSync(bin("esbuild"), ["--bundle", "--minify", "--format=esm", "--platform=browser", join(root, "dist/index.js")]);
  const size = gzipSync(bundled, { level: 9 }).length;
  assert.ok(size < 12_000, `${size} bytes`);
  assert.deepEqual(manifest.dependencies, undefined);
});

test("the npm package can be imported, with types, under node16 and bundler", () => {
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
  // The contract generated from the aggregates of this repository.
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
       // @ts-expect-error: add is a command of counters
       await auction.send("add", { by: 1 });
       try {
         await auction.send("close");
       } catch (e) {
         // @ts-expect-error: an error need not be a rejection
         e.reason;
         if (auction.rejected(e)) {
           if (e.reason === "closed") return e.message;
           // @ts-expect-error: wrong_stat is no code of an auction
           if (e.reason === "wrong_stat") return "";
           // @ts-expect-error: zero is a code of counters
           e.reason satisfies "zero" | undefined;
         }
       }
       const { rows, next, position } = await client.query("open_auctions", { budget: 1000 });
       const live = client.live("open_auctions", {}, { atLeast: position });
       for await (const { rows: [first], status } of live) if (status === "live" && first) return first.data.closes_at + first.data.price.toFixed();
       await client.query("open_auctions");
       await client.query("bids_of", { bidder: "ada" }, { after: next! });
       // @ts-expect-error: bids_of needs a bidder
       await client.query("bids_of");
       // @ts-expect-error: there is no such query
       await client.query("open_auction", {});
       // @ts-expect-error: a budget is a number
       client.live("open_auctions", { budget: "1000" });
       // @ts-expect-error: a budget is the only parameter
       client.live("open_auctions", { budgets: 1000 });
       // @ts-expect-error: a listing has no bidder
       rows[0]!.data.bidder;
       // @ts-expect-error: queries are no aggregate type
       client.aggregate("$queries", "1");
       const store = client.aggregate("auction/42").live();
       // @ts-expect-error: there is no state at first
       store.getSnapshot().state.item;
       const { data } = await auction.get();
       // @ts-expect-error: top is null before the first bid
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
  // A contract with enumerations, from a test of node/contract.
  copyFileSync(join(root, "../../node/contract/testdata/market.ts"), join(folder, "market.ts"));
  writeFileSync(
    join(folder, "enums.ts"),
    `import { connect } from "@ganglion-es/client";
     import type { Contract } from "./market.js";
     const client = connect<Contract>({ url: "ws://x" });
     const stall = client.aggregate("stall", "1");
     export async function all(): Promise<string> {
       await stall.send("sell", { ripe: "ripe", price: 1, also: ["green", "\\"over\\"\\u2028"] });
       // @ts-expect-error: rotten is no declared value
       await stall.send("sell", { ripe: "rotten", price: 1 });
       // @ts-expect-error: nor is it one in a list
       await stall.send("sell", { ripe: "ripe", price: 1, also: ["rotten"] });
       const { data } = await stall.get();
       // @ts-expect-error: an enumeration compares with its values only
       if (data.ripe === "raw") return "";
       const { answer } = await client.query("count");
       answer?.["red"]?.toFixed();
       // @ts-expect-error: code gives no rows
       (await client.query("count")).rows;
       // @ts-expect-error: a page has no answer
       (await client.query("all")).answer;
       // @ts-expect-error: code can't be followed
       client.live("count");
       const { rows } = await client.query("cheap-fruit", { most: 5, ripe: "green" });
       switch (rows[0]!.data.ripe) {
         case "green": return "wait";
         case "ripe": return "eat";
         case "\\"over\\"\\u2028": return "too late";
       }
     }`,
  );
  for (const [module, resolution] of [["node16", "node16"], ["esnext", "bundler"]] as const) {
    execFileSync(
      bin("tsc"),
      ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", "--types", "", "--module", module, "--moduleResolution", resolution, ...["uses.ts", "generated.ts", "enums.ts"].map((f) => join(folder, f))],
      { stdio: "inherit", cwd: folder },
    );
  }
  writeFileSync(join(folder, "runs.mjs"), 'import { connect, GapError } from "@ganglion-es/client"; console.log(typeof connect, GapError.name);');
  assert.equal(execFileSync(process.execPath, ["runs.mjs"], { cwd: folder, encoding: "utf8" }), "function GapError\n");
});

const npm = Number(execFileSync("npm", ["--version"], { encoding: "utf8" }).split(".")[0]);
test("npm sbom lists this package alone", { skip: npm < 10 && "npm sbom needs npm 10" }, () => {
  const sbom = JSON.parse(execFileSync("npm", ["sbom", "--sbom-format", "cyclonedx", "--omit", "dev"], { cwd: root, encoding: "utf8" }));
  assert.equal(sbom.metadata.component.purl, `pkg:npm/%40ganglion-es/client@${manifest.version}`);
  assert.deepEqual(sbom.components, []);
});

test("the licence is the repository's", () => {
  assert.equal(readFileSync(join(root, "LICENSE"), "utf8"), readFileSync(join(root, "../../LICENSE"), "utf8"));
});
