"""The story over plain HTTP, sent as curl sends it: no SDK, no library of theirs or ours.

Answers come as JSON, or as an event stream where there is progress (always, before 2026-07-28).
"""

import http.client
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.edges.mcp.wire import TASKS, VERSION
from tests.system.interop.story import BOUND_S, TIMEOUT_S, UNFINISHED, Story, TaskStory

NAMED: Final = {"tools/call": "name", "tasks/get": "taskId", "tasks/cancel": "taskId"}
"""What 2026-07-28 repeats in the header Mcp-Name."""

Hear = Callable[[dict[str, Any]], bool]
"""Is told each notification; whether to go on listening."""


class Curl:
    """One request a connection."""

    def __init__(self, *, port: int, token: str, version: str) -> None:
        self._port = port
        self._token = token
        self._version = version
        self._ids = itertools.count(1)
        self.types: set[str | None] = set()

    def ask(
        self,
        method: str,
        params: dict[str, Any],
        *,
        tasks: bool = False,
        hear: Hear | None = None,
        timeout_s: float = BOUND_S,
    ) -> Any:
        """The request's result; None where `hear` said to hang up.

        Raises:
            TimeoutError: silence for that long.
        """
        headers, body = self._request(method, params, tasks=tasks, progress=hear is not None)
        with self._sent(headers, body, timeout_s) as answer:
            self.types.add(answer.headers.get_content_type())
            assert answer.status == 200, (answer.status, answer.read())
            for message in messages(answer):
                if "method" not in message:
                    assert message["id"] == body["id"]
                    return message["result"]
                assert hear is not None, f"nobody asked for {message}"
                if not hear(message):
                    return None
        raise AssertionError("the stream ended without an answer")

    def call(self, tool: str, arguments: dict[str, Any], **more: Any) -> Any:
        """A tool's structured content."""
        done = self.ask("tools/call", {"name": tool, "arguments": arguments}, **more)
        if done is None:
            return None
        assert not done.get("isError"), done
        return done["structuredContent"]

    def _request(
        self, method: str, params: dict[str, Any], *, tasks: bool, progress: bool
    ) -> tuple[dict[str, str], dict[str, Any]]:
        number = next(self._ids)
        meta: dict[str, Any] = {"progressToken": number} if progress else {}
        headers = {
            "User-Agent": "curl/8.5.0",
            "Accept": "*/*",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self._token}",
            "MCP-Protocol-Version": self._version,
        }
        if self._version == VERSION:
            headers["Mcp-Method"] = method
            if method in NAMED:
                headers["Mcp-Name"] = params[NAMED[method]]
            meta |= {
                "io.modelcontextprotocol/protocolVersion": VERSION,
                "io.modelcontextprotocol/clientInfo": {"name": "curl", "version": "8"},
                "io.modelcontextprotocol/clientCapabilities": {
                    "extensions": {TASKS: {}} if tasks else {}
                },
            }
        whole = {**params, "_meta": meta} if meta else params
        return headers, {"jsonrpc": "2.0", "id": number, "method": method, "params": whole}

    @contextmanager
    def _sent(
        self, headers: dict[str, str], body: Any, timeout_s: float
    ) -> Generator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        try:
            connection.request("POST", "/mcp", json.dumps(body), headers)
            with connection.getresponse() as answer:  # it holds the socket too
                yield answer
        finally:
            connection.close()


def messages(answer: http.client.HTTPResponse) -> Iterator[Any]:
    """Each message as it comes: a body's one, or an event stream's."""
    if answer.headers.get_content_type() == "application/json":
        yield json.load(answer)
        return
    for line in answer:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def play(*, port: int, token: str, user: str, version: str) -> tuple[Story, set[str | None]]:
    """Do all of it; gives the content types of the answers too. Blocks."""
    curl = Curl(port=port, token=token, version=version)
    one = Player(curl, user)
    tools = [tool["name"] for tool in curl.ask("tools/list", {})["tools"]]
    heard, result = one.progress()
    accepted, recovered = one.accepted()
    gave_up, found = one.gives_up()
    story = Story(
        version=version,
        tools=tools,
        heard=heard,
        result=result,
        accepted=accepted,
        recovered=recovered,
        gave_up=gave_up,
        found=found,
        cancelled=one.cancels(),
        dropped=one.drops(),
        task=one.tasks() if version == VERSION else one.legacy_tasks(),
    )
    return story, curl.types


