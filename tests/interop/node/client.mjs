// A client in Node, as its developers write one: @grpc/grpc-js, and messages read from the .proto
// files by @grpc/proto-loader. The variable INTEROP has what it needs, as JSON.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const given = JSON.parse(process.env.INTEROP);
const KEEPALIVE_MS = 10_000;
const LARGEST_MINOR = 10n ** 12n - 1n;
const OCCURRED_AT = { seconds: "1767261600" };

// keepCase: names as in the .proto files. longs: an int64 may be above 2^53.
const definition = loader.loadSync(
  ["ledger/v1/ledger.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
  { keepCase: true, longs: String, enums: String, defaults: true, includeDirs: given.protos },
);
const { LedgerService } = grpc.loadPackageDefinition(definition).ledger.v1;

const tls = grpc.credentials.createSsl(readFileSync(given.ca));
const serviceConfig = readFileSync(given.service_config, "utf8");

function connect(address = given.plain, credentials = grpc.credentials.createInsecure(), more = {}) {
  return new LedgerService(address, credentials, { "grpc.service_config": serviceConfig, ...more });
}

// The methods take a callback; this is one call as a promise. An error has `details` decoded.
function call(client, method, request, metadata = new grpc.Metadata(), options = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, metadata, options, (error, response) =>
      error ? reject(explained(error)) : resolve(response),
    );
  });
}

function explained(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  error.decoded = bytes ? details(definition["google.rpc.Status"].deserialize(bytes)) : {};
  return error;
}

function details(status) {
  const found = {};
  for (const { type_url, value } of status.details) {
    const name = type_url.split("/").pop();
    found[name.split(".").pop()] = definition[name].deserialize(value);
  }
  return found;
}

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the call was not refused");
}

function charge(name, more = {}) {
  return {
    event_id: `${given.prefix}:${name}`,
    type: "EVENT_TYPE_CHARGE_SUCCEEDED",
    restaurant_id: `${given.prefix}-res`,
    currency: "PEN",
    amount_minor: "1250",
    fee_minor: "100",
    occurred_at: OCCURRED_AT,
    ...more,
  };
}

const client = connect();

