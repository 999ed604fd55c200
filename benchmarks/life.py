"""The whole life of a call: accepted, in Kafka, claimed, ended, its caller told; beside peers."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaConsumer

from app.catalog import file as catalog_file
from app.catalog.adapter import ToolAdapter
from app.postgres import migrate
from benchmarks import http, peers
from benchmarks.intake import calls_for, empty_database
from benchmarks.measure import Figure, Stopwatch, at_least, at_most, in_turns, percentile
from benchmarks.servers import UNBOUNDED, Servers, consumer
from devstack.stack import worker_process
from relay.kafka import create_topics

CALLERS: Final = 64
ITEMS_MAX: Final = 500
ROUTE_CONNECTIONS: Final = 32


class Client:
    """One keep-alive connection to the app."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a POST that succeeds."""
        if self._pipe is None:
            self._pipe = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._pipe
        sent = orjson.dumps(body)
        head = (
            f"POST {path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n"
        )
        writer.write(head.encode() + sent)
        status, answer = await http.response(reader)
        assert status.startswith(b"2"), (path, status, answer[:500])
        return orjson.loads(answer)

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe[1].close()


@asynccontextmanager
async def batching(port: int, token: str, incoming: AIOKafkaConsumer) -> AsyncGenerator[None]:
    """A no-op adapter that claims and ends in batches, as a resident worker does."""
    clients = [Client(port, token) for _ in range(4)]
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)

    async def serve(events: list[dict[str, Any]], client: Client) -> None:
        claims = [claim_of(event) | {"op": "claim"} for event in events]
        claimed = await client.post("/results/batch", {"items": claims})
        ends = [
            {"op": "result", "correlation_id": one["correlation_id"], "status": "ok"}
            | {"attempt": one["attempt"], "result": {"text": "done"}}
            for one in claimed["items"]
            if one.get("proceed")
        ]
        if ends:
            ended = await client.post("/results/batch", {"items": ends})
            assert all(one["status"] == 200 for one in ended["items"]), ended
        free.put_nowait(client)

    async with asyncio.TaskGroup() as group:

        async def run() -> None:
            while True:
                client = await free.get()
                group.create_task(serve(await taken(incoming), client))

        running = group.create_task(run())
        yield
        running.cancel()
    for client in clients:
        client.close()


@asynccontextmanager
async def by_routes(port: int, token: str, incoming: AIOKafkaConsumer) -> AsyncGenerator[None]:
    """A no-op adapter that claims and ends one by one, as playbooks do."""
    free: asyncio.Queue[Client] = asyncio.Queue()
    clients = [Client(port, token) for _ in range(ROUTE_CONNECTIONS)]
    for client in clients:
        free.put_nowait(client)

    async def serve(event: dict[str, Any], client: Client) -> None:
        claim = claim_of(event)
        path = f"/results/{claim.pop('correlation_id')}"
        claimed = await client.post(f"{path}/claim", claim)
        end = {"status": "ok", "attempt": claimed["attempt"], "result": {"text": "done"}}
        await client.post(path, end)
        free.put_nowait(client)

    async with asyncio.TaskGroup() as group:

        async def run() -> None:
            while True:
                for event in await taken(incoming):
                    group.create_task(serve(event, await free.get()))

        running = group.create_task(run())
        yield
        running.cancel()
    for client in clients:
        client.close()


async def taken(incoming: AIOKafkaConsumer) -> list[dict[str, Any]]:
    """The next commands, as soon as there is one."""
    while True:
        found = await incoming.getmany(timeout_ms=1000, max_records=ITEMS_MAX)
        events = [orjson.loads(one.value or b"") for records in found.values() for one in records]
        if events:
            return events


def claim_of(event: dict[str, Any]) -> dict[str, Any]:
    """The claim of an event, with what it says of its command."""
    names = ("correlation_id", "attempt", "tenant_id", "tool", "method")
    return {name: event[name] for name in names} | {"adapter": str(uuid4())}


def worked_call() -> dict[str, Any]:
    """A call of a tool whose adapter runs in the worker, and does nothing."""
    return http.http_call() | {"tool": "worked", "method": "echo"}


@asynccontextmanager
async def resident(servers: Servers, port: int, token: str) -> AsyncGenerator[None]:
    """A worker, which is ready once it has done a call."""
    env = {
        "MCP_BROKER_KAFKA_BOOTSTRAP": await servers.kafka(),
        "MCP_BROKER_URL": f"http://127.0.0.1:{port}",
        "MCP_BROKER_TOKEN": token,
        "MCP_BROKER_WORKER_GROUP": f"bench-{uuid4().hex[:8]}",
        "MCP_BROKER_WORKER_CALLS_PER_TENANT_MAX": "256",
        "MCP_BROKER_LOG_LEVEL": "WARNING",
    }
    process = worker_process(home=servers.home, env=env, name="worker-life")
    process.start()
    client = Client(port, servers.token())
    try:
        answer = await client.post("/mcp/tools/call", worked_call())
        assert answer["state"] == "succeeded", (answer, process.tail())
        yield
    finally:
        client.close()
        await asyncio.to_thread(process.stop)


async def offer_worked(dsn: str) -> None:
    """The tool of `worked_call`, without bounds."""
    entry = catalog_file.ToolEntry(
        tool="worked",
        method="echo",
        description="Echo a text.",
        input_schema={"type": "object"},
        adapter=ToolAdapter(kind="echo", target="mirror"),
        in_flight_max=UNBOUNDED,
    )
    target = catalog_file.TargetEntry(name="mirror", kind="echo", limits={"calls_max": 1024})
    file = catalog_file.CatalogFile(tools=(entry,), targets=(target,))
    async with migrate.connected(dsn) as engine:
        await catalog_file.apply(engine, file, prune=False)


