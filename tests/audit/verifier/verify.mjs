// A second verifier, written from docs/AUDIT_FORMAT.md: node verify.mjs BUNDLE --keys PEM
// [--officers PEM] [--anchors NDJSON]. Exit code 0: as it was sealed; 1: not; 2: not all is shown.
import { readFileSync } from "node:fs";

import * as format from "./format.mjs";

const { Chain, Tree, ZERO, bytes, instant } = format;

class Fault extends Error {}
const demand = (held, reason) => {
  if (!held) throw new Fault(reason);
};

class Log {
  constructor(tenant, keys, officers) {
    Object.assign(this, { tenant, keys, officers });
    this.tree = new Tree();
    this.head = null;
    this.part = false;
    this.granted = null;
    this.passed = false;
    this.chain = new Chain();
    this.holds = new Map();
    this.erased = new Map();
    this.records = new Map();
    this.restores = [];
    this.digests = new Map();
    this.xids = [null]; // of the last seal; those of a base are not shown
    this.seals = this.members = this.gone = this.blank = this.late = 0;
  }

  get log() {
    return format.originOf(this.head.checkpoint).slice(0, -this.tenant.length - 1);
  }

  // 1: a seal by itself.
  itself(seal) {
    const digest = bytes(seal.digest);
    demand(format.sealDigest(seal).equals(digest), `seal ${seal.seal_no}: digest`);
    const tree = new Tree(seal.seq_to, bytes(seal.frontier));
    demand(tree.root.equals(bytes(seal.root)), `seal ${seal.seal_no}: root`);
    const origin = format.originOf(seal.checkpoint);
    const text = format.checkpointText(origin, seal.seq_to, bytes(seal.root));
    demand(format.textOf(seal.checkpoint) === text, `seal ${seal.seal_no}: checkpoint`);
    const said = format.attestationText(seal.tenant_id, seal.seal_no, digest);
    demand(format.textOf(seal.attestation) === said, `seal ${seal.seal_no}: attestation`);
    for (const note of [seal.checkpoint, seal.attestation]) {
      demand(format.signedBy(note, this.keys), `seal ${seal.seal_no}: not signed by a known key`);
    }
    const count = seal.seq_to - seal.seq_from + 1;
    demand(seal.kind === "events" ? count > 0 : count === 0, `seal ${seal.seal_no}: size`);
    demand(["events", "retirement"].includes(seal.kind), `seal ${seal.seal_no}: kind`);
    demand(seal.tenant_id === this.tenant && origin.endsWith(`/${this.tenant}`), "another log");
  }

  start(base) {
    this.itself(base);
    this.head = base;
    this.tree = new Tree(base.seq_to, bytes(base.frontier));
    this.part = true;
    this.digests.set(base.seal_no, base.digest);
  }

  // 2: after the one before; 6: its request.
  seal(seal) {
    this.whole();
    this.itself(seal);
    const before = this.head;
    demand(seal.seal_no === (before?.seal_no ?? 0) + 1, `seal ${seal.seal_no}: number`);
    demand(seal.seq_from === (before?.seq_to ?? 0) + 1, `seal ${seal.seal_no}: start`);
    demand(
      bytes(seal.previous).equals(before === null ? ZERO : bytes(before.digest)),
      `seal ${seal.seal_no}: previous`,
    );
    if (before !== null) {
      const same = format.originOf(seal.checkpoint) === format.originOf(before.checkpoint);
      demand(same, `seal ${seal.seal_no}: origin`);
    }
    this.head = seal;
    this.xids = [];
    this.seals += 1;
    this.digests.set(seal.seal_no, seal.digest);
    if (this.granted?.seal_no === seal.seal_no) {
      demand(this.granted.digest === seal.digest, "retirement is not the log's");
      this.passed = true;
    }
    if ((seal.request ?? null) !== null) this.asked(seal);
  }

