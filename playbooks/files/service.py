"""A small service on local files and git: what the saga example makes, changes and undoes.

`services/NAME` is a git repository, its configuration a commit, and `enabled/NAME` says that it
is in service. Whatever is made carries its owner, the saga's id: each operation can be repeated,
and an undo removes what that saga made and nothing else, also where the saga never got so far.
The command's arguments come by stdin.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import workspace

TOOL = "_services"
OWNER = "mcp-owner"  # in .git
TRAILER = "--format=%(trailers:key=Owner,valueonly)"
IDENTITY = ["-c", "user.name=mcp-broker", "-c", "user.email=mcp-broker@localhost"]

parser = argparse.ArgumentParser()
parser.add_argument("--tenant", required=True)
parser.add_argument("operation")


def main() -> None:
    given = parser.parse_args()
    args, operation = json.load(sys.stdin), given.operation
    if operation not in OPERATIONS:
        sys.exit(f"there is no operation {operation!r}")
    for label in ("name", "owner"):
        workspace.plain(args.get(label), label)
    if args.get("fail_at") == operation:
        sys.exit(f"{operation} fails, as fail_at asks")
    folder = workspace.enter(TOOL, given.tenant)
    for name in ("services", "enabled"):
        Path(name).mkdir(exist_ok=True)
        if not workspace.is_folder(name):
            sys.exit(f"{name} is no folder of this adapter's")
    place, enabled = Path("services", args["name"]), Path("enabled", args["name"])
    done = OPERATIONS[operation](place, enabled, args)
    if "path" in done:
        done["path"] = str(folder / done["path"])
    print(json.dumps(done))


def provision(place: Path, _: Path, args: dict) -> dict:
    if not workspace.is_folder(place):
        # Made beside its place and renamed: a run that is killed leaves no half service there.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-") as folder:
            part = Path(folder) / "service"
            if workspace.git("init", "-q", "-b", "main", part).returncode != 0:
                sys.exit("git init failed")
            (part / "service.json").write_text(json.dumps({"name": args["name"]}) + "\n")
            commit(part, f"Provision {args['name']}")
            (part / ".git" / OWNER).write_text(args["owner"])
            try:
                part.rename(place)
            except OSError as error:
                sys.exit(f"service {args['name']} appeared meanwhile: {error.strerror}")
    if owner_of(place) != args["owner"]:
        sys.exit(f"service {args['name']} exists, and is another's")
    return {"path": str(place), "head": head_of(place)}


def deprovision(place: Path, _: Path, args: dict) -> dict:
    mine = owner_of(place) == args["owner"]
    if mine:
        shutil.rmtree(place)
    return {"path": str(place), "removed": mine}


def configure(place: Path, _: Path, args: dict) -> dict:
    if not workspace.is_folder(place):
        sys.exit(f"there is no service {args['name']}")
    if trailer(place) != args["owner"]:
        wanted = json.dumps(args["settings"], indent=2, sort_keys=True) + "\n"
        (place / "config.json").write_text(wanted)
        commit(place, f"Configure {args['name']}\n\nOwner: {args['owner']}")
    return {"path": str(place / "config.json"), "head": head_of(place)}


def restore(place: Path, _: Path, args: dict) -> dict:
    if not workspace.is_folder(place):
        return {"restored": False}
    mine = trailer(place) == args["owner"]
    if not mine and args["owner"] in workspace.answer_of(place, "log", TRAILER).split():
        sys.exit(f"service {args['name']} was configured again since: restore it by hand")
    # Without a commit of its own, a killed run may have left the file changed.
    workspace.answer_of(place, "reset", "-q", "--hard", "HEAD~1" if mine else "HEAD")
    workspace.answer_of(place, "clean", "-qfd")
    return {"restored": mine, "head": head_of(place)}


def enable(place: Path, enabled: Path, args: dict) -> dict:
    if not workspace.is_folder(place):
        sys.exit(f"there is no service {args['name']}")
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
    return workspace.read(*place.parts, ".git", OWNER)


def head_of(place: Path) -> str:
    return workspace.answer_of(place, "rev-parse", "HEAD")


def trailer(place: Path) -> str:
    return workspace.answer_of(place, "log", "-1", TRAILER)


def commit(place: Path, message: str) -> None:
    workspace.answer_of(place, "add", "--all")
    workspace.answer_of(place, *IDENTITY, "commit", "-q", "--allow-empty", "-m", message)


OPERATIONS = {
    "provision": provision,
    "deprovision": deprovision,
    "configure": configure,
    "restore": restore,
    "enable": enable,
    "disable": disable,
}

main()
