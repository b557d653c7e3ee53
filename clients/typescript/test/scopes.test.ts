import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { chained, EMPTY_HASH } from "../src/scopes.js";

interface Vector {
  about: string;
  calls: { kind: number; name: string; fingerprint?: string }[];
  hashes: string[];
}

test("the order hash is that of the vectors beside the proto", () => {
  const text = readFileSync(new URL("../../../../proto/order_hash.json", import.meta.url), "utf8");
  const { vectors } = JSON.parse(text) as { vectors: Vector[] };
  assert.ok(vectors.length > 5);
  for (const { about, calls, hashes } of vectors) {
    let order = EMPTY_HASH;
    const got = [order, ...calls.map(({ kind, name, fingerprint }) => (order = chained(order, kind, name, Buffer.from(fingerprint ?? "", "hex"))))];
    assert.deepEqual(got.map((each) => Buffer.from(each).toString("hex")), hashes, about);
  }
});
