// Builds the pages into the folder that is named.
import { cp, rm } from "node:fs/promises";
import { build } from "esbuild";

const to = process.argv[2];
const note = "Built from web/console/src by scripts/client-js.sh examples; DO NOT EDIT.";
await rm(to, { recursive: true, force: true }); // parts of earlier builds have other names
await build({
  entryPoints: { console: "src/main.tsx" },
  outdir: to,
  bundle: true,
  splitting: true, // the overview does not load the other pages
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
  banner: { js: `// ${note}`, css: `/* ${note} */` },
});
await cp("index.html", `${to}/index.html`);
