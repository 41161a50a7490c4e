// The picture of the cluster, which the node sends once a second.
import { signal } from "@preact/signals";
import { stream } from "./api.js";

export interface Sample {
  at: number;
  commands: number;
  events: number;
  delivered: number;
  p50: number | null;
  p99: number | null;
  lag_events: number;
  lag: number;
  sessions: Record<string, number>;
}

export interface Member {
  id: string;
  state: string;
  problem?: string;
  roles: string[];
  version: string;
  age_seconds: number;
  peer: string;
  http: string;
  partitions: number;
  clock_ms: number;
  ring: string;
  silent?: string;
  sessions?: number;
  full?: number;
  commands: number;
  delivered: number;
  cpu?: number;
  memory?: number;
  behind?: number;
  store_up?: boolean;
  certificate_expires?: number;
}

export interface Problem {
  severity: "bad" | "warning";
  text: string;
  do: string;
  runbook: string;
  page?: string;
}

export interface Picture {
  at: number;
  node: string;
  state: string;
  problem?: string;
  log: string;
  head: number;
  ring: string;
  partitions: number;
  owners: number;
  members: Member[];
  lost: { id: string; seconds: number }[];
  problems: Problem[];
  sample: Sample;
  blocked: number;
  stopped: number;
  full: number;
}

/** The number of samples that the charts show: 15 minutes. */
const kept = 900;

/** The newest picture; undefined until the first has come. */
export const picture = signal<Picture | undefined>(undefined);
export const samples = signal<Sample[]>([]);
/** Reports whether the node sends pictures. */
export const isLive = signal(false);

/** Receives pictures until the returned function is called. */
export function follow(): () => void {
  return stream({
    path: () => "api/status",
    connected: (yes) => (isLive.value = yes),
    message: (kind, data) => {
      if (kind === "samples") {
        // Another node, after a reconnect, knows its own samples only.
        if (samples.value.length < (data as Sample[]).length) samples.value = data as Sample[];
        return;
      }
      const p = data as Picture;
      picture.value = p;
      if ((samples.value.at(-1)?.at ?? 0) < p.sample.at) samples.value = [...samples.value.slice(-kept + 1), p.sample];
    },
  });
}
