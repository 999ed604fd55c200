"""`broker catalog import grpc`: a real grpcio server by reflection, and a set of descriptors."""

import base64
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from google.protobuf import descriptor_pb2

from adapters.contract import Failure, Result
from adapters.grpc import describing
from devstack.stack import Dsns
from tests.adapters.grpc.service import NAME, file_of, serving
from tests.cli.imports.reviewed import applied, broker, called, entries

IMPORT = ("catalog", "import", "grpc")
FIELD = descriptor_pb2.FieldDescriptorProto


@pytest.mark.guarantee("catalog:drift-told")
@pytest.mark.guarantee("adapters:reviewed")
async def test_a_server_is_imported_by_reflection_called_and_compared(
    database: Dsns, tmp_path: Path
) -> None:
    async with serving() as service:
        argv = (service.address, "--plaintext", "--out", tmp_path)
        done = await broker(*IMPORT, *argv)
        assert f"left out: {NAME}/Feed: it takes a stream of requests" in done.stderr
        path = tmp_path / "work.yml"
        await applied(path, database.owner)
        found = entries(path.read_text())
        assert set(found) == {"Do", "Watch"}
        assert found["Do"]["policy"] == {"idempotent": False, "retry": {"attempts_max": 1}}
        args = {"name": "x", "count": "5", "colour": "RED", "at": "2026-01-02T03:04:05Z"}
        fits = jsonschema_rs.validator_for(found["Do"]["input_schema"])
        assert fits.is_valid(args)
        for wrong in ({"colour": "BLUE"}, {"count": 1.5}, {"aCode": 2**40}, {"none": 1}):
            assert not fits.is_valid(args | wrong), wrong
        outcome = await called(path, "Do", args)
        assert isinstance(outcome, Result), outcome
        assert outcome.value["colour"] == "RED"
        assert jsonschema_rs.is_valid(found["Do"]["output_schema"], outcome.value)
        outcome = await called(path, "Watch", {"count": 2})
        assert isinstance(outcome, Result), outcome
        assert jsonschema_rs.is_valid(found["Watch"]["output_schema"], outcome.value)
        assert len(outcome.value["messages"]) == 2
        assert "2 same" in (await broker("catalog", "diff", path)).stdout
        reviewed = path.read_text()
        digest = found["Do"]["adapter"]["digest"]
        path.write_text(reviewed.replace(digest, f"sha256:{'0' * 64}", 1))
        outcome = await called(path, "Do", args)
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.details["found"]) == ("target_changed", digest)
        assert isinstance(await called(path, "Watch", {"count": 1}), Result)
        changed = await broker("catalog", "diff", path, code=1)
        assert "changed: work_Do (target work)" in changed.stdout
        assert "1 changed, 1 new, 1 same" in changed.stdout


async def test_descriptors_of_a_file_say_what_repeats_and_are_compared_with_a_file(
    tmp_path: Path,
) -> None:
    file, made = tmp_path / "set.pb", file_of()
    levels = descriptor_pb2.MethodOptions
    made.service[0].method[0].options.idempotency_level = levels.IDEMPOTENT
    made.service[0].method[1].options.idempotency_level = levels.NO_SIDE_EFFECTS
    made.service[0].method.add(
        name="DeleteAll", input_type=".test.v1.Request", output_type=".google.protobuf.Timestamp"
    )
    location = made.source_code_info.location.add(path=[6, 0, 2, 0])
    location.leading_comments = " Does the\n work.\n"
    write(file, made)
    argv = ("127.0.0.1:9", "--plaintext", "--descriptors", file, "--out", tmp_path)
    await broker(*IMPORT, *argv)
    path = tmp_path / "work.yml"
    found = entries(path.read_text())
    assert found["Do"]["description"] == "Does the work."
    assert {name: one["policy"].get("approval") for name, one in found.items()} == {
        "Do": None,
        "Watch": None,
        "DeleteAll": "ask",
    }
    assert [one["policy"]["retry"]["attempts_max"] for one in found.values()] == [3, 3, 1]
    assert "output_schema" not in found["DeleteAll"]
    source = ("--source", f"work={file}")
    assert "3 same" in (await broker("catalog", "diff", path, *source)).stdout
    made.message_type[0].field[1].type = FIELD.TYPE_INT32
    write(file, made)
    changed = await broker("catalog", "diff", path, *source, code=1)
    assert "changed: work_Do (target work): input_schema, output_schema" in changed.stdout
    assert "no_source: target work" in (await broker("catalog", "diff", path)).stdout


def write(file: Path, made: descriptor_pb2.FileDescriptorProto) -> None:
    file.write_bytes(descriptor_pb2.FileDescriptorSet(file=[made]).SerializeToString())


def test_a_digest_is_of_the_fields_and_not_of_comments_or_order() -> None:
    def digest(made: descriptor_pb2.FileDescriptorProto) -> Any:
        raw = descriptor_pb2.FileDescriptorSet(file=[made]).SerializeToString()
        return describing.digest_of(base64.b64encode(raw).decode(), f"{NAME}/Do")

    plain, other, renamed = file_of(), file_of(), file_of()
    other.source_code_info.location.add(path=[4, 0]).leading_comments = "words"
    first = other.message_type[0].field[0]
    del other.message_type[0].field[0]
    other.message_type[0].field.append(first)
    assert digest(plain) == digest(other)
    renamed.enum_type[0].value[1].name = "GREEN"
    assert digest(renamed) != digest(plain)
    assert digest(plain) != describing.digest_of("", f"{NAME}/Do")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["127.0.0.1:9", "--plaintext"], "does not describe its services: UNAVAILABLE"),
        (["127.0.0.1"], "host:port"),
        (["127.0.0.1:9", "--descriptors", __file__], "no FileDescriptorSet"),
        (["127.0.0.1:9", "--descriptors", "none.pb"], "No such file"),
    ],
)
async def test_what_cannot_be_imported_is_told_in_a_sentence(argv: list[str], words: str) -> None:
    done = await broker(*IMPORT, *argv, code=1)
    assert words in done.stderr
