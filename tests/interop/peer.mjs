// The other side: openworkflow from the npm registry in a process of its own, with the workflows that
// `workflows.rs` has too. It is told what to do, and answers, in lines of JSON.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const setup = JSON.parse(process.argv[2]);
const { resolve } = createRequire(path.join(setup.modules, "peer.cjs"));
const load = (name) => import(pathToFileURL(resolve(name)));

const tracing = setup.traced ? await startTracing() : undefined;
const { OpenWorkflow, Worker, defineWorkflow } = await load(setup.sdk);
const workflows = new Map(
  defineWorkflows().map((workflow) => [key(workflow.spec), workflow]),
);

let backend;
let client;
let worker;
const handles = new Map();

function key({ name, version }) {
  return version === undefined ? name : `${name}@${version}`;
}

const operations = {
  // Answers once the process is up.
  async hello() {},

  async connect({ namespaceId }) {
    const options = namespaceId === undefined ? {} : { namespaceId };
    if (setup.database.sqlite !== undefined) {
      const { BackendSqlite } = await load(`${setup.sdk}/sqlite`);
      backend = BackendSqlite.connect(setup.database.sqlite, options);
    } else {
      const { url, schema } = setup.database.postgres;
      const { BackendPostgres } = await load(`${setup.sdk}/postgres`);
      backend = await BackendPostgres.connect(url, { ...options, schema });
    }
    client = new OpenWorkflow({ backend });
  },

  async start({ workflow, version, input, options, span }) {
    const spec = version == null ? { name: workflow } : { name: workflow, version };
    const start = () => client.runWorkflow(spec, input, withDates(options ?? {}));
    const handle = await insist(() => (span === undefined ? start() : tracing.within(span, start)));
    handles.set(handle.workflowRun.id, handle);
    return handle.workflowRun.id;
  },

  async result({ run }) {
    return (await handles.get(run).result({ timeoutMs: 60_000 })) ?? null;
  },

  async cancel({ run }) {
    await insist(() => client.cancelWorkflowRun(run));
  },

  async signal({ signal, data, idempotencyKey }) {
    const options = { signal };
    if (data !== undefined) options.data = data;
    if (idempotencyKey !== undefined) options.idempotencyKey = idempotencyKey;
    return (await insist(() => client.sendSignal(options))).workflowRunIds;
  },

  async work({ names, concurrency, polling }) {
    const chosen = [...workflows.values()].filter(({ spec }) => names?.includes(key(spec)) ?? true);
    worker = new Worker({ backend, workflows: chosen, concurrency });
    if (polling) {
      await worker.start();
    } else {
      worker = ticking(worker);
    }
  },

  async rest() {
    await worker.stop();
    worker = undefined;
  },

  // What workers, clients and the dashboard ask of the database.
  async backend({ method, params }) {
    return (await backend[method](withDates(params ?? {}))) ?? null;
  },

  // How often a call of the client found the database locked.
  async locked() {
    return locked;
  },

  async spans() {
    return tracing.spans();
  },
};

// The worker's own loop looks once a second at worst; this one looks all the time.
function ticking(worker) {
  let working = true;
  const loop = (async () => {
    while (working) {
      try {
        await worker.tick();
      } catch (error) {
        console.error("Worker tick failed:", error);
      }
      await delay(10);
    }
  })();
  return {
    async stop() {
      working = false;
      await loop;
      await worker.stop();
    },
  };
}

// SQLite lets one process write at a time, and this SDK does not wait for its turn: calls of a client
// may fail with "database is locked". An application has to try again.
let locked = 0;
async function insist(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!/database is locked/.test(error.message)) throw error;
      locked += 1;
      await delay(1);
    }
  }
}

function withDates(members) {
  return Object.fromEntries(
    Object.entries(members).map(([name, value]) =>
      // A duration is for the SDK to read.
      /At$/.test(name) && /^\d+-/.test(value) ? [name, new Date(value)] : [name, value],
    ),
  );
}

async function startTracing() {
  const { InMemorySpanExporter, NodeTracerProvider, SimpleSpanProcessor } = await load(
    "@opentelemetry/sdk-trace-node",
  );
  const { context, propagation, trace } = await load("@opentelemetry/api");
  const exporter = new InMemorySpanExporter();
  const provider = new NodeTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
  provider.register();
  return {
    // Calls `work` under a span and under baggage.
    within({ name, baggage }, work) {
      const entries = Object.entries(baggage ?? {}).map(([name, value]) => [name, { value }]);
      const carried = propagation.setBaggage(
        context.active(),
        propagation.createBaggage(Object.fromEntries(entries)),
      );
      return trace.getTracer("app").startActiveSpan(name, {}, carried, async (span) => {
        try {
          return await work();
        } finally {
          span.end();
        }
      });
    },
    baggage(name) {
      return propagation.getActiveBaggage()?.getEntry(name)?.value ?? null;
    },
    spans() {
      return exporter.getFinishedSpans().map((span) => ({
        name: span.name,
        traceId: span.spanContext().traceId,
        spanId: span.spanContext().spanId,
        parentSpanId: span.parentSpanContext?.spanId ?? null,
        links: span.links.map(({ context: { traceId, spanId } }) => ({ traceId, spanId })),
        attributes: span.attributes,
      }));
    },
  };
}

function named(name, message) {
  const error = new Error(message);
  error.name = name;
  return error;
}

