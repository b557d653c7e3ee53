/** Stepwell for TypeScript: a client that starts runs and hears of their ends, and a worker that runs their code. */

export { type ActivityContext, type ActivityFunction } from "./activities.js";
export { type Tls } from "./calls.js";
export { Client, type ClientOptions } from "./client.js";
export * from "./errors.js";
export { type WorkflowFunction } from "./execution.js";
export { Job, type JobEnd, type JobOptions } from "./jobs.js";
export { type Codec, type Converter } from "./payloads.js";
export { type RetryPolicy } from "./policies.js";
export { type Log } from "./held.js";
export { Run, type StartOptions } from "./runs.js";
export { type Milliseconds } from "./times.js";
export { Worker, type WorkerOptions } from "./worker.js";
export type * from "./workflow.js";
