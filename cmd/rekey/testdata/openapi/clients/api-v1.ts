// A client of the surface of projects.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import { got, key, refused, url } from "./outcome.js";
import type { paths } from "./types/api-v1.js";

const api = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });
const at = (id: string) => ({ params: { path: { id } } });

assert.equal(got(await createClient<paths>({ baseUrl: url }).GET("/api/v1/healthz")).data.status, "ok");

const { data: made } = got(await api.POST("/api/v1/projects", { body: { name: "typed" } }));
assert.equal(got(await api.GET("/api/v1/projects/{id}", at(made.id))).data.organization_id, made.organization_id);
assert.equal(got(await api.PATCH("/api/v1/projects/{id}", { ...at(made.id), body: { brand: "tp" } })).data.brand, "tp");
assert.equal(got(await api.PUT("/api/v1/projects/{id}", { ...at(made.id), body: { name: "renamed" } })).data.name, "renamed");
const { projects } = got(await api.GET("/api/v1/projects", { params: { query: { limit: 500 } } })).data;
assert.equal(projects.find((p) => p.id === made.id)?.name, "renamed");
assert.deepEqual(got(await api.DELETE("/api/v1/projects/{id}", at(made.id))).data, { id: made.id, deleted: true });

assert.equal(refused(await api.GET("/api/v1/projects/{id}", at(made.id)), 404).error.code, "NOT_FOUND");
const invalid = refused(await api.POST("/api/v1/projects", { body: { name: "" } }), 422);
assert.deepEqual([invalid.success, invalid.error.code], [false, "VALIDATION_ERROR"]);
assert.deepEqual(invalid.error.details.fields?.map((f) => f.field), ["name"]);

export const impossible = () => [
  // @ts-expect-error a project needs a name
  api.POST("/api/v1/projects", { body: { brand: "x" } }),
  // @ts-expect-error projects are in an envelope
  got(api.GET("/api/v1/projects")).projects,
];
