// The contract of the application: its commands and queries, as JSON Schemas.
import { signal } from "@preact/signals";
import { get } from "./api.js";

export interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  format?: string;
  enum?: unknown[];
  anyOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  examples?: unknown[];
}

export interface Contract {
  aggregates?: Record<string, { description?: string; commands?: Record<string, Schema>; rejections?: Record<string, string> }>;
  queries?: Record<string, { description?: string; data: Schema }>;
  $defs?: Record<string, Schema>;
}

/** The contract; undefined until it was read, a text if the node has none. */
export const contract = signal<Contract | string | undefined>(undefined);

/** Reads the contract once. */
export async function load(): Promise<void> {
  if (contract.value !== undefined && typeof contract.value !== "string") return;
  try {
    contract.value = await get<Contract>("v1/schema");
  } catch (e) {
    contract.value = (e as Error).message;
  }
}

/** Follows a reference. */
export function resolve(c: Contract, s: Schema | undefined): Schema {
  const name = s?.$ref?.replace("#/$defs/", "");
  return (name === undefined ? s : c.$defs?.[name]) ?? {};
}

/** A member of a command's data, as a field of a form. */
export interface Field {
  name: string;
  description: string;
  isRequired: boolean;
  kind: "text" | "number" | "yes-no" | "choice" | "json";
  choices: string[];
}

/** The fields of an object's schema; undefined if it is no object with known members. */
export function fields(s: Schema): Field[] | undefined {
  if (s.type !== "object" || !s.properties) return undefined;
  return Object.entries(s.properties).map(([name, member]) => {
    const one = member.anyOf?.find((m) => m.type !== "null") ?? member;
    const type = Array.isArray(one.type) ? one.type.find((t) => t !== "null") : one.type;
    const choices = one.enum?.map((v) => (typeof v === "string" ? v : JSON.stringify(v))) ?? [];
    const kind = choices.length > 0 && type === "string" ? "choice" : type === "string" ? "text" : type === "integer" || type === "number" ? "number" : type === "boolean" ? "yes-no" : "json";
    const hint = one.format === "date-time" ? "a time, such as 2099-01-01T00:00:00Z" : kind === "json" ? "JSON" : "";
    return { name, description: [member.description ?? one.description, hint].filter(Boolean).join("; "), isRequired: s.required?.includes(name) ?? false, kind, choices };
  });
}

/** Writes the values of fields as JSON. An empty field is left out, unless it is required text. Returns the name of a field
 * whose value is not valid. Numbers keep their digits. */
export function write(list: Field[], values: Record<string, string>): { json: string } | { field: string; problem: string } {
  const members: string[] = [];
  for (const f of list) {
    const value = values[f.name] ?? "";
    if (value === "" && !(f.isRequired && f.kind === "text")) continue;
    if (f.kind === "text" || f.kind === "choice") {
      members.push(`${JSON.stringify(f.name)}:${JSON.stringify(value)}`);
      continue;
    }
    try {
      JSON.parse(value);
    } catch {
      return { field: f.name, problem: f.kind === "json" ? "is not JSON" : "is not a number" };
    }
    members.push(`${JSON.stringify(f.name)}:${value.trim()}`);
  }
  return { json: `{${members.join(",")}}` };
}

/** Reads the values of fields from JSON; undefined if a member has no field. */
export function read(list: Field[], json: string): Record<string, string> | undefined {
  let data: unknown;
  try {
    data = JSON.parse(json);
  } catch {
    return undefined;
  }
  if (typeof data !== "object" || data === null || Array.isArray(data)) return undefined;
  const values: Record<string, string> = {};
  for (const [name, value] of Object.entries(data)) {
    const f = list.find((one) => one.name === name);
    if (!f) return undefined;
    values[name] = typeof value === "string" && f.kind !== "json" ? value : JSON.stringify(value);
  }
  return values;
}
