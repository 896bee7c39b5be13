// The simulator judged by the vendors: Prism, made from their documents, stands between a caller
// and the simulator and turns every violation, of a request or of an answer, into an error; then
// the vendors' own clients talk to the simulator, and check what its webhooks are signed with.
"use strict";
const { spawn, execFileSync } = require("child_process");
const assert = require("assert");
const fs = require("fs");
const http = require("http");
const net = require("net");
const os = require("os");
const path = require("path");
const { getHttpOperationsFromSpec } = require("@stoplight/prism-http");
const { createServer } = require("@stoplight/prism-http-server");
const { createLogger } = require("@stoplight/prism-core");

const SIMULATOR = path.resolve(__dirname, "../../tools/simulator");
const ACCOUNT = "AC" + "5".repeat(32), AUTH = "simulator-auth-token";
const LOCATION = "simLocation000000001", NUMBER = "+12125550100";
const GHL_HEADERS = { Authorization: "Bearer pit-simulator", Version: "2021-07-28" };
const logger = createLogger("contract", { enabled: false });
let failures = 0, tests = 0;

async function test(name, run) {
  tests += 1;
  try {
    await run();
    console.log("ok   " + name);
  } catch (e) {
    failures += 1;
    console.log("FAIL " + name + "\n     " + String(e.message || e).replace(/\n/g, "\n     "));
  }
}

const freePort = () => new Promise((done) => {
  const s = net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = s.address();
    s.close(() => done(port));
  });
});

async function until(what, test, seconds = 8) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end;) {
    const found = test();
    if (found) return found;
    await new Promise((r) => setTimeout(r, 30));
  }
  throw new Error("waited in vain for " + what);
}

// A proxy from a document to a part of the simulator; answers a function to call it with.
async function through(spec, upstream) {
  const operations = await getHttpOperationsFromSpec(path.join(__dirname, "specs", spec + ".json"));
  const server = createServer(operations, {
    components: { logger }, cors: false,
    config: { isProxy: true, upstream: new URL(upstream), checkSecurity: true, errors: true,
      validateRequest: true, validateResponse: true, mock: { dynamic: false } },
  });
  const port = await freePort();
  await server.listen(port, "127.0.0.1");
  const call = async (method, target, { headers = {}, body, form, status = 200 } = {}) => {
    const options = { method, headers: { ...headers } };
    if (form) {
      options.body = new URLSearchParams(form).toString();
      options.headers["Content-Type"] = "application/x-www-form-urlencoded";
    } else if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers["Content-Type"] = "application/json";
    }
    const answer = await fetch(`http://127.0.0.1:${port}${target}`, options);
    const text = await answer.text();
    const violations = answer.headers.get("sl-violations");
    assert.equal(answer.status, status,
      `${method} ${target}: ${answer.status} ${text.slice(0, 700)}`);
    assert.ok(!violations, `${method} ${target}: ${violations}`);
    return text && /json/.test(answer.headers.get("content-type")) ? JSON.parse(text) : text;
  };
  call.close = () => server.close();
  return call;
}

