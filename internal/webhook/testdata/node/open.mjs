// Reads cases [{name, key, headers, body, change}] from standard input: a receiver's private key and the body of a
// key.rotation.created in base64, and fields of the data to change first. Opens each sealed secret, as docs/webhooks.md
// tells a receiver to, and writes [{name, ok, secret, ack, error}] to standard output.
import { createHmac } from "node:crypto";
import { Aes256Gcm, CipherSuite, DhkemX25519HkdfSha256, HkdfSha256 } from "@hpke/core";

const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new Aes256Gcm() });

async function open({ key, headers, body, change }) {
  const id = headers["webhook-id"];
  const data = { ...JSON.parse(Buffer.from(body, "base64")).data, ...change };
  const recipientKey = await suite.kem.importKey("raw", Buffer.from(key, "base64"), false);
  const info = ["rekey/v1", data.organization_id, data.key_id, data.rotation_id, String(data.generation)].join("\0");
  const recipient = await suite.createRecipientContext({
    recipientKey,
    enc: Buffer.from(data.secret.enc, "base64"),
    info: Buffer.from(info),
  });
  const secret = Buffer.from(await recipient.open(Buffer.from(data.secret.ct, "base64"), Buffer.from(id))).toString();
  const ack = "v1," + createHmac("sha256", secret).update(`rekey-ack-v1.${data.rotation_id}.${id}`).digest("base64");
  return { secret, ack };
}

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);

const verdicts = [];
for (const test of JSON.parse(Buffer.concat(chunks))) {
  try {
    verdicts.push({ name: test.name, ok: true, error: "", ...(await open(test)) });
  } catch (error) {
    verdicts.push({ name: test.name, ok: false, secret: "", ack: "", error: String(error.message) });
  }
}
process.stdout.write(JSON.stringify(verdicts));
