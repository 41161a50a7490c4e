// Runs emmett on a database: emmett.js MODE URL.
//
//   schema      creates emmett's tables, and ends
//   documented  rebuilds the rows as emmett's documentation shows, with its defaults, and ends
//   tuned       the same with batches of 1,000 that are read without a pause, and one
//               upsert per batch that is written by hand
//   follow      keeps the rows current, with emmett's defaults and the upserts of tuned,
//               until standard input ends
//
// documented and tuned print the milliseconds that they took; follow prints "ready".
import {
  getPostgreSQLEventStore, pongoSingleStreamProjection, postgreSQLEventStoreConsumer, postgreSQLRawBatchSQLProjection, rebuildPostgreSQLProjections,
} from "@event-driven-io/emmett-postgresql";
import { rawSql } from "@event-driven-io/dumbo";

const [mode, connectionString] = process.argv.slice(2);

const evolve = (row, { type, data }) =>
  type === "listed" ? { title: data.title, price: data.reserve, bids: 0, open: true, closes_at: data.closes_at }
    : { ...row, price: data.amount, bidder: data.bidder, bids: (row?.bids ?? 0) + 1 };

const documents = pongoSingleStreamProjection({ collectionName: "emmett_rows", canHandle: ["listed", "bid"], evolve });

const literal = (text) => `'${text.replaceAll("'", "''")}'`;

const upserts = postgreSQLRawBatchSQLProjection({
  name: "emmett_rows",
  canHandle: ["listed", "bid"],
  init: () => rawSql("create table if not exists emmett_rows (_id text primary key, data jsonb not null)"),
  evolve: async (events, { execute }) => {
    const ids = [...new Set(events.map((e) => e.metadata.streamName))];
    const { rows } = await execute.query(rawSql(`select _id, data from emmett_rows where _id in (${ids.map(literal).join(",")})`));
    const known = new Map(rows.map((r) => [r._id, r.data]));
    for (const e of events) known.set(e.metadata.streamName, evolve(known.get(e.metadata.streamName), e));
    const values = ids.map((id) => `(${literal(id)},${literal(JSON.stringify(known.get(id)))}::jsonb)`);
    return [rawSql(`insert into emmett_rows (_id, data) values ${values.join(",")} on conflict (_id) do update set data = excluded.data`)];
  },
});

async function timed(consumer) {
  const start = performance.now();
  await consumer.start();
  console.log(performance.now() - start);
  await consumer.close();
}

if (mode === "schema") {
  const store = getPostgreSQLEventStore(connectionString);
  await store.schema.migrate();
  await store.close();
} else if (mode === "documented") {
  await timed(rebuildPostgreSQLProjections({ connectionString, projections: [documents] }));
} else if (mode === "tuned") {
  await timed(rebuildPostgreSQLProjections({ connectionString, projections: [upserts], pulling: { batchSize: 1000, pullingFrequencyInMs: 0 } }));
} else if (mode === "follow") {
  const consumer = postgreSQLEventStoreConsumer({ connectionString });
  consumer.projector({ projection: upserts });
  const running = consumer.start();
  console.log("ready");
  process.stdin.resume();
  await new Promise((resolve) => process.stdin.on("end", resolve));
  await consumer.close();
  await running;
}
process.exit(0);
