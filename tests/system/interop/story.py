"""What every client does and sees, whatever it is made of.

1. It lists the tools.
2. It calls `work`, releases the job once it hears of its progress, and gets the result.
3. It calls `slow`, which outlives the wait: accepted; it releases the job and asks command_status.
4. It gives a call up by its own time-out, finds it by command_list and gets its result.
5. It drops a call once it hears of its progress, finds it and cancels it.
6. It drops a call of a tool whose policy ties it to its caller: that ends it.
7. It makes a task, releases the job and gets the result; it makes another one and cancels it.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

UNFINISHED: Final = ["queued", "dispatched", "running"]
TIMEOUT_S: Final = 3.0
"""When the client itself gives up: long after its call was accepted."""
BOUND_S: Final = 20
"""Of anything that a client waits for."""


class TaskStory(BaseModel):
    """What a client saw of its two tasks."""

    model_config = ConfigDict(extra="forbid")

    statuses: list[str]
    result: dict[str, Any]
    cancelled: str


class Story(BaseModel):
    """What a client saw; structured contents are as they came."""

    model_config = ConfigDict(extra="forbid")

    version: str
    tools: list[str]
    heard: list[float]
    result: dict[str, Any]
    accepted: dict[str, Any]
    recovered: dict[str, Any]
    gave_up: bool
    found: dict[str, Any]
    cancelled: dict[str, Any]
    dropped: dict[str, Any]
    task: TaskStory | None
    told: bool | None = None
    """Whether a client of the older era heard that its tools changed."""
    asked: dict[str, Any] | None = None
    """What a call answered whose approval the client's person gave, where it can show questions."""
