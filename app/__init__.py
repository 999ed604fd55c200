"""The MCP broker: the map of a call's journey.

1. `edges/mcp_front.py` or `edges/http_api.py` parses a call; `policy.py` says who may call what.
2. `intake.py` accepts it: command, outbox row and audit event in one transaction (`db/commands.py`).
3. `relay/outbound.py` claims ready outbox rows by priority, fairness and window (`db/outbox.py`)
   and publishes them to Kafka.
4. A rulebook (`rulebooks/`) runs the adapter's playbook (`playbooks/`).
5. The adapter claims its attempt and reports to `edges/results_api.py`; `results.py`
   and `attempts.py` move the command and its ordering key in one transaction.
6. `edges/stream.py` wakes whoever waits, on any replica (`db/wakeups.py`).
7. `relay/clock.py` ends what is late (`timeouts.py`); `relay/sealer.py` seals the audit trail.
"""