class Player:
    """One user of curl."""

    def __init__(self, curl: Curl, user: str) -> None:
        self._curl = curl
        self._user = user

    def job(self, name: str) -> dict[str, Any]:
        return {"job": f"{self._user} {name}"}

    def runs(self, name: str, message: dict[str, Any]) -> bool:
        """Whether this is the progress that the job itself has said."""
        assert message["method"] == "notifications/progress"
        return self.job(name)["job"] in message["params"]["message"]

    def progress(self) -> tuple[list[float], dict[str, Any]]:
        heard: list[float] = []

        def hear(message: dict[str, Any]) -> bool:
            heard.append(message["params"]["progress"])
            if self.runs("progress", message):
                self._curl.call("interop_release", self.job("progress"))
            return True

        return heard, self._curl.call("interop_work", self.job("progress"), hear=hear)

    def accepted(self) -> tuple[dict[str, Any], dict[str, Any]]:
        accepted = self._curl.call("interop_slow", self.job("slow"))
        self._curl.call("interop_release", self.job("slow"))
        return accepted, self.outcome(accepted["command_id"])

    def outcome(self, command_id: str) -> dict[str, Any]:
        return self._curl.call("command_status", {"command_id": command_id, "wait_s": BOUND_S})

    def unfinished(self) -> str:
        """The one command of ours that runs, by command_list alone."""
        until = time.monotonic() + BOUND_S
        while time.monotonic() < until:
            listed = self._curl.call("command_list", {"state": UNFINISHED})["commands"]
            if listed:
                [one] = listed
                return one["command_id"]
        raise TimeoutError

    def gives_up(self) -> tuple[bool, dict[str, Any]]:
        gave_up = False
        try:
            self._curl.call("interop_work", self.job("time-out"), timeout_s=TIMEOUT_S)
        except TimeoutError:
            gave_up = True
        one = self.unfinished()
        self._curl.call("interop_release", self.job("time-out"))
        return gave_up, self.outcome(one)

    def cancels(self) -> dict[str, Any]:
        self.drop("interop_work", "cancel")
        one = self.unfinished()
        self._curl.call("command_cancel", {"command_id": one, "reason": "not needed"})
        return self.outcome(one)

    def drops(self) -> dict[str, Any]:
        self.drop("interop_tied", "drop")
        [one] = self._curl.call("command_list", {"limit": 1})["commands"]
        return self.outcome(one["command_id"])

    def drop(self, tool: str, name: str) -> None:
        """Call, and hang up once the job runs."""

        def hear(message: dict[str, Any]) -> bool:
            return not self.runs(name, message)

        assert self._curl.call(tool, self.job(name), hear=hear) is None

    def tasks(self) -> TaskStory:
        """The extension of 2026-07-28: a result's type says that it is a task."""
        made = self._start("task")
        assert made["resultType"] == "task"
        self._curl.call("interop_release", self.job("task"))
        done = self._ended(made["taskId"])
        other = self._start("task-cancel")
        self._curl.ask("tasks/cancel", {"taskId": other["taskId"]}, tasks=True)
        return TaskStory(
            statuses=[made["status"], done["status"]],
            result=done["result"]["structuredContent"],
            cancelled=self._ended(other["taskId"])["status"],
        )

    def legacy_tasks(self) -> TaskStory:
        """Those of 2025-11-25: the caller asks for a task, and for its result."""
        made = self._start("task", task={"ttl": 60_000})["task"]
        self._curl.call("interop_release", self.job("task"))
        done = self._curl.ask("tasks/result", {"taskId": made["taskId"]})
        ended = self._ended(made["taskId"])
        other = self._start("task-cancel", task={})["task"]
        self._curl.ask("tasks/cancel", {"taskId": other["taskId"]})
        return TaskStory(
            statuses=[made["status"], ended["status"]],
            result=done["structuredContent"],
            cancelled=self._ended(other["taskId"])["status"],
        )

    def _start(self, name: str, **more: Any) -> Any:
        params = {"name": "interop_work", "arguments": self.job(name), **more}
        return self._curl.ask("tools/call", params, tasks=True)

    def _ended(self, task_id: str) -> Any:
        until = time.monotonic() + BOUND_S
        while time.monotonic() < until:
            shown = self._curl.ask("tasks/get", {"taskId": task_id}, tasks=True)
            if shown["status"] != "working":
                return shown
        raise TimeoutError
