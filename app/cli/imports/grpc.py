"""`broker catalog import grpc`: the methods of a gRPC server, or of a set of descriptors."""

import asyncio
import base64
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from adapters.authorization import headers
from adapters.contract import Opening
from app.cli.common import fail
from app.cli.imports.draft import Draft, Skipped, Source
from app.cli.imports.opening import undeclared
from app.cli.imports.options import Bearer, Ca, http_target, importing
from app.errors import BadRequestError

BYTES_MAX: Final = 32 << 20
DELETES: Final = ("Delete", "Remove", "Purge", "Drop", "Destroy")
"""How methods that take away are named; descriptors say nothing of it."""

Address = Annotated[
    str | None, typer.Argument(metavar="HOST:PORT", help="Of a server that has reflection.")
]
Descriptors = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A FileDescriptorSet in place of reflection, from `protoc --include_imports"
        " --include_source_info -o FILE`. HOST:PORT says where the service is.",
    ),
]
Plaintext = Annotated[bool, typer.Option("--plaintext", help="Without TLS.")]


@importing
async def command(
    address: Address,
    descriptors: Descriptors = None,
    plaintext: Plaintext = False,
    bearer: Bearer = None,
    ca: Ca = None,
) -> Source:
    """Write the catalog of gRPC methods, unary and server-streaming, to review.

    Nothing is put in force. Each entry holds its descriptors, so that no server can change what a
    call becomes, and a digest. Of a server with reflection, the worker compares it once a minute,
    and does not call what is otherwise now (target_changed).
    """
    if address is None:
        raise fail("Name the service's HOST:PORT.")
    options = {"plaintext": True} if plaintext else {}
    if descriptors is None:
        options["reflection"] = True
    target = {"kind": "grpc", **http_target(address, bearer, ca), "options": options}
    async with undeclared(target) as opening:
        told = await _told(opening, None if descriptors is None else str(descriptors))
    drafts = _drafts(told)
    services = sorted({one.source.rpartition("/")[0] for one in drafts})
    return Source(
        told=f"gRPC {', '.join(services) or 'server'} at {address}",
        name=services[0].rpartition(".")[2].lower() if services else "grpc",
        target={key: one for key, one in target.items() if one != {}},
        found=drafts,
    )


async def found(opening: Opening, told: str | None) -> list[Draft | Skipped] | None:
    """The methods as they are now; None where the target has no reflection."""
    if told is None and not opening.target.options.get("reflection", False):
        return None
    return _drafts(await _told(opening, told))


def key_of(mapping: Mapping[str, Any]) -> str:
    """By what a reviewed entry is found again."""
    return str(mapping.get("method"))


async def _told(opening: Opening, file: str | None) -> list[str]:
    """FileDescriptorSets in base64: a file's, or one of each service by reflection."""
    if file is not None:
        raw = await asyncio.to_thread(Path(file).read_bytes)
        if len(raw) > BYTES_MAX:
            raise BadRequestError(f"{file} has over {BYTES_MAX} bytes")
        return [base64.b64encode(raw).decode()]
    channels: Any = import_module("adapters.grpc.channels")
    reflection: Any = import_module("adapters.grpc.reflection")
    shown = tuple((await headers(opening.target, opening.secrets, None)).items())
    channel = await channels.channel_of(opening)
    try:
        services = await reflection.services(channel, shown)
        return [await reflection.descriptors(channel, one, shown) for one in services]
    finally:
        await channel.close()


def _drafts(told: Iterable[str]) -> list[Draft | Skipped]:
    describing: Any = import_module("adapters.grpc.describing")
    made: dict[str, Draft | Skipped] = {}
    try:
        for one in (method for each in told for method in describing.methods(each)):
            if isinstance(one, describing.Unusable):
                made[one.name] = Skipped(source=one.name, reason=one.reason)
            else:
                made[one.name] = _draft(one)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    return list(made.values())


def _draft(one: Any) -> Draft:
    short = one.name.rpartition("/")[2]
    deletes = short.startswith(DELETES) and not one.reads
    hints: dict[str, Any] = {"readOnlyHint": True} if one.reads else {}
    if one.idempotent:
        hints["idempotentHint"] = True
    if deletes:
        hints["destructiveHint"] = True
    silent = not (one.reads or one.idempotent)
    return Draft(
        source=one.name,
        key=one.name,
        short=short,
        description=one.description or f"{one.name}.",
        input_schema=one.input_schema,
        output_schema=one.output_schema,
        mapping={"method": one.name, "descriptors": one.descriptors, "digest": one.digest},
        read_only=one.reads,
        idempotent=one.idempotent,
        destructive=deletes,
        annotations=hints,
        notes=("It has no idempotency_level, so it has one attempt.",) if silent else (),
    )
