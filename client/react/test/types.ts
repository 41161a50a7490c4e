// The compiler checks this file; nothing here runs.
import type { Client } from "@ganglion-es/client";
import { useAggregate, useQuery, useStatus } from "../src/index.js";
import type { Auctions } from "./gateway.js";

export function Typed({ client }: { client: Client<Auctions> }): string {
  const { rows, status, optimistic } = useQuery(client, "lots", { budget: 1000 });
  rows[0]?.data.price.toFixed();
  status satisfies "connecting" | "live" | "behind" | "resuming" | "closed";
  optimistic((rows) => rows.slice(1), client.aggregate("auction/42").send("bid", { amount: 1 }));
  useQuery(client, "lots");
  // @ts-expect-error: there is no such query
  useQuery(client, "lot", {});
  // @ts-expect-error: budget is a number
  useQuery(client, "lots", { budget: "1000" });
  // @ts-expect-error: a row has no item
  rows[0]?.data.item;
  // @ts-expect-error: rows are immutable
  rows.push(rows[0]!);

  const auction = useAggregate(client, "auction/42");
  // @ts-expect-error: there is no state at first
  auction.state.bids;
  auction.state?.bids.toFixed();
  // @ts-expect-error: there is no such type
  useAggregate(client, "rocket/1");
  // @ts-expect-error: $queries is not a type
  useAggregate(client, "$queries/1");
  return useStatus(client);
}

export function Untyped({ client }: { client: Client }): string {
  useQuery(client, "anything", { x: 1 }).rows[0]?.data.x.y;
  return useAggregate(client, "anything/1").state.x.y;
}
