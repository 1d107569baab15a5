// Runs workflows of openworkflow for TypeScript on a database: one that ends well after a second try and has a
// child, and one that fails. Prints their ids.
import { OpenWorkflow, Worker, defineWorkflow } from "openworkflow";
import { BackendSqlite } from "openworkflow/sqlite";
import { setTimeout as delay } from "node:timers/promises";

const backend = BackendSqlite.connect(process.argv[2]);
const client = new OpenWorkflow({ backend });
let tries = 0;

const child = defineWorkflow({ name: "ts-label" }, async ({ step }) => {
  return await step.run({ name: "print" }, async () => "L1");
});
const parcel = defineWorkflow({ name: "ts-parcel" }, async ({ step }) => {
  await step.run({ name: "weigh" }, async () => 3);
  await step.runWorkflow({ name: "ts-label" }, null);
  const retryPolicy = { initialInterval: "100ms", backoffCoefficient: 2, maximumInterval: "1s", maximumAttempts: 3 };
  await step.run({ name: "hand-over", retryPolicy }, async () => {
    tries += 1;
    if (tries === 1) throw new TypeError("nobody is at the door");
  });
});
const lost = defineWorkflow({ name: "ts-lost" }, async ({ step }) => {
  await step.run({ name: "look", retryPolicy: { maximumAttempts: 1 } }, async () => {
    throw new RangeError("it is nowhere");
  });
});

const worker = new Worker({ backend, workflows: [child, parcel, lost], concurrency: 2 });
const runs = {
  parcel: await client.runWorkflow({ name: "ts-parcel" }, null),
  lost: await client.runWorkflow({ name: "ts-lost" }, null),
};
const ends = Object.values(runs).map((run) => run.result({ timeoutMs: 60_000 }).catch(() => {}));
let isOver = false;
const over = Promise.all(ends).then(() => (isOver = true));
while (!isOver) {
  await worker.tick();
  await delay(10);
}
await over;
await worker.stop();
await backend.stop?.();
console.log(JSON.stringify({ parcel: runs.parcel.workflowRun.id, lost: runs.lost.workflowRun.id }));
process.exit(0);
