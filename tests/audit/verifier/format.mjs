// The hashes, notes and fields of docs/AUDIT_FORMAT.md, and nothing from anywhere else.
import { createHash, createPublicKey, verify } from "node:crypto";

export const ZERO = Buffer.alloc(32);
export const sha = (...parts) =>
  createHash("sha256").update(Buffer.concat(parts.map((one) => Buffer.from(one)))).digest();
export const bytes = (hex) => {
  if (hex === null || hex === undefined) return null;
  if (typeof hex !== "string" || !/^([0-9a-f]{2})*$/.test(hex)) throw new Error(`no hex: ${hex}`);
  return Buffer.from(hex, "hex");
};
const hexOf = (value) => (value === null ? null : value.toString("hex"));

// Encoding: microseconds since 1970 of an RFC 3339 time, as a BigInt.
export function instant(text) {
  if (text === null || text === undefined) return null;
  const found =
    /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (!found) throw new Error(`no time: ${text}`);
  const whole = Date.parse(`${found[1]}T${found[2]}${found[4]}`);
  if (Number.isNaN(whole)) throw new Error(`no time: ${text}`);
  return BigInt(whole) * 1000n + BigInt((found[3] ?? "").padEnd(6, "0"));
}
export const month = (micros) => {
  const at = new Date(Number(floor(micros, 1000n)));
  return `${at.getUTCFullYear()}`.padStart(4, "0") + `${at.getUTCMonth() + 1}`.padStart(2, "0");
};
const floor = (value, by) => (value - (((value % by) + by) % by)) / by;
export const beginsMonth = (micros) => {
  const at = new Date(Number(floor(micros, 1000n)));
  return micros === BigInt(Date.UTC(at.getUTCFullYear(), at.getUTCMonth(), 1)) * 1000n;
};

export function fields(tag, ...values) {
  const parts = [Buffer.from(`${tag},`)];
  for (const value of values) {
    if (value === null || value === undefined) {
      parts.push(Buffer.from("-,"));
      continue;
    }
    const field = Buffer.from(`${value}`);
    parts.push(Buffer.from(`${field.length}:`), field, Buffer.from(","));
  }
  return Buffer.concat(parts);
}

export function kindOf(actor) {
  if (/^(adapter|relay|db):/.test(actor) || !actor.includes(":")) return actor;
  return actor.slice(0, actor.indexOf(":") + 1);
}

export function commitmentOf(event) {
  const { salt, actor, user_id, fingerprint, body } = event;
  if (event.commitment === null) {
    return sha(fields("mcpbroker.audit.personal.v1", salt, actor, user_id, fingerprint, body));
  }
  const kind = kindOf(actor);
  const empty =
    salt === null &&
    user_id === null &&
    fingerprint === null &&
    body === "{}" &&
    actor === (kind.endsWith(":") ? `${kind}[erased]` : kind);
  return empty ? bytes(event.commitment) : Buffer.alloc(0);
}

export function leafOf(event) {
  const one = event;
  const start = [one.event_id, instant(one.occurred_at), one.tenant_id, one.type];
  const middle = [one.command_id, one.saga_id, one.tool, one.method, one.attempt];
  const states = [one.state_from, one.state_to];
  if (one.salt === null && one.commitment === null) {
    const personal = [one.actor, one.user_id];
    const rest = [...states, one.fingerprint, one.body];
    return sha([0], fields("mcpbroker.audit.v1", ...start, ...personal, ...middle, ...rest));
  }
  const hidden = hexOf(commitmentOf(one));
  const kind = kindOf(one.actor);
  return sha([0], fields("mcpbroker.audit.v2", ...start, kind, ...middle, ...states, hidden));
}

export const node = (left, right) => sha([1], left, right);

export class Tree {
  constructor(size = 0, frontier = Buffer.alloc(0)) {
    let ones = 0;
    for (let left = BigInt(size); left > 0n; left >>= 1n) ones += Number(left & 1n);
    if (frontier.length !== 32 * ones) throw new Error("frontier does not fit its size");
    this.size = size;
    this.stack = [];
    for (let at = 0; at < frontier.length; at += 32) this.stack.push(frontier.subarray(at, at + 32));
  }
  append(leaf) {
    let top = leaf;
    for (let n = BigInt(this.size); n & 1n; n >>= 1n) top = node(this.stack.pop(), top);
    this.stack.push(top);
    this.size += 1;
  }
  get frontier() {
    return Buffer.concat(this.stack);
  }
  get root() {
    if (this.stack.length === 0) return sha("");
    return this.stack.slice(0, -1).reduceRight((right, left) => node(left, right), this.stack.at(-1));
  }
}

