"""A small service on local files and git: what the saga example makes, changes and undoes.

`services/NAME` is a git repository, its configuration a commit, and `enabled/NAME` says that it
is in service. Whatever is made carries its owner, the saga's id: each operation can be repeated,
and an undo removes what that saga made and nothing else, also where the saga never got so far.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
OWNER = Path(".git") / "mcp-owner"
TRAILER = "--format=%(trailers:key=Owner,valueonly)"
IDENTITY = ["-c", "user.name=mcp-broker", "-c", "user.email=mcp-broker@localhost"]

parser = argparse.ArgumentParser()
parser.add_argument("--root", type=Path, required=True, help="the tenant's folder")
parser.add_argument("--args", type=json.loads, required=True, help="the command's, as JSON")
parser.add_argument("operation")


def main() -> None:
    given = parser.parse_args()
    args, operation = given.args, given.operation
    if operation not in OPERATIONS:
        sys.exit(f"there is no operation {operation!r}")
    for label in ("name", "owner"):
        if not PLAIN.fullmatch(args.get(label) or ""):
            sys.exit(f"{label} must be a plain name")
    if args.get("fail_at") == operation:
        sys.exit(f"{operation} fails, as fail_at asks")
    place = given.root / "services" / args["name"]
    enabled = given.root / "enabled" / args["name"]
    print(json.dumps(OPERATIONS[operation](place, enabled, args)))


def provision(place: Path, _: Path, args: dict) -> dict:
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place and renamed: a run that is killed leaves no half service there.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-") as folder:
            part = Path(folder) / "service"
            subprocess.run(["git", "init", "-q", "-b", "main", part], check=True)
            (part / "service.json").write_text(json.dumps({"name": args["name"]}) + "\n")
            commit(part, f"Provision {args['name']}")
            (part / OWNER).write_text(args["owner"])
            try:
                part.rename(place)
            except OSError as error:
                sys.exit(f"service {args['name']} appeared meanwhile: {error.strerror}")
    if owner_of(place) != args["owner"]:
        sys.exit(f"service {args['name']} exists, and is another's")
    return {"path": str(place), "head": git(place, "rev-parse", "HEAD")}


def deprovision(place: Path, _: Path, args: dict) -> dict:
    mine = owner_of(place) == args["owner"]
    if mine:
        shutil.rmtree(place)
    return {"path": str(place), "removed": mine}


def configure(place: Path, _: Path, args: dict) -> dict:
    if not place.exists():
        sys.exit(f"there is no service {args['name']}")
    if trailer(place) != args["owner"]:
        wanted = json.dumps(args["settings"], indent=2, sort_keys=True) + "\n"
        (place / "config.json").write_text(wanted)
        commit(place, f"Configure {args['name']}\n\nOwner: {args['owner']}")
    return {"path": str(place / "config.json"), "head": git(place, "rev-parse", "HEAD")}


def restore(place: Path, _: Path, args: dict) -> dict:
    if not place.exists():
        return {"restored": False}
    mine = trailer(place) == args["owner"]
    if not mine and args["owner"] in git(place, "log", TRAILER).split():
        sys.exit(f"service {args['name']} was configured again since: restore it by hand")
    # Without a commit of its own, a killed run may have left the file changed.
    git(place, "reset", "-q", "--hard", "HEAD~1" if mine else "HEAD")
    git(place, "clean", "-qfd")
    return {"restored": mine, "head": git(place, "rev-parse", "HEAD")}


def enable(place: Path, enabled: Path, args: dict) -> dict:
    if not place.exists():
        sys.exit(f"there is no service {args['name']}")
    enabled.parent.mkdir(parents=True, exist_ok=True)
    try:
        with enabled.open("x") as file:
            file.write(args["owner"])
    except FileExistsError:
        if enabled.read_text() != args["owner"]:
            sys.exit(f"service {args['name']} was enabled by another")
    return {"path": str(enabled), "enabled": True}


def disable(_: Path, enabled: Path, args: dict) -> dict:
    mine = enabled.exists() and enabled.read_text() == args["owner"]
    if mine:
        enabled.unlink()
    return {"path": str(enabled), "enabled": False, "changed": mine}


def owner_of(place: Path) -> str | None:
    try:
        return (place / OWNER).read_text()
    except OSError:
        return None


def trailer(place: Path) -> str:
    return git(place, "log", "-1", TRAILER)


def commit(place: Path, message: str) -> None:
    git(place, "add", "--all")
    git(place, *IDENTITY, "commit", "-q", "--allow-empty", "-m", message)


def git(place: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", place, *words], check=True, stdout=subprocess.PIPE)
    return done.stdout.decode(errors="replace").strip()


OPERATIONS = {
    "provision": provision,
    "deprovision": deprovision,
    "configure": configure,
    "restore": restore,
    "enable": enable,
    "disable": disable,
}

main()
