/** A service for tests: with a Postgres of its own, and a clock that can be moved. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import type { Client } from "./client.js";
import { ClockService } from "./gen/stepwell/v1/clock_pb.js";
import { durationOf, type Milliseconds } from "./times.js";

const START_TIME = 60_000;
const END_TIME = 20_000;
const ANNOUNCED = /serves on (\S+:\d+)/;

/** There is no stepwell-server to start. */
export class NotInstalled extends Error {
  override name = "NotInstalled";
}

/** A running service. */
export class Server {
  private constructor(
    /** Where it serves, such as "127.0.0.1:40123". */
    readonly address: string,
    private readonly process: ChildProcess,
    private readonly folder: string,
  ) {}

  /**
   * Starts a service on a free port, in a folder of its own that `stop` removes. The program is the one that
   * STEPWELL_SERVER names, else `stepwell-server` on the PATH; throws NotInstalled if there is none. What it says is
   * shown if STEPWELL_SERVER_LOG is set.
   */
  static async start(environment: Readonly<Record<string, string>> = {}): Promise<Server> {
    const folder = await mkdtemp(join(tmpdir(), "stepwell-"));
    // Postgres of root's runs as another account, which must be let in.
    await chmod(folder, 0o755);
    const program = process.env["STEPWELL_SERVER"] ?? "stepwell-server";
    const told = process.env["STEPWELL_SERVER_LOG"] ? "inherit" : "ignore";
    const child = spawn(program, ["dev", "--data-dir", join(folder, "data"), "--port", "0", "--test-clock"], {
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", told],
    });
    try {
      return new Server(await announced(child), child, folder);
    } catch (error) {
      child.kill("SIGKILL");
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Ends the service and removes its folder. */
  async stop(): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const ended = new Promise((resolve) => this.process.once("exit", resolve));
      this.process.kill("SIGTERM");
      const timer = setTimeout(() => this.process.kill("SIGKILL"), END_TIME);
      await ended;
      clearTimeout(timer);
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

async function announced(child: ChildProcess): Promise<string> {
  const timer = setTimeout(() => child.kill("SIGKILL"), START_TIME);
  try {
    await once(child, "spawn");
    for await (const line of createInterface({ input: child.stdout! })) {
      const address = ANNOUNCED.exec(line)?.[1];
      if (address) return address;
    }
  } catch (error) {
    const advice = "stepwell-server is not installed: pip install 'stepwell-server[embedded]', or name it by STEPWELL_SERVER";
    throw (error as NodeJS.ErrnoException).code === "ENOENT" ? new NotInstalled(advice) : error;
  } finally {
    clearTimeout(timer);
    // So that it never waits to be read.
    child.stdout!.resume();
  }
  throw new Error("stepwell-server did not serve (in time); STEPWELL_SERVER_LOG=1 shows what it says");
}

/** Moves the service's clock forward, and with it all timers, timeouts and schedules. */
export async function advance(client: Client, by: Milliseconds): Promise<void> {
  await client.invoke(client.stub(ClockService).advanceClock, { by: durationOf(by)! });
}
