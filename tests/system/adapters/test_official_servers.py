"""An MCP server of other people's, as a package has it: mcp-server-time."""

import json
import sys
from pathlib import Path

from adapters.contract import Result
from adapters.kinds import Adapters
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of

SERVER = Path(sys.executable).with_name("mcp-server-time")


async def test_the_official_time_server_answers_over_stdio() -> None:
    adapters = Adapters()
    target = Target(name="time", kind="mcp", address=f"stdio:{SERVER}")
    args = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    call = call_of(target, args=args, mapping={"tool": "convert_time"})
    outcome = await adapters.run(call, Heard())
    await adapters.close()
    assert isinstance(outcome, Result), outcome
    assert outcome.content is not None
    assert "T21:00:00+09:00" in json.loads(outcome.content[0]["text"])["target"]["datetime"]
