// Reads cases [{name, secret, headers, body}] with the body in base64 from standard input, verifies each with the
// reference library, and writes [{name, ok, error}] to standard output.
import { Webhook } from "standardwebhooks";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);

const verdicts = JSON.parse(Buffer.concat(chunks)).map(({ name, secret, headers, body }) => {
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64"), headers);
    return { name, ok: true, error: "" };
  } catch (error) {
    return { name, ok: false, error: String(error.message) };
  }
});
process.stdout.write(JSON.stringify(verdicts));
