// Reads cases [{name, judge, secret, headers, body}] with the body in base64 from standard input, lets the judge verify
// each, and writes [{name, ok, error}] to standard output.
import { createPublicKey, verify } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { Webhook as SvixWebhook } from "svix";

// v1a has no reference library: this is the whole of it, with the ed25519 of OpenSSL. A public key in DER is a fixed
// prefix and its 32 bytes.
function ed25519(key, headers, body) {
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(key.replace(/^whpk_/, ""), "base64")]);
  const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
  const entries = headers["webhook-signature"].split(" ").filter((entry) => entry.startsWith("v1a,"));
  if (!entries.some((entry) => verify(null, signed, publicKey, Buffer.from(entry.slice(4), "base64")))) {
    throw new Error("no v1a entry verifies");
  }
}

const judges = {
  standardwebhooks: (secret, headers, body) => new Webhook(secret).verify(body, headers),
  svix: (secret, headers, body) => new SvixWebhook(secret).verify(body, headers),
  ed25519,
};

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);

const verdicts = JSON.parse(Buffer.concat(chunks)).map(({ name, judge, secret, headers, body }) => {
  try {
    judges[judge](secret, headers, Buffer.from(body, "base64"));
    return { name, ok: true, error: "" };
  } catch (error) {
    return { name, ok: false, error: String(error.message) };
  }
});
process.stdout.write(JSON.stringify(verdicts));
