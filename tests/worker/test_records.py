"""What stands on the worker's topic and is no command is passed by: its offset is committed."""

from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka.structs import ConsumerRecord

from worker.backlog import Delivery, delivery

COMMAND: dict[str, Any] = {
    "correlation_id": str(UUID(int=1)),
    "attempt": 1,
    "tenant_id": "demo",
    "tool": "probe",
    "method": "echo",
}


def read(value: bytes) -> Delivery | None:
    record: ConsumerRecord[bytes, bytes] = ConsumerRecord(
        topic="t",
        partition=0,
        offset=1,
        timestamp=0,
        timestamp_type=0,
        key=None,
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=len(value),
        headers=(),
    )
    return delivery(record, worker="w")


@pytest.mark.parametrize("odd", ["1e300", "1e400", "0", "-1", "true", '"1"', "null", "[]", "1.5"])
def test_an_attempt_of_which_no_claim_can_be_written_is_no_command(odd: str) -> None:
    written = orjson.dumps(COMMAND)
    assert read(written) is not None
    assert read(written.replace(b'"attempt":1', b'"attempt":' + odd.encode())) is None


@pytest.mark.parametrize("odd", [b"", b"\xff", b"[" * 5000, b"null", b"5", b'{"a":1}'])
def test_a_record_that_is_no_object_of_a_command_is_none(odd: bytes) -> None:
    assert read(odd) is None
