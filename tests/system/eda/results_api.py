"""A results API that records what adapters say, and answers as a test tells it."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Self
from uuid import uuid4

from tests.system.eda.http_server import serving

TOKEN = "the-adapters-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One word of an adapter."""

    correlation_id: str
    word: str  # claim, progress, result, error or reject
    body: Any
    token: str | None


@dataclass(slots=True)
class ResultsApi:
    """The server; `said` grows, the other fields are the test's to change."""

    said: list[Said] = field(default_factory=list[Said])
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    claims: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """What a command's claim is answered beside the rest."""
    commands: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    unkept: dict[str, str] = field(default_factory=dict[str, str])  # word -> why it answers 422
    refused: dict[str, str] = field(default_factory=dict[str, str])
    states: dict[str, str] = field(default_factory=dict[str, str])  # command -> what it is in
    cancelled: set[str] = field(default_factory=set[str])
    lease_s: float = 60
    failing: int = 0  # answers 503 to so many requests
    deaf: bool = False  # answers 503 to progress
    heard: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    """The path of each request, and its traceparent."""
    token: str = ""  # answers 401 to any other, if set
    unauthorized: int = 0
    url: str = ""
    tls: SSLContext | None = None
    _serving: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.url = self._serving.enter_context(serving(self.answer, self.tls, hear=self._hear))
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.close()

    def _hear(self, path: str, traceparent: str | None) -> None:
        self.heard.append((path, traceparent))

    def answer(self, method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        """Record a word and answer it."""
        if method != "POST":
            return 501, {}
        if self.failing > 0:
            self.failing -= 1
            return 503, {}
        if self.token and token != self.token:
            self.unauthorized += 1
            return 401, {}
        if path == "/results/batch":
            return 200, {"items": [self._item(item, token) for item in body["items"]]}
        return self._answer(path, body, token)

    def _answer(  # noqa: PLR0911 a return for each word
        self, path: str, body: Any, token: str | None
    ) -> tuple[int, Any]:
        _, _, correlation_id, *rest = path.split("/")
        word = rest[0] if rest else {"ok": "result", "error": "error"}[body["status"]]
        said = Said(correlation_id=correlation_id, word=word, body=body, token=token)
        self.said.append(said)
        if word in self.unkept:
            return 422, {"detail": self.unkept[word]}
        match word:
            case "claim" if correlation_id in self.refused:
                return 409, {"proceed": False, "reason": self.refused[correlation_id]}
            case "claim":
                return self._claim(correlation_id, body)
            case "run":
                return 200, {"ok": True, "counts": True, "state": self._state_of(correlation_id)}
            case "progress" if self.deaf:
                return 503, {}
            case "progress":
                return 200, {"ok": True, "cancel_requested": correlation_id in self.cancelled}
            case _:
                return 200, {"ok": True, "state": "succeeded", "repeated": False}

    def _item(self, item: dict[str, Any], token: str | None) -> dict[str, Any]:
        named = {name: value for name, value in item.items() if name != "op"}
        path = f"/results/{named.pop('correlation_id')}"
        status, answer = self._answer(f"{path}/{item['op']}", named, token)
        return {"status": status} | answer

    def _state_of(self, correlation_id: str) -> str:
        if correlation_id in self.states:
            return self.states[correlation_id]
        words = [said.word for said in self.said if said.correlation_id == correlation_id]
        if {"result", "error", "reject"} & set(words):
            return "succeeded"
        return "running" if "claim" in words else "dispatched"

    def _claim(self, correlation_id: str, body: Any) -> tuple[int, Any]:
        """As the broker: what the claim says of the command has to be so."""
        command = self.commands[correlation_id]
        named = ("tenant_id", "tool", "method")
        if any(name in body and body[name] != command[name] for name in named):
            return 409, {"proceed": False, "reason": "claim_mismatch"}
        said = {name: command[name] for name in (*named, "ordering_key")}
        granted = {"proceed": True, "args": self.args[correlation_id], "attempt": 1}
        lease = {"lease_s": self.lease_s, "deadline_at": "2030-01-01T00:00Z"}
        return 200, said | granted | lease | dict(self.claims.get(correlation_id, {}))

    def command(self, tool: str, method: str, args: Any, **changes: Any) -> dict[str, Any]:
        """A command's envelope, which this API will grant once it is claimed."""
        correlation_id = str(uuid4())
        self.args[correlation_id] = args
        made = {
            "envelope_version": "1.0",
            "correlation_id": correlation_id,
            "idempotency_key": "key",
            "tenant_id": "demo",
            "user_id": "ada",
            "tool": tool,
            "method": method,
            "args": args,
            "ordering_key": None,
            "attempt": 1,
        }
        self.commands[correlation_id] = made | changes
        return made | changes

    def of(self, command: Mapping[str, Any]) -> list[Said]:
        """What its own adapter said about a command."""
        return [said for said in self._about(command) if said.word != "run"]

    def words(self, command: Mapping[str, Any]) -> list[str]:
        """The kinds of what its own adapter said about a command."""
        return [said.word for said in self.of(command)]

    def runs(self, command: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What was said about its runs by who started them."""
        return [said.body for said in self._about(command) if said.word == "run"]

    def _about(self, command: Mapping[str, Any]) -> list[Said]:
        return [said for said in self.said if said.correlation_id == command["correlation_id"]]

    def told(self, command: Mapping[str, Any]) -> dict[str, Any] | None:
        """The error that a run of it has ended in."""
        errors = [body["error"] for body in self.runs(command) if body.get("error")]
        return errors[-1] if errors else None
