/** The workflow of this language: it has pages rendered, by this language's workers, and hashed, by those of Go. */

import type { WorkflowContext } from "stepwell";

import type { Page } from "./pages.js";

/** What the workflow `publish` hands down. */
export interface Order {
  source: string;
  target: string;
  names: string[];
}

export interface Rendered {
  pages: Page[];
  /** The SHA-256 of each page in hexadecimal digits, by the page's name. */
  digests: Record<string, string>;
}

export async function render(ctx: WorkflowContext, order: Order): Promise<Rendered> {
  const { source, target, names } = order;
  const pages = await ctx.map(names, (ctx, name) => ctx.activity<Page>("page", { source, target, name }), { limit: 8 });
  const files = { folder: target, names: pages.map(({ name }) => name) };
  return { pages, digests: await ctx.activity<Record<string, string>>("digest", files) };
}
