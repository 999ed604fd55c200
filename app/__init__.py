"""The MCP broker: the map of a call's journey.

1. `edges/mcp/front.py` or `edges/http/calls.py` parses a call; `intake/prepare.py` checks it:
   tool, grants (`catalog/policy.py`), schema, limits.
2. `intake/batches.py` accepts it: command, outbox row and audit event in one transaction
   (`intake/store.py`).
3. `relay/outbound.py` leases ready outbox rows by priority, fairness and window
   (`commands/store/dispatch_claim.py`), publishes them to Kafka and records that
   (`commands/store/dispatch_record.py`).
4. A rulebook (`rulebooks/`) runs the adapter's playbook (`playbooks/`).
5. The adapter claims its attempt and reports to `edges/http/results.py`; `commands/results.py`
   and `commands/attempts.py` move the command and its ordering key in one transaction.
6. `commands/watch.py` wakes whoever waits, on any replica (`postgres/wakeups.py`).
7. `relay/clock.py` ends what is late (`commands/timeouts.py`); `relay/sagas.py` moves sagas
   (`sagas/conductor.py`); `relay/sealer.py` seals the audit trail.

A package imports only what is below it: cli, edges, sagas, intake, commands, audit and catalog,
postgres, config, trust, then what everybody may name (pyproject.toml holds the contracts).
"""
