// Drains queued runs of ten steps with OpenWorkflow for TypeScript, and prints the seconds it took.
// Usage: node drain.mjs MODULES BACKEND ADDRESS RUNS CONCURRENCY

import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, backendName, address, runs, concurrency] = process.argv.slice(2);
const { resolve } = createRequire(path.join(modules, "drain.cjs"));
const load = (name) => import(pathToFileURL(resolve(name)));
const { OpenWorkflow } = await load("openworkflow");
const backend = await connect();
const openworkflow = new OpenWorkflow({ backend });
const workflow = openworkflow.defineWorkflow({ name: "ten-steps" }, async ({ input, step }) => {
  let sum = input;
  for (let i = 0; i < 10; i++) {
    sum += await step.run({ name: `step-${i}` }, () => i);
  }
  return sum;
});
for (let input = 0; input < Number(runs); input++) {
  await workflow.run(input);
}

const begin = performance.now();
const worker = openworkflow.newWorker({ concurrency: Number(concurrency) });
await worker.start();
while ((await backend.countWorkflowRuns()).completed < Number(runs)) {
  await new Promise((resolve) => setTimeout(resolve, 5));
}
const seconds = (performance.now() - begin) / 1000;
await worker.stop();
await backend.stop();
console.log(seconds);

async function connect() {
  if (backendName === "sqlite") {
    const { BackendSqlite } = await load("openworkflow/sqlite");
    return BackendSqlite.connect(address);
  }
  if (backendName === "postgres") {
    const { BackendPostgres } = await load("openworkflow/postgres");
    const [url, schema] = address.split("#");
    return await BackendPostgres.connect(url, { schema });
  }
  throw new Error(`no backend is called ${backendName}`);
}
