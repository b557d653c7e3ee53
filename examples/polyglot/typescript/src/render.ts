/** The workflow of this language: it has pages rendered, by this language's workers, and hashed, by those of Go. */

import { trace } from "@opentelemetry/api";
import type { WorkflowContext } from "stepwell";

import type { Page } from "./pages.js";

const tracer = trace.getTracer("polyglot");

/** What the workflow `publish` hands down. */
export interface Order {
  source: string;
  target: string;
  names: string[];
}

export interface Rendered {
  pages: Page[];
  /** All titles in the order of the alphabet. */
  titles: string[];
  /** The SHA-256 of each page in hexadecimal digits, by the page's name. */
  digests: Record<string, string>;
}

export async function render(ctx: WorkflowContext, order: Order): Promise<Rendered> {
  const { source, target, names } = order;
  const pages = await ctx.map(names, (ctx, name) => ctx.activity<Page>("page", { source, target, name }), { limit: 8 });
  const titles = await ctx.step("sort", () => sorted(pages));
  const files = { folder: target, names: pages.map(({ name }) => name) };
  return { pages, titles, digests: await ctx.activity<Record<string, string>>("digest", files) };
}

function sorted(pages: readonly Page[]): string[] {
  return tracer.startActiveSpan("sort", (span) => {
    try {
      return pages.map(({ title }) => title).sort((one, other) => one.localeCompare(other, "en"));
    } finally {
      span.end();
    }
  });
}
