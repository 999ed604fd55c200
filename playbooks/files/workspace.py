"""A tool's folder of a tenant, and git that runs nothing of what it finds in one.

What a caller has cloned is the caller's: links, other repositories' files, configuration. So each
tool has a folder of its own for each tenant, no part of the way to it may be a link, and git takes
its configuration from here alone. `MCP_WORKSPACE` is the operator's, and may itself be a link.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# A clone's own configuration can name programs to run; these words go before it.
SAFE = {
    "safe.bareRepository": "explicit",  # no repository is found in the middle of a work tree
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.sshCommand": "ssh -o BatchMode=yes",
    "submodule.recurse": "false",
    "log.showSignature": "false",
    "protocol.allow": "never",  # but for GIT_ALLOW_PROTOCOL
}


def plain(text: object, name: str) -> str:
    """A name that is one step of a path, and neither an option nor hidden."""
    if not isinstance(text, str) or not PLAIN.fullmatch(text) or len(text) > 128:
        sys.exit(f"{name} must be a plain name")
    return text


def refuse_what_vanishes(root: Path) -> None:
    """A controller's job runs in a container, whose own files go with it: a mount outlives it."""
    ours = os.environ.get("AWX_PRIVATE_DATA_DIR")
    if not ours:
        return
    mounts = [one for one in (root, *root.parents) if os.path.ismount(one)]
    if mounts[0] in {Path("/"), Path("/runner"), Path(ours)}:
        sys.exit(
            f"the workspace {root} is this job's own and would vanish with it: mount a folder that"
            " lasts there (the controller's paths to expose to isolated jobs, or a volume of the"
            " container group's)"
        )


def enter(tool: str, tenant: str) -> Path:
    """Go to a tool's folder of a tenant; paths are relative to it from here on.

    A tool's name begins with an underscore, as no tenant's does: clones of an earlier layout
    (a folder a tenant) are in no tool's folder.
    """
    plain(tenant, "tenant")
    root = Path(os.environ.get("MCP_WORKSPACE", ""))
    if not root.is_absolute():
        sys.exit("the adapter has no workspace: MCP_WORKSPACE is a path")
    root.mkdir(parents=True, exist_ok=True)
    refuse_what_vanishes(root.resolve())
    os.chdir(root)
    for name in (tool, tenant):
        if not os.path.lexists(name):
            try:
                os.mkdir(name)
            except FileExistsError:  # another run has made it
                pass
        step_into(name)
    return root / tool / tenant


def step_into(name: str) -> None:
    """Go to a folder in this one; a link is none."""
    try:
        folder = os.open(name, FOLDER)
    except OSError as error:
        sys.exit(f"{name} is no folder of this adapter's: {error.strerror}")
    os.fchdir(folder)
    os.close(folder)


def is_folder(path: str | Path) -> bool:
    """Whether it is a folder, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def read(*path: str) -> str | None:
    """A file, each step to it a folder in the one before and no link; None where there is none."""
    *folders, name = path
    at = os.open(".", FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)
    with open(file, encoding="utf-8", errors="replace") as text:
        return text.read()


def git(*words: str | Path, settings: dict | None = None, protocols: str = "", **options):
    """Run git; its configuration is SAFE, `settings`, and a file of the operator's."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    env |= {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.environ.get("MCP_GIT_CONFIG") or "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocols,
    }
    named = SAFE | (settings or {})
    env["GIT_CONFIG_COUNT"] = str(len(named))
    for n, (name, text) in enumerate(named.items()):
        env |= {f"GIT_CONFIG_KEY_{n}": name, f"GIT_CONFIG_VALUE_{n}": text}
    env |= options.pop("env", {})
    return subprocess.run(["git", *words], env=env, check=False, **options)


def answer_of(place: str | Path, *words: str) -> str:
    """What git says in a repository: in this one, not in one that it looks for."""
    told = ["--git-dir=.git", "--work-tree=.", *words]
    done = git("-C", place, *told, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"git {words[0]} failed with {done.returncode}")
    return done.stdout.decode(errors="replace").strip()
