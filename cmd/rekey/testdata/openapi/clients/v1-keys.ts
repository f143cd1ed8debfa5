// A client of the surface of account keys at /v1/keys.
import createClient from "openapi-fetch";
import { tour } from "./accountkeys.js";
import { key, url } from "./outcome.js";
import type { paths } from "./types/v1-keys.js";

const api = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

await tour({
  list: () => api.GET("/v1/keys"),
  create: (body) => api.POST("/v1/keys", { body }),
  revoke: (id) => api.DELETE("/v1/keys/{id}", { params: { path: { id } } }),
});
