/** The TypeScript worker of the polyglot demo: it renders Markdown. */

import { Client, Worker } from "stepwell";

import { contents, page } from "./pages.js";
import { render } from "./render.js";
import { setUpTracing } from "./tracing.js";

const QUEUE = "polyglot";

const flush = setUpTracing();
const client = new Client(process.env["STEPWELL_ADDRESS"]!);
const worker = new Worker(client, {
  taskQueues: [QUEUE],
  workflows: { render },
  activities: { page, contents },
});
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => worker.shutdown());
try {
  await worker.run();
} finally {
  client.close();
  await flush();
}
