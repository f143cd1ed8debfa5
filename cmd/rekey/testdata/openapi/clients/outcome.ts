// What the clients share: where rekey is, and how they look at an outcome.
import assert from "node:assert/strict";

export const url = setting("REKEY_URL");
export const key = setting("REKEY_KEY");

function setting(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set`);
  return value;
}

interface Outcome<T, E> {
  data?: T;
  error?: E;
  response: Response;
}

// got returns what was answered. An error fails the program.
export function got<T>(outcome: Outcome<T, unknown>): T {
  if (outcome.data === undefined) {
    throw new assert.AssertionError({ message: `${outcome.response.status} ${JSON.stringify(outcome.error)}` });
  }
  return outcome.data;
}

// refused returns the error that was answered, which must have a status.
export function refused<E>(outcome: Outcome<unknown, E>, status: number): E {
  assert.equal(outcome.response.status, status);
  if (outcome.error === undefined) {
    throw new assert.AssertionError({ message: "an error without a body" });
  }
  return outcome.error;
}