  asked(seal) {
    const before = instant(seal.retired_before);
    const origin = format.originOf(seal.checkpoint);
    const log = origin.slice(0, -this.tenant.length - 1);
    const request = format.requestOf(seal.request, "retire", log, this.officers);
    demand(request !== null, `seal ${seal.seal_no}: no officer asked for it`);
    demand(before <= instant(request.before), `seal ${seal.seal_no}: more than was asked for`);
    demand(format.beginsMonth(before), `seal ${seal.seal_no}: no month's beginning`);
    demand(before <= instant(seal.sealed_at), `seal ${seal.seal_no}: not past`);
    for (const from of this.holds.values()) {
      demand(from !== null && from >= before, `seal ${seal.seal_no}: under a hold`);
    }
  }

  // 3 and 4: a member and its event.
  member(line) {
    const name = `member ${line.seq}`;
    const seal = this.head;
    demand(seal !== null && line.seq === this.tree.size + 1 && line.seq <= seal.seq_to, name);
    const at = instant(line.occurred_at);
    const event = line.event;
    if (event === null) {
      demand(this.letsGo(line, at), `${name}: event is gone`);
      this.gone += 1;
    } else {
      demand(event.event_id === line.event_id && instant(event.occurred_at) === at, `${name}: id`);
      demand(format.leafOf(event).equals(bytes(line.leaf)), `${name}: event was altered`);
      demand((event.erased_by === null) === (event.commitment === null), `${name}: erased_by`);
    }
    demand(at <= instant(seal.sealed_at) + 60_000_000n, `${name}: ahead of its seal`);
    this.late += instant(seal.sealed_at) - at > 120_000_000n;
    this.xids.push(event === null ? null : (line.xid ?? null));
    this.tree.append(bytes(line.leaf));
    this.members += 1;
    if (this.letsGo(line, at)) this.chain.add(line);
    if (event !== null) this.event(event, at);
  }

  letsGo(line, at) {
    const granted = this.granted;
    return granted !== null && at < instant(granted.retired_before) && line.seq <= granted.seq_to;
  }

  event(event, at) {
    let body = {};
    try {
      body = JSON.parse(event.body) ?? {};
    } catch {
      // not words that count
    }
    if (event.type === "hold.placed") this.holds.set(body.hold, instant(body.from ?? null));
    if (event.type === "hold.released") this.holds.delete(body.hold);
    const own = (asked) => asked?.id === event.event_id && asked.tenant_id === this.tenant;
    if (event.type === "person.erased") {
      const asked = format.requestOf(body.request, "erase", this.log, this.officers);
      if (own(asked)) this.records.set(asked.id, { asked, held: this.holds.size > 0 });
    }
    if (event.type === "log.restored") {
      const asked = format.requestOf(body.request, "restore", this.log, this.officers);
      if (own(asked) && asked.after_seal < this.head.seal_no) this.restores.push(asked);
    }
    if (event.commitment !== null) {
      this.blank += 1;
      const key = `${event.erased_by} ${format.month(at)}`;
      this.erased.set(key, [...(this.erased.get(key) ?? []), event.event_id]);
    }
  }

  // The last seal's members are all there.
  whole() {
    if (this.head === null) return;
    demand(this.tree.size === this.head.seq_to, `member ${this.tree.size + 1} is missing`);
    const same = this.tree.frontier.equals(bytes(this.head.frontier));
    demand(same, `seal ${this.head.seal_no}: its members are others`);
    const sealed = this.head.transactions ?? null;
    if (sealed === null || this.xids.some((xid) => xid === null)) return;
    const alike = format.transactionsDigest(this.xids).equals(bytes(sealed));
    demand(alike, `seal ${this.head.seal_no}: its transactions are others`);
  }

