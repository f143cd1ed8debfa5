// A webhook receiver: the reference library judges each request, and what it says is printed.
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";
import { say, secret } from "./secret.mjs";

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const message = { id: request.headers["webhook-id"], verified: false, error: "", payload: null };
  try {
    message.payload = new Webhook(await secret).verify(Buffer.concat(chunks), request.headers);
    message.verified = true;
  } catch (error) {
    message.error = String(error.message);
  }
  say(message);
  response.writeHead(message.verified ? 204 : 401).end();
});
server.listen(0, "127.0.0.1", () => say({ url: `http://127.0.0.1:${server.address().port}/hook` }));
