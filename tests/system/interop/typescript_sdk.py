"""The story with the TypeScript SDK, from npm by a lock file, on the Node.js of a wheel."""

import hashlib
import shutil
from pathlib import Path

from devstack import paths
from tests.edges.mcp.conftest import Front
from tests.support import npm
from tests.system.interop.story import BOUND_S, TIMEOUT_S, Story

HERE = Path(__file__).with_name("node")
RUN_S = 60


def install() -> Path:
    """A folder with what the lock file names, from the cache or else from npm.

    Raises:
        UnreachableError: it is in neither.
    """
    lock = (HERE / "package-lock.json").read_bytes()
    home = paths.cache() / f"interop-{hashlib.sha256(lock).hexdigest()[:16]}"
    if home.exists():
        return home
    made = npm.room("interop")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, made)
    npm.fetched(["ci", "--prefix", str(made)], made=made, home=home)
    return home


def script(home: Path, name: str) -> Path:
    """A copy beside the packages: Node looks for them from a script's folder upwards."""
    written = (HERE / f"{name}.mjs").read_bytes()
    made = home / f"{name}-{hashlib.sha256(written).hexdigest()[:16]}.mjs"
    made.write_bytes(written)
    return made


async def play(front: Front, *, home: Path, user: str, version: str) -> Story:
    """Run story.mjs to its end."""
    env = {
        "MCP_TOKEN": front.issuer.token(tenant="demo", user=user, scopes=("tools",)),
        "TIMEOUT_MS": str(round(TIMEOUT_S * 1000)),
        "BOUND_MS": str(BOUND_S * 1000),
    }
    url = f"{front.app.url}/mcp"
    code, said, complained = await npm.node(
        script(home, "story"), url, user, version, run_s=RUN_S, **env
    )
    assert code == 0, complained.decode()
    return Story.model_validate_json(said)