  // 5, 7 and 8, which are said of the whole log.
  end(anchors) {
    this.whole();
    if (this.granted !== null && !this.part) {
      demand(this.passed, "the retirement is not in the log");
      const same = this.chain.digest.equals(bytes(this.granted.retired_digest));
      demand(same, "members are not those that were retired");
    }
    for (const [key, ids] of this.part ? [] : this.erased) {
      const [by, month] = key.split(" ");
      const record = this.records.get(by);
      const said = record?.asked.months[month];
      demand(record !== undefined && !record.held && said !== undefined, `${month}: erased`);
      const right = said.events === ids.length && said.digest === format.erasureDigest(ids);
      demand(right, `${month}: other events were erased`);
    }
    for (const [no, others] of this.others(anchors)) {
      const passed = this.restores.filter(
        (one) =>
          one.after_seal < no &&
          (no < one.lost_seal || (no === one.lost_seal && others.has(one.lost_digest))),
      );
      demand(others.size <= passed.length, `seal ${no} is not the one that was published`);
      this.lost = true;
    }
  }

  others(anchors) {
    const found = new Map();
    for (const one of anchors) {
      const text = format.attestationText(one.tenant_id, one.seal_no, bytes(one.digest));
      if (one.tenant_id !== this.tenant || format.textOf(one.attestation) !== text) continue;
      if (!format.signedBy(one.attestation, this.keys)) continue;
      const here = this.digests.get(one.seal_no);
      const before = this.part && here === undefined && one.seal_no < (this.head?.seal_no ?? 0);
      if (here === one.digest || before) continue;
      found.set(one.seal_no, (found.get(one.seal_no) ?? new Set()).add(one.digest));
    }
    return found;
  }

  get unshown() {
    const unsure = this.part || this.officers === null;
    const unsigned = this.officers === null && this.lost;
    return (unsure && (this.gone > 0 || this.blank > 0)) || unsigned;
  }
}

function ndjson(path) {
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.filter((line) => line !== "");
}

function anchorsOf(path) {
  const found = [];
  for (const line of path ? ndjson(path) : []) {
    try {
      found.push(JSON.parse(line));
    } catch {
      // torn by a crash
    }
  }
  return found;
}

function check(lines, keys, officers, anchors) {
  const [header, ...rest] = lines;
  demand(header?.line === "bundle" && [1, 2, 3, 4].includes(header.version), "no bundle");
  const log = new Log(header.tenant_id, keys, officers);
  let stage = 0;
  for (const line of rest) {
    const at = ["key", "retirement", "base", "seal", "end"].indexOf(
      line.line === "member" ? "seal" : line.line,
    );
    demand(at >= stage && stage < 4, `a line of ${line.line} stands where none may`);
    demand(!(at === stage && (at === 1 || at === 2) && log.once === at), "a line stands twice");
    [stage, log.once] = [at, at];
    if (line.line === "retirement") {
      log.itself(line);
      log.asked(line);
      log.granted = line;
    } else if (line.line === "base") log.start(line);
    else if (line.line === "seal") log.seal(line);
    else if (line.line === "member") log.member(line);
    else if (line.line === "end") {
      demand(line.seals === log.seals && line.members === log.members, "lines are missing");
    }
  }
  demand(stage === 4, "the end is missing");
  log.end(anchors);
  return log;
}

function main([path, ...rest]) {
  const option = (name) => (rest.includes(name) ? rest[rest.indexOf(name) + 1] : null);
  const pem = (name) => (option(name) ? format.publicKeys(readFileSync(option(name), "utf8")) : null);
  let found;
  try {
    const lines = ndjson(path).map((line) => JSON.parse(line));
    const log = check(lines, pem("--keys") ?? [], pem("--officers"), anchorsOf(option("--anchors")));
    const { seals, members, gone, blank, late, unshown } = log;
    found = { ok: !unshown, seals, members, gone, erased: blank, late, fault: null };
  } catch (error) {
    found = { ok: false, fault: error.message };
  }
  process.stdout.write(`${JSON.stringify(found)}\n`);
  process.exitCode = found.fault !== null ? 1 : found.ok ? 0 : 2;
}

main(process.argv.slice(2));
