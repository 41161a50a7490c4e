// Numbers, times and sizes as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 12,345 */
export const number = (n: number): string => whole.format(n);

/** 12.3K */
export const compact = (n: number): string => (n < 10 && n % 1 !== 0 ? n.toFixed(1) : short.format(n));

/** Seconds: 0.8 ms, 12 ms, 1.2 s, 3 min */
export function seconds(s: number): string {
  if (s === 0) return "0 s";
  if (s < 0.01) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} d`;
}

/** Bytes: 512 B, 1.5 MiB */
export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

/** The time of day: 21:04:05 */
export const clock = (ms: number): string => new Date(ms).toLocaleTimeString("en-GB");