function defineWorkflows() {
  const by = "typescript";
  return [
    defineWorkflow({ name: "echo" }, async ({ input, step }) => {
      const value = await step.run({ name: "echo" }, async () => ({ by, value: input }));
      return value;
    }),

    defineWorkflow({ name: "echo", version: "2" }, async ({ input, step, version }) => {
      const value = await step.run({ name: "echo" }, async () => ({ by, value: input, version }));
      return value;
    }),

    defineWorkflow({ name: "nothing" }, async ({ step }) => {
      await step.run({ name: "nothing" }, async () => {});
    }),

    defineWorkflow({ name: "phases" }, async ({ input, step }) => {
      const before = await step.run({ name: "before" }, async () => by);
      const wait = { signal: input.signal };
      if (input.timeout !== undefined) wait.timeout = input.timeout;
      const received = await step.waitForSignal(wait);
      const after = await step.run({ name: "after" }, async () => by);
      return { before, received, after };
    }),

    defineWorkflow({ name: "naps" }, async ({ input, step }) => {
      const before = await step.run({ name: "before" }, async () => by);
      await step.sleep("nap", input.nap);
      const after = await step.run({ name: "after" }, async () => by);
      return { before, after };
    }),

    defineWorkflow({ name: "parent" }, async ({ input, step }) => {
      const options = input.timeout === undefined ? {} : { timeout: input.timeout };
      const ask = () => step.runWorkflow({ name: "child" }, input.child, options);
      if (!input.catches) return { by, child: await ask() };
      try {
        return { by, child: await ask() };
      } catch (error) {
        // A wait throws too, and must not be caught.
        if (!/broke|canceled|Timed out/.test(error.message)) throw error;
        return { by, failure: { name: error.name, message: error.message } };
      }
    }),

    defineWorkflow({ name: "child" }, async ({ input, step }) => {
      const baggage = await step.run({ name: "work" }, async () => tracing?.baggage("tenant") ?? null);
      if (input.mode === "fail") throw named("ChildBroke", "the child broke");
      if (input.mode === "wait") await step.waitForSignal({ signal: input.signal });
      return { by, mode: input.mode, baggage };
    }),

    defineWorkflow({ name: "names" }, async ({ input, step }) => {
      const outputs = [];
      for (const [index, name] of ["x", "x", "x", "x:1", "x", "x:1"].entries()) {
        if (index === 3) await step.waitForSignal({ signal: input.signal });
        outputs.push(await step.run({ name }, async () => `${index} by ${by}`));
      }
      return outputs;
    }),

    defineWorkflow({ name: "flaky" }, async ({ input, step }) => {
      const retryPolicy = {
        initialInterval: `${input.interval_seconds ?? 1}s`,
        backoffCoefficient: 2,
        maximumInterval: "100s",
        maximumAttempts: input.attempts ?? 10,
      };
      return await step.run({ name: "flaky", retryPolicy }, async () => {
        if (input.works !== by) throw named("Flaky", `does not work by ${by}`);
        return by;
      });
    }),

    defineWorkflow(
      { name: "exhausted", retryPolicy: { maximumAttempts: 10, initialInterval: "100ms" } },
      async ({ step }) => {
        const retryPolicy = { maximumAttempts: 2, initialInterval: "100ms" };
        await step.run({ name: "hopeless", retryPolicy }, async () => {
          throw named("Hopeless", `hopeless by ${by}`);
        });
      },
    ),

    defineWorkflow(
      {
        name: "throwing",
        retryPolicy: {
          maximumAttempts: 3,
          initialInterval: "1s",
          backoffCoefficient: 2,
          maximumInterval: "100s",
        },
      },
      async ({ input, step }) => {
        await step.waitForSignal({ signal: input.signal });
        throw named("Thrown", `thrown by ${by}`);
      },
    ),

    defineWorkflow({ name: "sender" }, async ({ input, step }) => {
      const sent = await step.sendSignal({ signal: input.signal, data: input.data });
      return { by, received: sent.workflowRunIds };
    }),

    defineWorkflow({ name: "slow" }, async ({ input, step }) => {
      const first = await step.run({ name: "first" }, async () => by);
      const slow = await step.run({ name: "slow" }, async () => {
        if (input.hold !== undefined && (input.by === undefined || input.by === by)) {
          while (existsSync(input.hold)) await delay(10);
        }
        return by;
      });
      return { first, slow };
    }),

    defineWorkflow({ name: "busy" }, async ({ input, step }) => {
      const made = [];
      for (let index = 0; index < input.steps; index += 1) {
        made.push(await step.run({ name: `step-${index}` }, async () => `${input.run}.${index}`));
      }
      await step.sleep("breath", "20ms");
      made.push(await step.run({ name: "last" }, async () => `${input.run}.last`));
      return made;
    }),

    defineWorkflow({ name: "cap" }, async ({ input, step }) => {
      for (let index = 0; index < input.before; index += 1) {
        await step.run({ name: `step-${index}` }, async () => index);
      }
      await step.waitForSignal({ signal: input.signal });
      for (let index = input.before; index < 1010; index += 1) {
        await step.run({ name: `step-${index}` }, async () => index);
      }
    }),

    // It cannot continue as a new run.
    defineWorkflow({ name: "rounds" }, async ({ input, step }) => {
      await step.run({ name: "round" }, async () => by);
      if (input.signal !== undefined) await step.waitForSignal({ signal: input.signal });
      return { by, left: input.left };
    }),
  ];
}

function send(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// Each line is answered when it is done, in whatever order.
for await (const line of createInterface({ input: process.stdin })) {
  const { id, operation, ...args } = JSON.parse(line);
  operations[operation](args).then(
    (value) => send({ id, value: value ?? null }),
    (error) => send({ id, error: { name: error.name, message: error.message, code: error.code } }),
  );
}
// Whoever started this process is gone.
process.exit();
