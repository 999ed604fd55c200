"""What the launcher is told of a program: all of it the target's, but its arguments."""

import os
from typing import Any, Final

from adapters.command.checks import GRACE_S, LIMITS, LIMITS_BY_DEFAULT
from adapters.contract import Opening

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


async def spec_of(opening: Opening, argv: list[str], names: dict[str, str]) -> dict[str, Any]:
    """A program's environment (what the target lists, and `names`), folder and limits.

    Raises:
        CallFailedError: a reference has no value.
    """
    options = opening.target.options

    def in_tenant(text: str | None) -> str | None:
        return None if text is None else text.replace("{tenant}", opening.tenant)

    env = {"PATH": PATH, "LANG": "C.UTF-8"}
    env |= {one: os.environ[one] for one in options.get("inherit", ()) if one in os.environ}
    env |= names
    env |= {name: in_tenant(one) or "" for name, one in options.get("env", {}).items()}
    for name, reference in (opening.target.credential or {}).get("values", {}).items():
        env[name] = await opening.secrets.value(reference)
    asked = {LIMITS[name]: bound for name, bound in options.get("limits", {}).items()}
    return {
        "program": argv[0],
        "argv": argv,
        "env": env,
        "folder": in_tenant(options.get("folder")),
        "parent": in_tenant(options.get("workspace")),
        "limits": {**LIMITS_BY_DEFAULT, **asked},
        "grace_s": options.get("grace_s", GRACE_S),
    }
