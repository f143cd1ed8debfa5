// A client of the surface of account keys, whichever its address.
import assert from "node:assert/strict";
import type { FetchResponse } from "openapi-fetch";
import { got, refused } from "./outcome.js";
import type { components, paths } from "./types/v1-keys.js";

type Answer<O extends Record<string | number, unknown>> = Promise<FetchResponse<O, object, "application/json">>;

export interface Calls {
  list(): Answer<paths["/v1/keys"]["get"]>;
  create(body: components["schemas"]["CreateKeyRequest"]): Answer<paths["/v1/keys"]["post"]>;
  revoke(id: string): Answer<paths["/v1/keys/{id}"]["delete"]>;
}

export async function tour(api: Calls): Promise<void> {
  const made = got(await api.create({ name: "typed", scopes: ["read"], expiresAt: "2999-12-31" }));
  assert.deepEqual([made.success, made.data.scopes, made.data.expiresAt], [true, ["read"], "2999-12-31T00:00:00Z"]);
  const { keys } = got(await api.list()).data;
  assert.equal(keys.find((k) => k.id === made.data.id)?.lastFour, made.data.key.slice(-4));
  assert.equal(got(await api.revoke(made.data.id)).message, "API key revoked successfully");
  assert.ok(got(await api.list()).data.keys.every((k) => k.id !== made.data.id));

  assert.equal(refused(await api.revoke("key_none"), 404).error.code, "NOT_FOUND");
  const invalid = refused(await api.create({ name: "" }), 422);
  assert.deepEqual([invalid.success, invalid.error.details.fields?.map((f) => f.field)], [false, ["name"]]);
}

export const impossible = (api: Calls) => [
  // @ts-expect-error there is no such scope
  api.create({ name: "x", scopes: ["admin"] }),
  // @ts-expect-error a key needs a name
  api.create({}),
];
