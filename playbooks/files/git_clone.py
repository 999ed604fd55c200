"""Clone a repository beside its destination, rename it there, and print what it is as JSON.

The command's arguments come by stdin. A run that is killed leaves no half clone at the destination,
and what it leaves beside it goes with the next. Run again for the same owner, it finds its own
clone and reports that; nothing is run in a clone once it is in its place.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import workspace

TOOL = "_clones"
INCOMING = Path(".incoming")
MARK = "mcp-clone.json"  # in .git, where nothing of a repository comes
LEFT_S = 24 * 3600
HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
# Asked by git for the one host that the credentials are for.
TOLD = 'printf "username=%s\\npassword=%s\\n" "$MCP_GIT_USERNAME" "$MCP_GIT_PASSWORD"'
HELPER = f"!f() {{ {TOLD}; }}; f"

parser = argparse.ArgumentParser()
parser.add_argument("--tenant", required=True)
parser.add_argument("--owner", required=True, help="the command's id")


def main() -> None:
    given = parser.parse_args()
    args = json.load(sys.stdin)
    dest = workspace.plain(args.get("dest") or name_of(args["repo"]), "dest")
    owner = workspace.plain(given.owner, "owner")
    # So that an end by signal is one by exception: git is killed and its part is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    folder = workspace.enter(TOOL, given.tenant)
    mark = mark_of(dest)
    if mark is None or mark["owner"] != owner:
        if os.path.lexists(dest):
            sys.exit(f"destination {dest} exists, and is another command's")
        mark = clone(dest, owner, args)
    print(json.dumps({"path": str(folder / dest)} | mark["clone"]))


def name_of(repo: str) -> str:
    return re.sub(r"[.]git$", "", re.sub(r"[/.]+$", "", repo).rpartition("/")[2])


def mark_of(dest: str) -> dict | None:
    """What git_clone has written into a clone of its own; None where there is none."""
    text = workspace.read(dest, ".git", MARK)
    return None if text is None else json.loads(text)


def clone(dest: str, owner: str, args: dict) -> dict:
    INCOMING.mkdir(exist_ok=True)
    part = INCOMING / owner
    sweep(part)
    repo, settings, secrets = parted(args["repo"])
    options = ["--progress", "--no-hardlinks"]
    options += ["--branch", str(args["ref"])] if args.get("ref") else []
    options += ["--depth", str(args["depth"])] if args.get("depth") else []
    low_speed = {"GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "60"}
    protocols = os.environ.get("MCP_GIT_PROTOCOLS") or "https:ssh"
    try:
        done = workspace.git(
            "clone",
            *options,
            "--",
            repo,
            part,
            settings=settings,
            protocols=protocols,
            env=low_speed | secrets,
        )
        if done.returncode != 0:
            sys.exit(done.returncode)
        mark = {"owner": owner, "clone": describe(part)}
        (part / ".git" / MARK).write_text(json.dumps(mark))
        try:
            part.rename(dest)
        except OSError as error:
            sys.exit(f"destination {dest} appeared meanwhile: {error.strerror}")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return mark


def parted(repo: str) -> tuple[str, dict, dict]:
    """A repository without the credentials of its URL, git's settings and environment for them.

    A URL is seen by whoever lists processes, and stays in the clone's configuration.
    """
    if not isinstance(repo, str) or not re.match(r"https?://", repo):
        return repo, {}, {}
    try:
        url = urlsplit(repo)
    except ValueError as error:
        sys.exit(f"repo is no URL: {error}")
    named, at, host = url.netloc.rpartition("@")
    if not HOST.fullmatch(host):
        sys.exit("repo is no URL: it has no plain host")
    if not at:
        return repo, {}, {}
    username, _, password = (unquote(part) for part in named.partition(":"))
    if re.search(r"[\x00-\x1f]", username + password):
        sys.exit("the credentials of repo have control characters")
    settings = {f"credential.{url.scheme}://{host}.helper": HELPER}
    secrets = {"MCP_GIT_USERNAME": username, "MCP_GIT_PASSWORD": password}
    return url._replace(netloc=host).geturl(), settings, secrets


def sweep(part: Path) -> None:
    """Remove what killed runs have left: of this command, and of any a day ago."""
    shutil.rmtree(part, ignore_errors=True)
    for left in INCOMING.iterdir():
        try:
            old = time.time() - left.lstat().st_mtime > LEFT_S
        except OSError:  # its run has ended meanwhile
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def describe(part: Path) -> dict:
    # os.walk follows no link.
    files = (Path(top, name) for top, _, names in os.walk(part) for name in names)
    return {
        "head": workspace.answer_of(part, "rev-parse", "HEAD"),
        "branch": workspace.answer_of(part, "rev-parse", "--abbrev-ref", "HEAD"),
        "size_bytes": sum(file.lstat().st_size for file in files),
    }


if __name__ == "__main__":
    main()
