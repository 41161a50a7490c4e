// Checks the published documents and the client package with public tools.
//
//   node validate.mjs PACKED.tgz    PACKED.tgz is made by scripts/client-js.sh pack
//
// Each check prints its faults. A warning is a fault too. The exit status is 1 if there
// is a fault.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../..");
const packed = process.argv[2];
if (!packed || !existsSync(packed)) {
  console.error("usage: node validate.mjs PACKED.tgz");
  process.exit(2);
}
const out = mkdtempSync(join(tmpdir(), "ganglion-validate-"));
mkdirSync(join(out, "asyncapi"));
const fail = (name, fault) => {
  console.error(`${name}: ${fault}`);
  process.exitCode = 1;
};
const check = async (name, run) => {
  const started = Date.now();
  try {
    for (const fault of await run()) fail(name, fault);
  } catch (err) {
    fail(name, `${err.stdout ?? ""}${err.stderr ?? ""}${err.stack}`);
  }
  console.log(`validate: ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
};
const bin = (name, ...args) => execFileSync(join(here, "node_modules/.bin", name), args, { cwd: here, stdio: "pipe" });

const asyncDocuments = {};
for (const file of ["proto/asyncapi.yaml", "domain/api/asyncapi.yaml"]) {
  await check(`@asyncapi/parser, ${file}`, async () => {
    const { Parser, fromFile } = require("@asyncapi/parser");
    const { document, diagnostics } = await fromFile(new Parser(), join(root, file)).parse();
    asyncDocuments[file] = document;
    return diagnostics
      .filter((d) => d.severity <= 1 || !document)
      .map((d) => `line ${d.range.start.line + 1}: ${d.message} (${d.code}, ${d.path.join(".")})`);
  });
}

await check("redocly, proto/openapi.yaml", async () => {
  const { createConfig, lint } = require("@redocly/openapi-core");
  const config = await createConfig({ extends: ["recommended"] });
  const problems = await lint({ ref: join(root, "proto/openapi.yaml"), config });
  return problems.map((p) => `${p.location[0]?.pointer}: ${p.message} (${p.ruleId})`);
});

await check("ajv, domain/api/schema.json", () => {
  const Ajv = require("ajv/dist/2020").default;
  const ajv = new Ajv({ strict: true, allErrors: true });
  require("ajv-formats").default(ajv);
  for (const keyword of ["aggregates", "queries"]) ajv.addKeyword({ keyword, schemaType: "object" }); // lists, which validate nothing
  const schema = JSON.parse(readFileSync(join(root, "domain/api/schema.json")));
  ajv.addSchema(schema, "application");
  const wrong = [];
  for (const name of Object.keys(schema.$defs)) {
    try {
      ajv.compile({ $ref: `application#/$defs/${name}` });
    } catch (err) {
      wrong.push(`${name}: ${err.message}`);
    }
  }
  return wrong;
});

await check("publint, client/js", () => {
  bin("publint", "run", packed, "--strict");
  return [];
});
await check("@arethetypeswrong/cli, client/js", () => {
  bin("attw", packed, "--profile", "esm-only"); // there is no CommonJS build
  return [];
});

// The code that public generators create from the documents must compile.
const generated = [];
await check("openapi-typescript, proto/openapi.yaml", () => {
  const file = join(out, "openapi.ts");
  bin("openapi-typescript", join(root, "proto/openapi.yaml"), "-o", file);
  generated.push(file);
  return [];
});
const application = "domain/api/asyncapi.yaml"; // includes proto/asyncapi.yaml
await check(`@asyncapi/modelina, ${application}`, async () => {
  const { TypeScriptGenerator } = require("@asyncapi/modelina");
  const generator = new TypeScriptGenerator({ modelType: "interface" });
  const models = await generator.generateCompleteModels(asyncDocuments[application], { exportType: "named" });
  for (const model of models) {
    const file = join(out, "asyncapi", `${model.modelName}.ts`);
    writeFileSync(file, model.result);
    generated.push(file);
  }
  return models.length > 10 ? [] : [`only ${models.length} models were generated`];
});
await check("tsc, generated code", () => {
  const compilerOptions = { noEmit: true, strict: true, skipLibCheck: true, types: [], lib: ["es2022"], target: "es2022", module: "esnext", moduleResolution: "bundler" };
  writeFileSync(join(out, "tsconfig.json"), JSON.stringify({ compilerOptions, files: generated }));
  bin("tsc", "-p", out);
  return [];
});

rmSync(out, { recursive: true });
