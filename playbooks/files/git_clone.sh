#!/bin/sh
# git_clone.sh REPO DEST PART OWNER REF DEPTH: clone into PART, rename to DEST, print JSON.
set -eu
repo=$1 dest=$2 part=$3 owner=$4 ref=$5 depth=$6
mark=.git/mcp-correlation-id
if [ -e "$dest" ] && [ "$(cat "$dest/$mark" 2>/dev/null || true)" != "$owner" ]; then
    echo "destination $(basename "$dest") exists and is another command's" >&2
    exit 1
fi
if [ ! -e "$dest" ]; then
    mkdir -p "$(dirname "$dest")" "$(dirname "$part")"
    rm -rf "$part"
    trap 'rm -rf "$part"' EXIT
    trap 'exit 143' TERM INT
    set -- --quiet --no-hardlinks
    [ -z "$ref" ] || set -- "$@" --branch "$ref"
    [ -z "$depth" ] || set -- "$@" --depth "$depth"
    git clone "$@" -- "$repo" "$part"
    printf %s "$owner" > "$part/$mark"
    mv -T "$part" "$dest" 2>/dev/null || mv "$part" "$dest"
fi
head=$(git -C "$dest" rev-parse HEAD)
branch=$(git -C "$dest" rev-parse --abbrev-ref HEAD)
size=$(du -sk "$dest" | cut -f1)
printf '{"path": "%s", "head": "%s", "branch": "%s", "size_bytes": %s}\n' \
    "$dest" "$head" "$branch" "$((size * 1024))"
