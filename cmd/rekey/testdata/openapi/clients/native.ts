// A client of the native surface. The lines marked with @ts-expect-error must not compile: where the types let them pass,
// the compiler refuses the mark.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import { got, key, refused, url } from "./outcome.js";
import type { components, paths } from "./types/native.js";

type Verdict = components["schemas"]["Verdict"];

const api = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });
const at = (id: string) => ({ params: { path: { id } } });

async function verify(secret: string): Promise<Verdict> {
  return got(await api.POST("/v1/api-keys/verify", { body: { key: secret, scopes: ["a:read"] } }));
}

const [project] = got(await api.GET("/v1/projects"));
assert.ok(project);
const list = async () => got(await api.GET("/v1/api-keys", { params: { query: { project_id: project.id, limit: 500 } } }));

// Create, get, list.
const made = got(await api.POST("/v1/api-keys", {
  body: { project_id: project.id, name: "typed", scopes: ["a:read"], resources: { app: ["com.demo.app"] }, metadata: { team: "x" } },
}));
assert.equal(made.status, "active");
assert.equal(made.expires_at, null);
assert.equal(got(await api.GET("/v1/api-keys/{id}", at(made.id))).name, "typed");
assert.ok((await list()).some((k) => k.id === made.id));

// A retry gives the same secret.
const retried = { params: { header: { "Idempotency-Key": randomUUID() } }, body: { project_id: project.id, name: "once" } };
assert.equal(got(await api.POST("/v1/api-keys", retried)).key, got(await api.POST("/v1/api-keys", retried)).key);

// Edit what was read, and only that.
const { response } = await api.GET("/v1/api-keys/{id}", at(made.id));
const unchanged = { ...at(made.id).params, header: { "If-Match": response.headers.get("ETag") ?? "" } };
assert.equal(got(await api.PATCH("/v1/api-keys/{id}", { params: unchanged, body: { name: "renamed", resources: null } })).name, "renamed");
assert.equal(refused(await api.PATCH("/v1/api-keys/{id}", { params: unchanged, body: { name: "late" } }), 412).code, "precondition_failed");

// Rotate with grace: both secrets are valid.
const rotated = got(await api.POST("/v1/api-keys/{id}/rotate", { ...at(made.id), body: { grace_period_seconds: 600 } }));
const [old, successor] = [await verify(made.key), await verify(rotated.key)];
assert.deepEqual([old.valid, old.status, old.replaced_by_key_id], [true, "grace", rotated.new_key_id]);
assert.deepEqual([successor.valid, successor.status, successor.generation], [true, "active", 2]);

// Revoke both: neither is.
for (const [id, secret] of [[made.id, made.key], [rotated.new_key_id, rotated.key]] as const) {
  assert.equal((await api.DELETE("/v1/api-keys/{id}", at(id))).response.status, 204);
  assert.equal((await verify(secret)).code satisfies Verdict["code"], "REVOKED");
}
assert.ok((await list()).every((k) => k.id !== made.id && k.id !== rotated.new_key_id));

// Errors have codes.
assert.equal(refused(await api.POST("/v1/api-keys/{id}/rotate", at(made.id)), 409).code, "key_not_active");
assert.equal(refused(await api.GET("/v1/api-keys/{id}", at("key_none")), 404).code, "not_found");
const invalid = refused(await api.POST("/v1/api-keys", { body: { project_id: project.id, name: "" } }), 422);
assert.deepEqual([invalid.code, invalid.errors?.map((e) => e.field)], ["validation_failed", ["name"]]);
const stranger = createClient<paths>({ baseUrl: url });
assert.equal(refused(await stranger.GET("/v1/projects"), 401).code, "unauthenticated");
assert.equal(got(await stranger.GET("/healthz")).status, "ok");

export const impossible = () => [
  // @ts-expect-error a key needs a name
  api.POST("/v1/api-keys", { body: { project_id: project.id } }),
  // @ts-expect-error there is no such field
  { project_id: project.id, name: "x", nmae: "x" } satisfies components["schemas"]["CreateKeyRequest"],
  // @ts-expect-error a number of seconds is a number
  api.POST("/v1/api-keys/{id}/rotate", { ...at("x"), body: { grace_period_seconds: "60" } }),
  // @ts-expect-error there is no such route
  api.GET("/v1/api-key"),
  // @ts-expect-error only what a key has can be read
  made.secret,
  // @ts-expect-error this can be null
  made.expires_at.length,
  // @ts-expect-error there is no such status
  made.status === "dead",
];