async def whole(servers: Servers) -> list[Figure]:
    """Calls a second from the call to its result, beside the peers' from enqueue to done."""
    seconds = servers.pick(5, 1)
    bootstrap = await servers.kafka()
    adapter = servers.issuer.token(tenant="adapters", user="bench", scopes=["results:write"])
    async with servers.database() as dsns:
        await offer_worked(dsns.owner)
        await create_topics(servers.settings(dsns.relay))
        async with (
            servers.relay(dsns.relay, name="relay-life"),
            servers.app(dsns.app) as app,
            consumer(bootstrap) as incoming,
        ):
            head = {"Authorization": f"Bearer {servers.token()}"}

            async def calls(executor: Callable[..., Any], callers: int, s: float) -> float:
                async with executor(app.port, adapter, incoming):
                    return await http.requests_for(
                        app.port,
                        "/mcp/tools/call",
                        http.http_call,
                        headers=head,
                        callers=callers,
                        seconds=s,
                        expect=b'"state":"succeeded"',
                    )

            async def worked(callers: int, s: float) -> float:
                async with resident(servers, app.port, adapter):
                    return await http.requests_for(
                        app.port,
                        "/mcp/tools/call",
                        worked_call,
                        headers=head,
                        callers=callers,
                        seconds=s,
                        expect=b'"state":"succeeded"',
                    )

            await calls(batching, CALLERS, 1)
            turns: dict[str, Any] = {
                "batches": lambda: calls(batching, CALLERS, seconds),
                "routes": lambda: calls(by_routes, CALLERS, seconds),
                "worker": lambda: worked(CALLERS, seconds),
            }
            for name in peers.WORKERS:
                turns[name] = lambda name=name: peer_for(servers, name, seconds=seconds)
            found = await in_turns(servers.repeats, **turns)
            async with batching(app.port, adapter, incoming):
                alone = await one_at_a_time(app.port, servers.token(), http.http_call)
            async with resident(servers, app.port, adapter):
                alone_worked = await one_at_a_time(app.port, servers.token(), worked_call)
            bare = await bare_record(bootstrap)
    return figures_of(found, alone, alone_worked, bare)


def figures_of(
    found: dict[str, list[float]],
    alone: list[float],
    alone_worked: list[float],
    bare: list[float],
) -> list[Figure]:
    """What was measured, beside the peers and a bare record."""
    figures: list[Figure] = []
    for name in peers.WORKERS:
        goal = {"PgQueuer": 1.0, "procrastinate": 6.0}[name]
        figures.append(
            at_least(
                goal,
                name=f"a call's whole life, batch reports, {CALLERS} callers",
                unit="calls/s",
                subject=found["batches"],
                baseline=found[name],
                against=f"{name}, enqueued -> done",
            )
        )
        figures.append(
            at_least(
                goal,
                name=f"a call's whole life, by the worker, {CALLERS} callers",
                unit="calls/s",
                subject=found["worker"],
                baseline=found[name],
                against=f"{name}, enqueued -> done",
            )
        )
    figures += [
        at_most(
            5,
            name="a call's whole life by the worker, one at a time, p50",
            unit="ms",
            subject=[percentile(alone_worked, 0.5)],
            baseline=[percentile(bare, 0.5)],
            against="a bare Kafka record",
        ),
        at_least(
            0.4,
            name=f"the same by single routes, {CALLERS} callers",
            unit="calls/s",
            subject=found["routes"],
            baseline=found["PgQueuer"],
            against="PgQueuer, enqueued -> done",
        ),
        at_most(
            4,
            name="a call's whole life, one at a time, p50",
            unit="ms",
            subject=[percentile(alone, 0.5)],
            baseline=[percentile(bare, 0.5)],
            against="a bare Kafka record",
        ),
    ]
    return figures


async def one_at_a_time(port: int, token: str, call: Callable[[], Any]) -> list[float]:
    """The ms of calls that follow each other."""
    client = Client(port, token)
    spent: list[float] = []
    for _ in range(100):
        watch = Stopwatch()
        answer = await client.post("/mcp/tools/call", call())
        assert answer["state"] == "succeeded"
        spent.append(watch.s * 1000)
    client.close()
    return spent[10:]


async def bare_record(bootstrap: str) -> list[float]:
    """The ms of a record from an idempotent producer to a consumer."""
    from benchmarks.dispatch import bare

    async with consumer(bootstrap) as incoming:
        return await bare(bootstrap, incoming, rate=50)


async def peer_for(servers: Servers, name: str, *, seconds: float) -> float:
    """Jobs a second of a peer: each caller enqueues the next once its job was worked on."""
    waiting: dict[str, asyncio.Future[None]] = {}

    def heard(job: str) -> None:
        if job in waiting and not waiting[job].done():
            waiting[job].set_result(None)

    async with (
        empty_database(await servers.postgres(), name) as dsn,
        peers.WORKERS[name](dsn, heard) as start,
    ):

        async def once() -> None:
            job = str(uuid4())
            done = waiting[job] = asyncio.get_running_loop().create_future()
            await start(job)
            async with asyncio.timeout(30):
                await done
            del waiting[job]

        return await calls_for(once, callers=CALLERS, seconds=seconds)
