// Builds the pages into the folder that is named.
import { cp } from "node:fs/promises";
import { build } from "esbuild";

const to = process.argv[2];
const note = "Built from web/console/src by scripts/client-js.sh examples; DO NOT EDIT.";
await build({
  entryPoints: { console: "src/main.tsx" },
  outdir: to,
  bundle: true,
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