// RFC 9162, 2.1.3.2.
export function included(leaf, index, size, path, root) {
  if (index < 0 || index >= size) return false;
  let at = index;
  let last = size - 1;
  let found = leaf;
  for (const sibling of path) {
    if (last === 0) return false;
    if (at % 2 === 1 || at === last) {
      found = node(sibling, found);
      while (at % 2 === 0 && at !== 0) [at, last] = [at / 2, Math.floor(last / 2)];
    } else found = node(found, sibling);
    [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  }
  return last === 0 && found.equals(root);
}

export const keyId = (key) => sha(key).toString("hex").slice(0, 16);
const noteKey = (name, key) => sha(`${name}\n`, [1], key).subarray(0, 4);
const DER = Buffer.from("302a300506032b6570032100", "hex"); // RFC 8410, before the 32 bytes

export function textOf(note) {
  const end = (note ?? "").lastIndexOf("\n\n");
  return end < 0 ? "" : note.slice(0, end + 1);
}

// Whether one of the keys has signed a note, and none has a false signature under its name.
export function signedBy(note, keys) {
  const text = textOf(note);
  const block = note.slice(text.length + 1);
  if (text === "" || !block.endsWith("\n")) return false;
  let signed = false;
  for (const line of block.slice(0, -1).split("\n").slice(0, 64)) {
    const found = /^\u2014 ([^ ]+) ([A-Za-z0-9+/]+={0,2})$/.exec(line);
    if (!found) return false;
    const [, name, encoded] = found;
    const signature = Buffer.from(encoded, "base64");
    for (const key of keys) {
      if (!signature.subarray(0, 4).equals(noteKey(name, key))) continue;
      const made = createPublicKey({ key: Buffer.concat([DER, key]), format: "der", type: "spki" });
      if (!verify(null, Buffer.from(text), made, signature.subarray(4))) return false;
      signed = true;
    }
  }
  return signed;
}

export function publicKeys(pem) {
  const blocks = pem.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? [];
  return blocks.map((one) => {
    const der = createPublicKey(one).export({ format: "der", type: "spki" });
    if (!der.subarray(0, DER.length).equals(DER)) throw new Error("a key is not Ed25519");
    return der.subarray(DER.length);
  });
}

export function sealDigest(seal) {
  const twelve = [
    seal.tenant_id,
    seal.seal_no,
    seal.kind,
    seal.seq_from,
    seal.seq_to,
    instant(seal.retired_before),
    seal.root,
    seal.frontier,
    seal.previous,
    seal.key_id,
    instant(seal.sealed_at),
    seal.checkpoint,
  ];
  const request = seal.request ?? null;
  const retired = seal.retired_digest ?? null;
  const transactions = seal.transactions ?? null;
  if (transactions !== null) {
    return sha(fields("mcpbroker.audit.seal.v3", ...twelve, request, retired, transactions));
  }
  if (request === null && retired === null) return sha(fields("mcpbroker.audit.seal.v1", ...twelve));
  return sha(fields("mcpbroker.audit.seal.v2", ...twelve, request, retired));
}

export const checkpointText = (origin, size, root) => `${origin}\n${size}\n${root.toString("base64")}\n`;
export const attestationText = (tenant, no, digest) =>
  `mcpbroker.audit.seal.v1\n${tenant}/${no}\n${digest.toString("base64")}\n`;
export const originOf = (note) => note.split("\n", 1)[0];

const NAMES = {
  retire: ["before"],
  erase: ["tenant_id", "months"],
  restore: ["tenant_id", "after_seal", "lost_seal", "lost_digest"],
};

export const transactionsDigest = (xids) => sha(xids.map((xid) => `${xid},`).join(""));

// What an officer's note asks, or null where it is no request for this log that they signed.
export function requestOf(note, kind, log, officers) {
  if (typeof note !== "string") return null;
  const lines = textOf(note).split("\n");
  if (lines.length !== 4 || lines[0] !== "mcpbroker.audit.request.v1" || lines[1] !== log) return null;
  let asked;
  try {
    asked = JSON.parse(lines[2]);
  } catch {
    return null;
  }
  const names = ["asked_at", "id", "kind", "reason", ...(NAMES[kind] ?? [])].sort();
  if (asked.kind !== kind || Object.keys(asked).sort().join() !== names.join()) return null;
  if (officers !== null && !signedBy(note, officers)) return null;
  return asked;
}

// The hash over members that a retirement lets go.
export class Chain {
  hash = Buffer.alloc(0);
  add(member) {
    this.hash = sha(this.hash, `${member.seq},${member.event_id},${instant(member.occurred_at)},`);
  }
  get digest() {
    return this.hash.length === 0 ? sha("") : this.hash;
  }
}

// Of an erasure's month: the hash over which events.
export const erasureDigest = (ids) =>
  sha(
    ...ids
      .map((id) => id.replaceAll("-", ""))
      .sort()
      .map((id) => Buffer.from(id, "hex")),
  ).toString("hex");
