/** Errors as the protocol has them, and back. */

import { inspect } from "node:util";

import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import { ApplicationError, ServiceError, StepError } from "./errors.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import type { Status } from "./gen/google/rpc/status_pb.js";
import { type Failure, FailureSchema } from "./gen/stepwell/v1/types_pb.js";
import type { Converter } from "./payloads.js";
import { durationOf, milliseconds } from "./times.js";

/** Of each text in a failure, so that it can always be told. */
const MOST_LENGTH = 16_000;

/** Spells what was thrown as the protocol has it, whatever it is. */
export function failureOf(thrown: unknown, converter: Converter): Failure {
  const error = thrown instanceof Error ? thrown : new Error(typeof thrown === "string" ? thrown : inspect(thrown));
  const stackTrace = cut(error.stack ?? "");
  const failure = create(FailureSchema, { message: cut(error.message), type: cut(error.name), stackTrace });
  if (error instanceof ApplicationError) {
    failure.type = cut(error.type);
    failure.nonRetryable = error.nonRetryable;
    try {
      failure.nextRetryDelay = durationOf(error.retryAfter);
      if (error.details !== undefined) failure.details = converter.toPayload(error.details);
    } catch (problem) {
      failure.message = `${failure.message} (the rest of the failure can't be told: ${problem})`;
    }
  } else if (error instanceof StepError) {
    failure.details = error.failure.details;
  }
  return failure;
}

function cut(text: unknown): string {
  return Buffer.from(String(text).slice(0, MOST_LENGTH)).toString();
}

/** What a server that ends has not taken in: in Node's own words, which Connect gives on as an internal error. */
const NOT_TAKEN = /NGHTTP2_REFUSED_STREAM$/;

/** Reads what a call failed with. */
export function fromRpc(error: unknown): ServiceError {
  if (error instanceof ServiceError) return error;
  const told = ConnectError.from(error);
  const [info] = told.findDetails(ErrorInfoSchema);
  const [retry] = told.findDetails(RetryInfoSchema);
  const [bad] = told.findDetails(BadRequestSchema);
  const fields = Object.fromEntries((bad?.fieldViolations ?? []).map((each) => [each.field, each.description]));
  const advice = retry?.retryDelay && milliseconds(retry.retryDelay);
  const code = NOT_TAKEN.test(told.rawMessage) ? Code.Unavailable : told.code;
  return new ServiceError(code, told.rawMessage, info?.reason, info?.metadata, fields, advice);
}

/** Reads an error as it stands in an answer. */
export function fromStatus(status: Status | undefined): ServiceError {
  const error = new ConnectError(status?.message ?? "", status?.code ?? Code.Unknown);
  error.details = (status?.details ?? []).map(({ typeUrl, value }) => ({ type: typeUrl.replace(/^.*\//, ""), value }));
  return fromRpc(error);
}
