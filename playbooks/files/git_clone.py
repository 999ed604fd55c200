"""Clone a repository beside its destination, rename it there, and print what it is as JSON.

A run that is killed leaves no half clone at the destination, and what it leaves beside it goes
with the next. Run again for the same owner, it finds its own clone and reports that.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = Path(".git") / "mcp-correlation-id"
LEFT_S = 24 * 3600

parser = argparse.ArgumentParser()
parser.add_argument("--dest", type=Path, required=True)
parser.add_argument("--incoming", type=Path, required=True, help="folder on the same file system")
parser.add_argument("--owner", required=True, help="the command's id")
parser.add_argument("--ref")
parser.add_argument("--depth", type=int)
parser.add_argument("repo")


def main() -> None:
    given = parser.parse_args()
    # So that an end by signal is one by exception: git is killed and its part is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if owner_of(given.dest) != given.owner:
        if os.path.lexists(given.dest):
            sys.exit(f"destination {given.dest.name} exists, and is another command's")
        clone(given)
    print(json.dumps(describe(given.dest)))


def owner_of(dest: Path) -> str | None:
    try:
        return (dest / MARK).read_text()
    except OSError:
        return None


def clone(given: argparse.Namespace) -> None:
    given.incoming.mkdir(parents=True, exist_ok=True)
    given.dest.parent.mkdir(parents=True, exist_ok=True)
    part = given.incoming / given.owner
    sweep(given.incoming, part)
    options = ["--progress", "--no-hardlinks"]
    options += [] if not given.ref else ["--branch", given.ref]
    options += [] if not given.depth else ["--depth", str(given.depth)]
    try:
        done = subprocess.run(["git", "clone", *options, "--", given.repo, part], check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)
        (part / MARK).write_text(given.owner)
        try:
            part.rename(given.dest)
        except OSError as error:
            sys.exit(f"destination {given.dest.name} appeared meanwhile: {error.strerror}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sweep(incoming: Path, part: Path) -> None:
    """Remove what killed runs have left: of this command, and of any a day ago."""
    shutil.rmtree(part, ignore_errors=True)
    for left in incoming.iterdir():
        try:
            old = time.time() - left.lstat().st_mtime > LEFT_S
        except OSError:  # its run has ended meanwhile
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def describe(dest: Path) -> dict:
    sizes = (path.lstat().st_size for path in dest.rglob("*") if not path.is_dir())
    return {
        "path": str(dest),
        "head": git(dest, "rev-parse", "HEAD"),
        "branch": git(dest, "rev-parse", "--abbrev-ref", "HEAD"),
        "size_bytes": sum(sizes),
    }


def git(dest: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", dest, *words], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode(errors="replace").strip()


main()
