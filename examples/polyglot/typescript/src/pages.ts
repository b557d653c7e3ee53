/** The activities of this language: Markdown becomes HTML. */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { trace } from "@opentelemetry/api";
import { marked, type Tokens } from "marked";

// Makes the spans of this program itself; those of activities come from the client.
const tracer = trace.getTracer("polyglot");

export interface Page {
  /** Of the file that was written. */
  name: string;
  title: string;
}

/** Renders one page. */
export async function page(input: { source: string; target: string; name: string }): Promise<Page> {
  const markdown = await readFile(join(input.source, input.name), "utf8");
  const name = input.name.replace(/\.md$/, ".html");
  const { title, body } = tracer.startActiveSpan("parse", (span) => {
    try {
      const tokens = marked.lexer(markdown);
      const heading = tokens.find((token): token is Tokens.Heading => token.type === "heading");
      return { title: heading?.text ?? name, body: marked.parser(tokens) };
    } finally {
      span.end();
    }
  });
  await writeFile(join(input.target, name), whole(title, body));
  return { name, title };
}

export interface Entry extends Page {
  digest: string;
  words: number;
}

/** Writes the table of contents, and gives its name. */
export async function contents(input: { target: string; entries: Entry[] }): Promise<string> {
  const lines = input.entries.map(
    ({ name, title, digest, words }) =>
      `<li><a href="${name}">${escaped(title)}</a>: ${words} words <code>${digest.slice(0, 12)}</code></li>`,
  );
  const name = "index.html";
  await writeFile(join(input.target, name), whole("Contents", `<h1>Contents</h1>\n<ol>\n${lines.join("\n")}\n</ol>\n`));
  return name;
}

function whole(title: string, body: string): string {
  return `<!doctype html>\n<meta charset="utf-8">\n<title>${escaped(title)}</title>\n${body}`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
