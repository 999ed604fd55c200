"""`python -m devstack`: the embedded stack on this machine, for trials; never for production."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.console import Console

from devstack.process import descendants, kill_each, kill_marked, mark_of

app = typer.Typer(no_args_is_help=True, help=__doc__)

HOME: Final = Path(".broker")
STATE: Final = HOME / "stack.json"
STOP_S: Final = 20.0


@app.command()
def demo(
    repo: Annotated[str, typer.Option(help="A git repository: path or URL.")] = ".",
) -> None:
    """Start everything, clone a repository through it, crash it, verify it, stop it."""
    from devstack.demo import demo as show  # noqa: PLC0415 needs the devstack extra

    source = str(Path(repo).resolve()) if Path(repo).exists() else repo
    played(lambda console: show(source, say=console))


@app.command("demo-saga")
def demo_saga() -> None:
    """Start everything, run a saga that is done and one that is undone, stop it."""
    from devstack.demo_saga import demo_saga as show  # noqa: PLC0415 needs the devstack extra

    played(lambda console: show(say=console))


def played(show: Callable[[Console], bool]) -> None:
    """Run a show; exit code 0 says that everything held."""
    console = Console(highlight=False)
    try:
        ok = show(console)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (OSError, RuntimeError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    console.print("[green]demo passed[/green]" if ok else "[red]demo failed[/red]")
    raise typer.Exit(0 if ok else 1)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Of the app.")] = 8080,
    observe: Annotated[
        bool, typer.Option("--observe", help="Metrics, and spans in a file.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="A folder that keeps data and keys; else they go.")
    ] = None,
) -> None:
    """Start the stack and leave it running; `make down` ends it."""
    from devstack.stack import Stack  # noqa: PLC0415 needs the devstack extra

    console = Console(highlight=False)
    if STATE.exists():
        console.print("A stack runs already; end it with: make down")
        raise typer.Exit(1)
    if not is_free(port):
        console.print(f"[red]Port {port} is taken; choose another: make up PORT=…[/red]")
        raise typer.Exit(1)
    home = HOME.resolve() if data is None else data.resolve() / "stack"
    stack = Stack(
        home,
        port=port,
        observe=observe,
        data=None if data is None else data.resolve(),
        detached=True,
        say=lambda text: console.print(f"starting {text}"),
    )
    HOME.mkdir(mode=0o700, exist_ok=True)
    stack.spans.unlink(missing_ok=True)  # of an earlier stack
    try:
        stack.start()
    except (OSError, RuntimeError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    pids, folders = stack.pids(), stack.folders()
    state = {"pids": pids, "folders": folders, "port": port, "home": str(home)}
    STATE.write_bytes(orjson.dumps(state))
    assert stack.dsns is not None
    token = stack.user_token(scopes=("tools", "operator"))
    entry = {
        "type": "http",
        "url": f"{stack.url}/mcp",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    console.print(f"\nMCP        {stack.url}/mcp")
    console.print(f"HTTP       {stack.url}/mcp/tools/call")
    console.print(f"Postgres   {stack.dsns.owner}")
    console.print(f"Kafka      {stack.kafka.bootstrap}")
    console.print(f"Console    {stack.console_link()}", soft_wrap=True)
    console.print("           (good once, for 10 minutes; another: make console)")
    console.print(f"logs       {home}/*.log")
    if stack.prometheus is not None:
        console.print(f"Prometheus {stack.prometheus.url}")
    if observe:
        console.print(f"spans      {stack.spans} (broker trace ID)")
    console.print("\nClaude Code, .mcp.json:")
    console.print_json(orjson.dumps({"mcpServers": {"broker": entry}}).decode())
    console.print("VS Code, .vscode/mcp.json:")
    console.print_json(orjson.dumps({"servers": {"broker": entry}}).decode())
    console.print("End it with: make down")


def is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the app's own listener
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@app.command()
def down() -> None:
    """End the stack that `make up` started, and remove its data unless it was to be kept."""
    import shutil  # noqa: PLC0415 used here only

    if not STATE.exists():
        typer.echo("no stack runs")
        return
    state = orjson.loads(STATE.read_bytes())
    for name, pid in state["pids"].items():
        end(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        typer.echo(f"{name} ended")
    for folder in state["folders"]:
        shutil.rmtree(folder, ignore_errors=True)
    STATE.unlink()


@app.command()
def link(
    tenant: str = "demo",
    user: str = "ada",
    scope: Annotated[
        list[str] | None, typer.Option(help="Repeatable; all a person may have by default.")
    ] = None,
    group: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    """Print a link that signs a person in at the running stack's console, once, soon."""
    from devstack.tokens import DevIssuer, console_link  # noqa: PLC0415 needs the devstack extra

    if not STATE.exists():
        typer.echo("no development stack runs: start one with make up", err=True)
        raise typer.Exit(1)
    state = orjson.loads(STATE.read_bytes())
    url = f"http://127.0.0.1:{state['port']}"
    issuer = DevIssuer(Path(state["home"]), audience=f"{url}/mcp")
    made = console_link(issuer, url, tenant=tenant, user=user, scopes=scope, groups=group or ())
    typer.echo(made)


@app.command()
def token(
    tenant: str = "demo",
    user: str = "ada",
    scope: Annotated[list[str] | None, typer.Option(help="Repeatable; tools by default.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    """Print a token that the running development stack trusts."""
    from devstack.tokens import DevIssuer  # noqa: PLC0415 needs the devstack extra

    if not STATE.exists():
        typer.echo("no development stack runs: start one with make up", err=True)
        raise typer.Exit(1)
    state = orjson.loads(STATE.read_bytes())
    issuer = DevIssuer(Path(state["home"]), audience=f"http://127.0.0.1:{state['port']}/mcp")
    scopes = scope or ["tools"]
    typer.echo(issuer.token(tenant=tenant, user=user, scopes=scopes, groups=group or ()))


def end(pid: int, number: int) -> None:
    """Ask a process group's leader to end, wait, then kill the group and what was below it."""
    # Playbooks lead sessions of their own, and would go on without the EDA that started them.
    below, mark = descendants(pid), mark_of(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        until = time.monotonic() + STOP_S
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)
    kill_each(below)
    if mark is not None:
        kill_marked(mark)
