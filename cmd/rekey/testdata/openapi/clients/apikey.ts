// A client of the surface of keys with modes.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import { got, key, refused, url } from "./outcome.js";
import type { paths } from "./types/apikey.js";

const api = createClient<paths>({ baseUrl: url, headers: { "x-api-key": key } });
const at = (id: number) => ({ params: { path: { id: String(id) } } });

const { apikey: made } = got(await api.POST("/apikey/", {
  body: { name: "typed", mode: "upload", limited_to_apps: ["com.demo.app"] },
}));
assert.deepEqual([made.mode, made.limited_to_apps], ["upload", ["com.demo.app"]]);
const { apikey: same } = got(await api.GET("/apikey/{id}/", at(made.id)));
assert.ok(made.key.startsWith(same.key.replace("...", "")));
assert.ok(got(await api.GET("/apikey/")).data.some((k) => k.id === made.id));
assert.equal(got(await api.DELETE("/apikey/{id}/", at(made.id))).success, true);

const gone = refused(await api.GET("/apikey/{id}/", at(made.id)), 404);
assert.deepEqual(gone, { error: "API key not found", status: "KO" });
const stranger = createClient<paths>({ baseUrl: url, headers: { authorization: made.key } });
assert.equal(refused(await stranger.GET("/apikey/"), 401).error, "Invalid API key");

export const impossible = () => [
  // @ts-expect-error there is no such mode
  api.POST("/apikey/", { body: { name: "x", mode: "delete" } }),
  // @ts-expect-error a key needs a mode
  api.POST("/apikey/", { body: { name: "x" } }),
  // @ts-expect-error the limit may be absent
  made.limited_to_orgs.length,
];
