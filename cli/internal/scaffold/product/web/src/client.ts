import { connect } from "@ganglion-es/client";
import type { Contract } from "./contract";

// In development the page states who it is. With real tokens, replace "client":
//   token: () => fetch("/token").then((r) => r.text()),
const guest = (sessionStorage.guest ??= "guest-" + Math.random().toString(36).slice(2, 8)) as string;

export const client = connect<Contract>({ client: guest });
