// This program is a member of the consumer group "readers". test/e2e runs it against a
// real cluster.
//
// Its arguments are the name of the member and the gateways. It prints each event as
// "event SEGMENT EPOCH STREAM VERSION", waits for a line that says that the event is
// handled, and acknowledges it. It prints "revoked" if the event's segment is taken
// away in between, and "unsubscribed CODE" for an error. It ends with its input.
import { once } from "node:events";
import { createInterface } from "node:readline";
import { WebSocket } from "ws";
import { connect } from "../src/index.js";

const [member, ...urls] = process.argv.slice(2) as [string, ...string[]];
const handled = createInterface({ input: process.stdin });
handled.on("close", () => process.exit(0));

const client = connect({ urls, client: "ada", WebSocket: WebSocket as never });
client.on("error", (e) => {
  process.stdout.write(`unsubscribed ${e.code}\n`);
  process.stderr.write(`${member}: ${e.message}\n`);
});
for await (const event of client.consume("readers", { member, window: 20 })) {
  const { segment, epoch } = (event as unknown as { assignment: { segment: string; epoch: number } }).assignment;
  const answer = once(handled, "line");
  const revoked = () => process.stdout.write("revoked\n");
  event.signal.addEventListener("abort", revoked);
  process.stdout.write(`event ${segment} ${epoch} ${event.stream} ${event.version}\n`);
  await answer;
  event.signal.removeEventListener("abort", revoked);
  event.ack();
}
