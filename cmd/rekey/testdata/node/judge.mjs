// A webhook receiver and a NATS subscriber in one, made of libraries that others wrote: two that verify signatures, one
// that opens what is sealed, and the ed25519 and HMAC of node itself. It answers as docs/webhooks.md tells a receiver to.
//
// Standard input has commands, one JSON object a line: {trust: {name, path, key}} adds a signing secret (whsec_) or public
// key (whpk_) of the endpoint at a path, {hold: path} has answers to new secrets there wait until {release: path},
// {status: path, code} has all be answered with that, and {judge: true} has every message so far judged by every key so
// far. Standard output has what it did. The end of standard input ends the program.
import { createHmac, createPublicKey, randomBytes, verify } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";
import { connect } from "nats";
import { Webhook } from "standardwebhooks";
import { Webhook as SvixWebhook } from "svix";

const { NATS_URL, NATS_TOKEN, ORGANIZATION } = process.env;
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const bytes = (text) => Buffer.from(text, "base64");

const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes256Gcm() });
const pair = await suite.kem.generateKeyPair();
const publicKey = Buffer.from(await suite.kem.serializePublicKey(pair.publicKey)).toString("base64");

const trusted = []; // {name, path, key}
const messages = []; // {via, path, subject, headers, body}
const held = new Map(); // path -> {until, release}
const statuses = new Map(); // path -> code

// The one signature that no library knows: a public key in DER is a fixed prefix and its 32 bytes.
function ed25519(key, headers, body) {
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), bytes(key.replace("whpk_", ""))]);
  const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const entries = headers["webhook-signature"].split(" ").filter((entry) => entry.startsWith("v1a,"));
  if (!entries.some((entry) => verify(null, signed, publicKey, bytes(entry.slice(4))))) throw new Error("no v1a entry verifies");
}

const judges = {
  standardwebhooks: (key, headers, body) => new Webhook(key).verify(body, headers),
  svix: (key, headers, body) => new SvixWebhook(key).verify(body, headers),
  ed25519,
};
const judgesOf = (key) => (key.startsWith("whpk_") ? ["ed25519"] : ["standardwebhooks", "svix"]);

function passes(judge, key, headers, body) {
  try {
    judges[judge](key, headers, body);
    return true;
  } catch {
    return false;
  }
}

const verifies = (key, { headers, body }) => judgesOf(key).every((judge) => passes(judge, key, headers, body));

// What somebody could make of a message without its key. None of it may pass.
function forgeries({ headers, body }) {
  const moved = (by) => ({ ...headers, "webhook-timestamp": String(Number(headers["webhook-timestamp"]) + by) });
  const changed = Buffer.from(body);
  changed[changed.length >> 1] ^= 1;
  return {
    id: [{ ...headers, "webhook-id": headers["webhook-id"] + "x" }, body],
    later: [moved(1), body],
    earlier: [moved(-1), body],
    body: [headers, changed],
  };
}

function judge(message) {
  const verified = {};
  const forged = [];
  for (const { name, key } of trusted) {
    verified[name] = judgesOf(key).filter((judge) => passes(judge, key, message.headers, message.body));
    if (verified[name].length === 0) continue;
    for (const [what, [headers, body]] of Object.entries(forgeries(message))) {
      for (const judge of judgesOf(key)) if (passes(judge, key, headers, body)) forged.push(`${name}: ${judge}: ${what}`);
    }
  }
  const stranger = "whsec_" + randomBytes(48).toString("base64");
  if (verifies(stranger, message)) forged.push("a stranger's secret");
  const { via, path, subject, headers, body } = message;
  say({ judged: { via, path, subject, headers, body: body.toString("base64"), verified, forged } });
}

// open opens something sealed; last is the part of info that says what it is.
async function open(sealed, info, id) {
  const recipient = await suite.createRecipientContext({
    recipientKey: pair.privateKey,
    enc: bytes(sealed.enc),
    info: Buffer.from(["rekey/v1", ...info].join("\0")),
  });
  return Buffer.from(await recipient.open(bytes(sealed.ct), Buffer.from(id))).toString();
}

async function readSecret({ secret, organization_id, key_id, rotation_id, generation }, id) {
  switch (secret.mode) {
    case "plain":
      return secret.value;
    case "sealed":
      return open(secret, [organization_id, key_id, rotation_id, String(generation)], id);
  }
  return ""; // it is fetched elsewhere, or left out
}

async function answerChallenge(path, data, id) {
  const challenge = data.challenge || (await open(data.sealed_challenge, [data.organization_id, data.endpoint_id, "verification"], id));
  if (!challenge.startsWith("chl_")) throw new Error("that is no challenge");
  const newest = trusted.findLast((one) => one.path === path && one.key.startsWith("whsec_"));
  return "v1," + createHmac("sha256", bytes(newest.key.replace("whsec_", ""))).update(challenge).digest("base64");
}

// read does with a message what its receiver would, and returns the headers of the answer.
async function read({ via, path, headers, body }) {
  const id = headers["webhook-id"];
  const { type, data } = JSON.parse(body);
  const answer = {};
  let secret = "";
  if (type === "endpoint.verification") answer["rekey-challenge"] = await answerChallenge(path, data, id);
  if (type === "key.rotation.created") {
    secret = await readSecret(data, id);
    const proof = createHmac("sha256", secret).update(`rekey-ack-v1.${data.rotation_id}.${id}`).digest("base64");
    answer["rekey-ack"] = "v1," + proof;
  }
  say({ came: { via, path, id, at: Number(headers["webhook-timestamp"]), type, secret, data } });
  return answer;
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const message = { via: "http", path: request.url, headers: { ...request.headers }, body: Buffer.concat(chunks) };
  try {
    const keys = trusted.filter(({ path }) => path === message.path);
    if (!keys.some(({ key }) => key.startsWith("whsec_") && verifies(key, message))) throw new Error("no signature of mine");
    messages.push(message);
    const answer = await read(message);
    if (answer["rekey-ack"]) await held.get(message.path)?.until;
    response.writeHead(statuses.get(message.path) ?? 204, answer).end();
  } catch (error) {
    say({ refused: `${message.path} ${message.headers["webhook-id"]}: ${error.message}` });
    response.writeHead(401).end();
  }
});

const commands = {
  trust: ({ trust }) => trusted.push(trust),
  hold({ hold }) {
    let release;
    held.set(hold, { until: new Promise((resolve) => (release = resolve)), release: () => release() });
  },
  release({ release }) {
    held.get(release).release();
    held.delete(release);
  },
  status: ({ status, code }) => statuses.set(status, code),
  judge() {
    messages.forEach(judge);
    say({ done: messages.length });
  },
};

const connection = await connect({ servers: NATS_URL, token: NATS_TOKEN });
(async () => {
  const consumer = await connection.jetstream().consumers.get("REKEY_WEBHOOKS", { filterSubjects: `rekey.webhooks.${ORGANIZATION}.>` });
  for await (const arrived of await consumer.consume()) {
    const headers = Object.fromEntries(arrived.headers.keys().map((name) => [name, arrived.headers.get(name)]));
    const message = { via: "nats", subject: arrived.subject, headers, body: Buffer.from(arrived.data) };
    messages.push(message);
    try {
      await read(message);
    } catch (error) {
      say({ refused: `NATS ${headers["webhook-id"]}: ${error.message}` });
    }
  }
})();

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  for (const name of Object.keys(command)) commands[name]?.(command);
});
lines.once("close", () => process.exit(0));
server.listen(0, "127.0.0.1", () => say({ url: `http://127.0.0.1:${server.address().port}`, public_key: publicKey }));
