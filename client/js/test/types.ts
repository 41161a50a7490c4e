// The compiler checks this file; nothing here runs.
import type { Client, RejectedError } from "../src/index.js";

// A contract in the form that `ganglion gen ts` generates.
interface Auctions {
  auction: {
    state: { item: string; top: { bidder: string; amount: number } | null };
    commands: { open: { item: string; reserve: number }; bid: { amount: number }; close: {} };
    events: { opened: { item: string }; bid_placed: { bidder: string; amount: number }; closed: { winner: string } };
  };
  counter: { state: { value: number }; commands: { add: { by: number } }; events: { added: { by: number } } };
}

export async function typed(client: Client<Auctions>): Promise<void> {
  const auction = client.aggregate("auction", "42");
  const { position, version } = await auction.send("bid", { amount: 120 });
  await auction.send("close");
  await auction.send("close", {}, { expect: version });
  // @ts-expect-error: ammount is no member
  await auction.send("bid", { ammount: 120 });
  // @ts-expect-error: a bid needs its amount
  await auction.send("bid");
  // @ts-expect-error: there is no such command
  await auction.send("add", { by: 1 });
  // @ts-expect-error: there is no such type
  client.aggregate("rocket", "1");

  const { data } = await auction.get({ atLeast: position });
  data.top?.amount.toFixed();
  // @ts-expect-error: there is no such member of the state
  data.bids;

  for await (const e of auction.subscribe({ from: "start" })) {
    // @ts-expect-error: not every event has an amount
    e.data.amount;
    switch (e.event) {
      case "bid_placed":
        e.data.amount.toFixed();
        break;
      case "opened":
        e.data.item.trim();
        // @ts-expect-error: opened has no amount
        e.data.amount;
        break;
      case "closed":
        break;
      default:
        e satisfies never;
    }
  }
  for await (const x of auction.subscribe({ state: true, live: true })) {
    if (x.kind === "state") x.data.item.trim();
    else if (x.kind === "event" && x.event === "closed") x.data.winner.trim();
    else if (x.kind === "live") x.cursor.trim();
  }
  auction.subscribe({
    state: true,
    onState: (s) => s.data.item.trim(),
    onEvent: (e) => e.event === "bid_placed" && e.data.amount.toFixed(),
    onEnd: (e) => e?.code === "gap",
  });
  for await (const e of client.category("counter").subscribe()) e.data.by.toFixed();
  await client.handle("mailer", async (e) => {
    if (e.event === "bid_placed") e.data.bidder.trim() + e.commandKey(0) + e.log + e.attempt.toFixed() + e.signal.aborted;
    // @ts-expect-error: the client acknowledges the event
    e.ack();
  }, { concurrency: 4 });
  for await (const e of client.consume("mailer", { window: 10 })) {
    if (e.event === "added") e.data.by.toFixed();
    else e.park(e.stream);
    e.ack();
    // @ts-expect-error: there is no such event
    if (e.event === "launched") return;
  }
  // @ts-expect-error: a loop has no calls
  client.consume("mailer", { concurrency: 4 });
  // @ts-expect-error: a category has no state
  client.category("counter").subscribe({ state: true });
}

export function untyped(client: Client, e: RejectedError): void {
  void client.aggregate("anything", "1").send("whatever", { x: 1 });
  client.aggregate("anything", "1").subscribe({ onEvent: (e) => e.data.x.y });
  e.reason?.trim();
  void client.handle("mailer", (e) => e.data.x.y + e.group);
}
