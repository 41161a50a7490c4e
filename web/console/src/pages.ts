// All pages but the first. main.tsx loads them together when one of them is opened.
export { Audit } from "./audit.js";
export { Health } from "./health.js";
export { Log } from "./log.js";
export { Blocked, Groups, Processors, Relays, Wakes } from "./readside.js";
export { Ring } from "./ring.js";
export { Sessions } from "./sessions.js";
export { Stream } from "./stream.js";
export { Try } from "./try.js";
