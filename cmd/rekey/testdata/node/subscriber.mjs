// An auditor: reads both streams of its organization from the beginning, with a rekey key as token, and prints what comes.
import { connect } from "nats";
import { Webhook } from "standardwebhooks";
import { say, secret } from "./secret.mjs";

const { NATS_URL, NATS_TOKEN, ORGANIZATION } = process.env;
const connection = await connect({ servers: NATS_URL, token: NATS_TOKEN });

async function follow(stream, filterSubjects, judge) {
  const consumer = await connection.jetstream().consumers.get(stream, { filterSubjects });
  for await (const message of await consumer.consume()) {
    const headers = Object.fromEntries(message.headers.keys().map((name) => [name, message.headers.get(name)]));
    const said = { stream, sequence: message.seq, subject: message.subject, headers, body: message.string() };
    say({ ...said, ...(await judge(said)) });
  }
}

const nothingToJudge = async () => ({});

async function judgeSignature({ headers, body }) {
  try {
    new Webhook(await secret).verify(body, headers);
    return { verified: true };
  } catch (error) {
    return { verified: false, error: String(error.message) };
  }
}

say({ connected: connection.getServer() });
await Promise.all([
  follow("REKEY_EVENTS", `rekey.events.${ORGANIZATION}.>`, nothingToJudge),
  follow("REKEY_WEBHOOKS", `rekey.webhooks.${ORGANIZATION}.>`, judgeSignature),
]);
