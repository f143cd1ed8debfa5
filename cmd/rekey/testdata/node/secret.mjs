// The signing secret is the first line of standard input, because a receiver must listen before the key that names it can
// be made. The end of standard input ends the program.
import { createInterface } from "node:readline";

export const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const lines = createInterface({ input: process.stdin });
export const secret = new Promise((resolve) => lines.once("line", resolve));
lines.once("close", () => process.exit(0));
