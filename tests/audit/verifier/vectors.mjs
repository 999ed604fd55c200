// Every hash of docs/audit-format/vectors.json once more: node vectors.mjs FILE.
import { readFileSync } from "node:fs";

import * as format from "./format.mjs";

const { Chain, Tree, bytes } = format;
const hex = (value) => value.toString("hex");
const found = JSON.parse(readFileSync(process.argv[2], "utf8"));
const wrong = [];
let right = 0;
const same = (name, mine, theirs) => {
  if (mine === theirs) right += 1;
  else wrong.push(`${name}: ${mine} is not ${theirs}`);
};

for (const one of found.leaves) {
  same("kind", format.kindOf(one.event.actor), one.kind);
  same("commitment", hex(format.commitmentOf(one.event)), one.commitment);
  same("leaf", hex(format.leafOf(one.event)), one.leaf);
}
for (const { seal, digest, attestation, checkpoint } of found.seals) {
  const origin = format.originOf(seal.checkpoint);
  same("digest", hex(format.sealDigest(seal)), digest);
  same("checkpoint", format.checkpointText(origin, seal.seq_to, bytes(seal.root)), checkpoint);
  same("checkpoint's text", format.textOf(seal.checkpoint), checkpoint);
  const text = format.attestationText(seal.tenant_id, seal.seal_no, bytes(digest));
  same("attestation", text, attestation);
  same("attestation's text", format.textOf(seal.attestation), attestation);
}
for (const one of found.transactions) {
  same("transactions", hex(format.transactionsDigest(one.xids)), one.transactions);
}
for (const one of found.keys) same("key id", format.keyId(bytes(one.public_key)), one.key_id);
for (const one of found.frontiers) {
  const tree = new Tree();
  for (const leaf of one.leaves) tree.append(bytes(leaf));
  same("frontier", hex(tree.frontier), one.frontier);
  same("root", hex(tree.root), one.root);
}
for (const one of found.requests) {
  const asked = format.requestOf(one.note, one.kind, one.log, null);
  same("request", asked?.id, one.id);
}
for (const one of found.retired) {
  const chain = new Chain();
  for (const member of one.members) chain.add(member);
  same("retired", hex(chain.digest), one.retired_digest);
}
for (const one of found.erasures) {
  same("erasure", format.erasureDigest(one.event_ids), one.digest);
}
for (const one of found.inclusion) {
  const path = one.path.map(bytes);
  const held = format.included(bytes(one.leaf), one.seq - 1, one.size, path, bytes(one.root));
  same("inclusion", held, true);
}
process.stdout.write(`${JSON.stringify({ right, wrong })}\n`);
process.exitCode = wrong.length === 0 ? 0 : 1;
