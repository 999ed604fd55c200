"""Delete a clone that git_clone made, and nothing else; print what was done as JSON.

The command's arguments come by stdin.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile

import git_clone
import workspace

parser = argparse.ArgumentParser()
parser.add_argument("--tenant", required=True)


def main() -> None:
    given = parser.parse_args()
    dest = workspace.plain(json.load(sys.stdin).get("dest"), "dest")
    folder = workspace.enter(git_clone.TOOL, given.tenant)
    exists = os.path.lexists(dest)
    if exists:
        if git_clone.mark_of(dest) is None:
            sys.exit(f"{dest} is no clone that git_clone made: it is left alone")
        git_clone.INCOMING.mkdir(exist_ok=True)
        # Away at once, then deleted: what a killed run leaves is swept by a later clone.
        gone = tempfile.mkdtemp(dir=git_clone.INCOMING)
        os.rename(dest, os.path.join(gone, dest))
        shutil.rmtree(gone)
    print(json.dumps({"path": str(folder / dest), "deleted": exists}))


main()