const checks = {
  async "an event is booked once"() {
    const event = charge("once");
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => call(client, "IngestEvent", { event })),
    );
    const statuses = answers.map((answer) => answer.status).sort();
    assert.deepEqual(statuses, ["INGEST_STATUS_CREATED", ...Array(7).fill("INGEST_STATUS_DUPLICATE")]);
    assert.equal(new Set(answers.map((answer) => answer.transaction_id)).size, 1);
  },

  async "error details are decoded"() {
    const other = charge("once", { amount_minor: "1300" });
    const reused = await refused(call(client, "IngestEvent", { event: other }));
    assert.equal(reused.code, grpc.status.ALREADY_EXISTS);
    assert.equal(reused.decoded.ErrorInfo.reason, "EVENT_ID_REUSED");
    assert.equal(reused.decoded.ErrorInfo.domain, "ledger.v1");
    const bad = await refused(call(client, "IngestEvent", { event: { currency: "pen" } }));
    assert.equal(bad.code, grpc.status.INVALID_ARGUMENT);
    const fields = bad.decoded.BadRequest.field_violations.map((violation) => violation.field);
    assert.ok(fields.includes("event.currency") && fields.includes("event.event_id"), fields);
  },

  async "an int64 above 2^53 is exact"() {
    const restaurant_id = `${given.prefix}-large`;
    const large = { restaurant_id, amount_minor: LARGEST_MINOR.toString(), fee_minor: "0" };
    for (let batch = 0; batch < 10; batch += 1) {
      const events = Array.from({ length: 901 }, (_, number) => charge(`${batch}-${number}`, large));
      await call(client, "BatchIngestEvents", { events });
    }
    const event = charge("odd", { ...large, amount_minor: "3" });
    await call(client, "IngestEvent", { event });
    const balance = await call(client, "GetBalance", { restaurant_id, currency: "PEN" });
    const total = BigInt(balance.available_minor) + BigInt(balance.pending_minor);
    assert.equal(total, 9010n * LARGEST_MINOR + 3n);
    assert.ok(total > 2n ** 53n && BigInt(Number(total)) !== total);
  },

  async "a type that the server does not know is named"() {
    const unknown = await refused(call(client, "IngestEvent", { event: charge("new", { type: 999 }) }));
    assert.equal(unknown.decoded.ErrorInfo.reason, "EVENT_TYPE_UNKNOWN");
  },

  async "a deadline ends a call"() {
    const late = await refused(
      call(client, "IngestEvent", { event: charge("late") }, undefined, { deadline: Date.now() - 1 }),
    );
    assert.equal(late.code, grpc.status.DEADLINE_EXCEEDED);
    const repeated = await call(client, "IngestEvent", { event: charge("late") });
    assert.match(repeated.status, /CREATED|DUPLICATE/);
  },

  async "a cancelled call is repeated"() {
    const event = charge("cancelled");
    const error = await new Promise((resolve) => {
      const open = client.IngestEvent({ event }, (failure) => resolve(failure));
      setImmediate(() => open.cancel());
    });
    assert.ok(error === null || error.code === grpc.status.CANCELLED, `${error}`);
    const repeated = await call(client, "IngestEvent", { event });
    assert.match(repeated.status, /CREATED|DUPLICATE/);
    const again = await call(client, "IngestEvent", { event });
    assert.equal(again.status, "INGEST_STATUS_DUPLICATE");
    assert.equal(again.transaction_id, repeated.transaction_id);
  },

  async "a stream acknowledges every event"() {
    const events = Array.from({ length: 300 }, (_, number) => charge(`stream-${number}`));
    const stream = client.StreamEvents();
    const acknowledged = new Promise((resolve, reject) => {
      const results = [];
      stream.on("data", ({ result }) => results.push(result));
      stream.on("error", reject);
      stream.on("end", () => resolve(results));
    });
    for (const event of events) {
      // False: the ledger is slower than this loop. Wait until it has read what was sent.
      if (!stream.write({ event })) await new Promise((resolve) => stream.once("drain", resolve));
    }
    stream.end();
    const results = await acknowledged;
    assert.equal(results.length, 300);
    assert.ok(results.every((result) => result.status === "INGEST_STATUS_CREATED"));
    const last = await call(client, "IngestEvent", { event: events[299] });
    assert.equal(last.transaction_id, results[299].transaction_id);
  },

  async "a batch has a result for each event"() {
    const events = Array.from({ length: 50 }, (_, number) => charge(`batch-${number}`));
    events[7] = charge("batch-7", { currency: "XXX" });
    const { results } = await call(client, "BatchIngestEvents", { events });
    assert.equal(results.length, 50);
    assert.equal(results.filter((one) => one.status === "INGEST_STATUS_CREATED").length, 49);
    const decoded = details(results[7].error);
    assert.equal(decoded.BadRequest.field_violations[0].field, "events[7].currency");
  },

  async "a list is paged through"() {
    const reference = `${given.prefix}-order`;
    const events = Array.from({ length: 20 }, (_, number) => charge(`page-${number}`, { reference }));
    await call(client, "BatchIngestEvents", { events });
    const found = [];
    const request = { reference, page_size: 7, page_token: "" };
    do {
      const page = await call(client, "ListEvents", request);
      found.push(...page.events.map((listed) => listed.event.event_id));
      request.page_token = page.next_page_token;
    } while (request.page_token);
    assert.deepEqual(found.sort(), events.map((event) => event.event_id).sort());
  },

  async "what is too large is refused, and the connection stays"() {
    const events = Array.from({ length: 1000 }, (_, number) =>
      charge(`heavy-${number}`, { metadata: { note: "x".repeat(4600) } }),
    );
    const heavy = await refused(call(client, "BatchIngestEvents", { events }));
    assert.equal(heavy.code, grpc.status.RESOURCE_EXHAUSTED);
    const metadata = new grpc.Metadata();
    metadata.set("x-note", "x".repeat(20_000));
    const many = await refused(call(client, "IngestEvent", { event: charge("note") }, metadata));
    assert.notEqual(many.code, grpc.status.OK);
    const answer = await call(client, "IngestEvent", { event: charge("after") });
    assert.equal(answer.status, "INGEST_STATUS_CREATED");
  },

  async "TLS and a token are needed where the server asks for them"() {
    const without = connect(given.tls, tls);
    const unknown = await refused(call(without, "IngestEvent", { event: charge("tls") }));
    assert.equal(unknown.code, grpc.status.UNAUTHENTICATED);
    assert.equal(unknown.decoded.ErrorInfo.reason, "NOT_AUTHENTICATED");
    const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
      const metadata = new grpc.Metadata();
      metadata.set("authorization", `Bearer ${given.token}`);
      done(null, metadata);
    });
    const known = connect(given.tls, grpc.credentials.combineChannelCredentials(tls, token));
    const answer = await call(known, "IngestEvent", { event: charge("tls") });
    assert.equal(answer.status, "INGEST_STATUS_CREATED");
    const scope = await refused(call(known, "ListRestaurants", {}));
    assert.equal(scope.decoded.ErrorInfo.reason, "SCOPE_MISSING");
    const plain = connect(given.tls);
    const refusal = await refused(
      call(plain, "IngestEvent", { event: charge("tls") }, undefined, { deadline: Date.now() + 3000 }),
    );
    assert.match(`${refusal.code}`, /^(4|14)$/);
    for (const open of [without, known, plain]) open.close();
  },
};

if (!given.short) {
  // Last: it takes as long as three pings.
  checks["pings every ten seconds are accepted"] = async () => {
    const pinging = connect(given.plain, undefined, {
      "grpc.keepalive_time_ms": KEEPALIVE_MS,
      "grpc.keepalive_permit_without_calls": 1,
    });
    const stream = pinging.StreamEvents();
    let ended = null;
    const acknowledged = new Promise((resolve) => stream.once("data", resolve));
    stream.on("error", (error) => (ended = error));
    stream.write({ event: charge("pinging") });
    await acknowledged;
    await new Promise((resolve) => setTimeout(resolve, 3.2 * KEEPALIVE_MS));
    assert.equal(ended, null);
    stream.end();
    pinging.close();
  };
}

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.message.replaceAll("\n", " ")}`);
  }
}
client.close();
process.exit(failed ? 1 : 0);