async function main() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "contract-"));
  const got = [];
  const hooks = http.createServer((request, answer) => {
    const parts = [];
    request.on("data", (d) => parts.push(d)).on("end", () => {
      got.push({ url: request.url, headers: request.headers, body: Buffer.concat(parts) });
      answer.writeHead(204).end();
    });
  });
  await new Promise((done) => hooks.listen(0, "127.0.0.1", done));
  const publicUrl = "http://127.0.0.1:" + hooks.address().port;
  const port = await freePort();
  const base = `http://127.0.0.1:${port}`;
  const started = new Date(Date.now()).toISOString();
  const options = ["--port", port, "--clock", `2026-06-01T12:00:00Z@${started}*3000`,
    "--books", path.join(folder, "books.jsonl"), "--public-url", publicUrl, "--customers", 80];
  const simulator = spawn("python3", [SIMULATOR, ...options.map(String)], { stdio: "inherit" });
  process.on("exit", () => simulator.kill("SIGKILL"));
  for (let tries = 0; ; tries++) {
    try {
      await fetch(base + "/sim/state");
      break;
    } catch (e) {
      if (tries > 100) throw e;
      await new Promise((r) => setTimeout(r, 50));
    }
  }
  try {
    await serviceTitan(base);
    await highLevel(base);
    await twilio(base, publicUrl, got);
    await sendGrid(base, got);
  } finally {
    simulator.kill("SIGTERM");
    hooks.close();
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

async function serviceTitan(base) {
  const form = { grant_type: "client_credentials", client_id: "sim-client",
    client_secret: "sim-secret" };
  const token = await (await fetch(base + "/st-auth/connect/token", {
    method: "POST", body: new URLSearchParams(form) })).json();
  const headers = { Authorization: "Bearer " + token.access_token, "ST-App-Key": "ak1.simulator" };
  const lists = {
    crm: ["customers", "customers/contacts?modifiedOnOrAfter=2026-01-01T00:00:00Z", "locations",
      "locations/contacts?modifiedOnOrAfter=2026-01-01T00:00:00Z", "leads"],
    jpm: ["jobs", "appointments", "job-types"], sales: ["estimates"], accounting: ["invoices"],
    dispatch: ["appointment-assignments"],
    settings: ["technicians", "business-units", "tag-types", "employees"],
    marketing: ["campaigns"],
  };
  const exports_ = {
    crm: ["customers", "customers/contacts", "locations", "locations/contacts"],
    jpm: ["jobs", "appointments", "job-canceled-logs", "job-history"], sales: ["estimates"],
    accounting: ["invoices"], dispatch: ["appointment-assignments"],
    settings: ["technicians", "business-units", "employees"], marketing: [],
  };
  for (const module of Object.keys(lists)) {
    const call = await through("servicetitan-" + module + "-v2", `${base}/st/${module}/v2`);
    for (const list of lists[module]) {
      await test(`ServiceTitan ${module} ${list.split("?")[0]}`, async () => {
        const mark = list.includes("?") ? "&" : "?";
        const page = await call("GET", `/tenant/1001/${list}${mark}page=1&pageSize=25`,
          { headers });
        assert.ok(list === "leads" || list === "employees" || page.data.length > 0);
        const single = ["customers", "locations", "jobs", "appointments", "job-types", "estimates",
          "technicians", "business-units", "campaigns"];
        if (single.includes(list))
          await call("GET", `/tenant/1001/${list}/${page.data[0].id}`, { headers });
        if (list === "customers" || list === "locations")
          await call("GET", `/tenant/1001/${list}/${page.data[0].id}/contacts`, { headers });
      });
    }
    for (const feed of exports_[module])
      await test(`ServiceTitan ${module} export/${feed}`, () =>
        call("GET", `/tenant/1001/export/${feed}?from=2020-01-01`, { headers }));
    if (module === "crm")
      await test("ServiceTitan's errors", async () => {
        await call("GET", "/tenant/1001/customers?pageSize=6000", { headers, status: 400 });
        await call("GET", "/tenant/1001/customers/5", { headers, status: 404 });
        await call("GET", "/tenant/1001/customers", { headers: {}, status: 401 });
      });
    await call.close();
  }
}

async function highLevel(base) {
  const headers = GHL_HEADERS;
  const contacts = await through("gohighlevel-contacts-v2", base + "/ghl");
  let contact;
  await test("HighLevel contacts by their document", async () => {
    const fields = [{ key: "st_customer_id", field_value: "5" }];
    const made = await contacts("POST", "/contacts/upsert", { headers, body: {
      locationId: LOCATION, firstName: "Ann", lastName: "Lee", phone: "+12125551234",
      email: "ann@example.com", tags: ["Customer"], customFields: fields, country: "US" } });
    contact = made.contact.id;
    await contacts("POST", "/contacts/", { headers, status: 201, body: {
      locationId: LOCATION, name: "Ben Fox", phone: "+12125551235" } });
    await contacts("POST", "/contacts/", { headers, status: 400, body: {
      locationId: LOCATION, phone: "+12125551235" } });
    await contacts("GET", "/contacts/" + contact, { headers });
    await contacts("PUT", "/contacts/" + contact, { headers, body: { lastName: "Leed" } });
    await contacts("POST", `/contacts/${contact}/tags`, { headers, status: 201,
      body: { tags: ["vip"] } });
    await contacts("DELETE", `/contacts/${contact}/tags`, { headers, body: { tags: ["vip"] } });
    await contacts("POST", "/contacts/search", { headers, body: { locationId: LOCATION } });
    await contacts("GET", `/contacts/search/duplicate?locationId=${LOCATION}&number=%2B12125551234`,
      { headers });
    await contacts("GET", "/contacts/?locationId=" + LOCATION, { headers });
    await contacts("GET", "/contacts/nobody", { headers, status: 400 });
    await contacts("GET", "/contacts/" + contact, { status: 401,
      headers: { ...headers, Authorization: "Bearer wrong" } });
  });
  await contacts.close();
  const opportunities = await through("gohighlevel-opportunities-v2", base + "/ghl");
  await test("HighLevel opportunities by their document", async () => {
    const { pipelines } = await opportunities("GET",
      "/opportunities/pipelines?locationId=" + LOCATION, { headers });
    const made = await opportunities("POST", "/opportunities/", { headers, status: 201, body: {
      locationId: LOCATION, pipelineId: pipelines[0].id, pipelineStageId: pipelines[0].stages[1].id,
      name: "Heat pump", status: "open", contactId: contact, monetaryValue: 1200.5,
      customFields: [{ key: "st_estimate_id", field_value: "77" }] } });
    const id = made.opportunity.id;
    await opportunities("PUT", "/opportunities/" + id, { headers, body: {
      pipelineId: pipelines[1].id, pipelineStageId: pipelines[1].stages[0].id } });
    await opportunities("PUT", `/opportunities/${id}/status`, { headers, body: { status: "won" } });
    await opportunities("GET", "/opportunities/" + id, { headers });
    await opportunities("GET", "/opportunities/search?location_id=" + LOCATION, { headers });
  });
  await opportunities.close();
  const locations = await through("gohighlevel-locations-v2", base + "/ghl");
  await test("HighLevel custom fields by their document", async () => {
    await locations("GET", "/locations/" + LOCATION, { headers });
    await locations("GET", `/locations/${LOCATION}/customFields?model=all`, { headers });
    await locations("POST", `/locations/${LOCATION}/customFields`, { headers, status: 201,
      body: { name: "Color", dataType: "TEXT", model: "contact" } });
  });
  await locations.close();
  await test("HighLevel's own client", async () => {
    const { HighLevel } = require("@gohighlevel/api-client");
    HighLevel.BASE_URL = base + "/ghl";
    const client = new HighLevel({ privateIntegrationToken: "pit-simulator",
      apiVersion: "2021-07-28" });
    const upserted = await client.contacts.upsertContact({ locationId: LOCATION,
      email: "client@example.com", firstName: "Client" });
    assert.equal(upserted.new, true);
    const id = upserted.contact.id;
    assert.equal((await client.contacts.getContact({ contactId: id })).contact.email,
      "client@example.com");
    const { pipelines } = await client.opportunities.getPipelines({ locationId: LOCATION });
    const made = await client.opportunities.createOpportunity({ locationId: LOCATION,
      pipelineId: pipelines[0].id, name: "By the client", status: "open", contactId: id });
    assert.ok(made.opportunity.id);
    const say = console.error;
    console.error = () => {};                    // the client prints every refusal at length
    await assert.rejects(client.contacts.createContact({ locationId: LOCATION,
      email: "client@example.com" }), (e) => e.statusCode === 400);
    console.error = say;
  });
}

async function twilio(base, publicUrl, got) {
  const basic = Buffer.from(`${ACCOUNT}:${AUTH}`).toString("base64");
  const headers = { Authorization: "Basic " + basic };
  const call = await through("twilio-messages", base + "/twilio");
  const messages = `/2010-04-01/Accounts/${ACCOUNT}/Messages`;
  await test("Twilio messages by their document", async () => {
    const sent = await call("POST", messages + ".json", { headers, status: 201,
      form: { To: "+12125559001", From: NUMBER, Body: "Hello" } });
    await call("GET", `${messages}/${sent.sid}.json`, { headers });
    await call("GET", messages + ".json?PageSize=10", { headers });
  });
  await call.close();
  await test("Twilio's own client, and its check of our callbacks", async () => {
    const library = require("twilio");
    const client = library(ACCOUNT, AUTH);
    client.api.baseUrl = base + "/twilio";
    const callback = publicUrl + "/hooks/twilio/status?m=1";
    const sent = await client.messages.create({ to: "+12125559002", from: NUMBER, body: "Hello",
      statusCallback: callback });
    assert.match(sent.sid, /^SM/);
    const listed = await client.messages.list({ to: "+12125559002", limit: 5 });
    assert.deepEqual(listed.map((m) => m.sid), [sent.sid]);
    await assert.rejects(client.messages.create({ to: "123", from: NUMBER, body: "x" }),
      (e) => e.code === 21211 && e.status === 400);
    const hook = await until("a status callback", () => got.find((g) =>
      g.url === "/hooks/twilio/status?m=1"));
    const params = Object.fromEntries(new URLSearchParams(hook.body.toString()));
    assert.ok(library.validateRequest(AUTH, hook.headers["x-twilio-signature"], callback, params));
    assert.ok(!library.validateRequest(AUTH, hook.headers["x-twilio-signature"], callback + "2",
      params));
  });
}

async function sendGrid(base, got) {
  const headers = { Authorization: "Bearer SG.simulator" };
  const call = await through("sendgrid-mail-v3", base + "/sendgrid");
  const mail = { personalizations: [{ to: [{ email: "ann@example.com", name: "Ann" }],
    custom_args: { m: "7" } }], from: { email: "office@brightair.example", name: "Bright Air" },
  subject: "Hello", content: [{ type: "text/plain", value: "Hi" },
    { type: "text/html", value: "<p>Hi</p>" }] };
  await test("SendGrid mail by its document", async () => {
    await call("POST", "/v3/mail/send", { headers, status: 202, body: mail });
    await call("POST", "/v3/mail/send", { headers: { Authorization: "Bearer wrong" }, status: 401,
      body: mail });
  });
  await call.close();
  await test("SendGrid's own clients, and their check of our events", async () => {
    const client = require("@sendgrid/mail");
    client.setApiKey("SG.simulator");
    client.client.setDefaultRequest("baseUrl", base + "/sendgrid");
    const [answer] = await client.send({ to: "ben@example.com", from: "office@brightair.example",
      subject: "Hello", text: "Hi", customArgs: { m: "8" } });
    assert.equal(answer.statusCode, 202);
    const id = answer.headers["x-message-id"];
    const hook = await until("an event", () => got.find((g) =>
      g.url === "/hooks/sendgrid" && g.body.includes(id)));
    const { EventWebhook, EventWebhookHeader } = require("@sendgrid/eventwebhook");
    const settings = execFileSync("python3", [SIMULATOR, "env"]).toString();
    const checker = new EventWebhook();
    const key = checker.convertPublicKeyToECDSA(
      settings.match(/SENDGRID_WEBHOOK_PUBLIC_KEY=(.*)/)[1]);
    const signature = hook.headers[EventWebhookHeader.SIGNATURE().toLowerCase()];
    const stamp = hook.headers[EventWebhookHeader.TIMESTAMP().toLowerCase()];
    assert.ok(checker.verifySignature(key, hook.body, signature, stamp));
    assert.ok(!checker.verifySignature(key, hook.body + " ", signature, stamp));
  });
}

main().then(() => {
  console.log(`${tests - failures} of ${tests} passed`);
  process.exit(failures ? 1 : 0);
}, (e) => {
  console.error(e);
  process.exit(1);
});
