// Drains queued runs of ten steps with OpenWorkflow for TypeScript, and prints the seconds it took.
// Usage: node drain.mjs BACKEND ADDRESS RUNS CONCURRENCY

import { OpenWorkflow } from "openworkflow";

const [backendName, address, runs, concurrency] = process.argv.slice(2);
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
    const { BackendSqlite } = await import("openworkflow/sqlite");
    return BackendSqlite.connect(address);
  }
  throw new Error(`no backend is called ${backendName}`);
}
