"""`levibot live`: run engines, watch them, and stop them."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from live import cli_logs, cli_run, cli_supervise
from live.console import emit, out, tell, user_errors
from live.options import JsonOption

app = typer.Typer(
    help="Run, watch and stop engines that trade.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateOption = Annotated[Path, typer.Option("--state", help="State folder of the engines.")]
DEFAULT_STATE = Path("state")

app.command()(cli_run.run)
app.command()(cli_supervise.supervise)
app.command()(cli_supervise.start)
app.command()(cli_supervise.stop)
app.command()(cli_supervise.restart)
app.command()(cli_supervise.forget)
app.command()(cli_logs.logs)
app.command()(cli_logs.events)


@app.command()
def serve(
    state: StateOption = DEFAULT_STATE,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65_535)] = 8710,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM.")] = None,
) -> None:
    """Serve the HTTP API and the metrics; the token is LEVIBOT_API_TOKEN of the environment."""
    with user_errors():
        from live.api_server import ServerConfig, door_from_environment, serve

        serve(ServerConfig(state, host, port, tls_cert, tls_key, door_from_environment()), tell)


@app.command()
def kill(
    state: StateOption = DEFAULT_STATE,
    why: Annotated[str, typer.Option(help="For the file and the audit log.")] = "",
    who: Annotated[
        str | None, typer.Option(help="Who says so; else the user of this session.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Lift the switch instead.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the engines.", min=0.0)] = 5.0,
    json: JsonOption = False,
) -> None:
    """Stop all trading: cancel orders, close positions, open nothing until a person releases."""
    with user_errors():
        from live.kill_command import kill, require_flat, unkill

        name = who or getpass.getuser()
        if off:
            text = unkill(state, name)
            emit({"enabled": False, "text": text}, json, lambda: _print(text))
            return
        found = kill(state, name, why, wait)
        emit(found.to_json(), json, lambda: _print(str(found)))
        require_flat(found, wait)


@app.command()
def top(
    state: StateOption = DEFAULT_STATE,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two frames.", min=0.1, max=60.0)
    ] = 1.0,
) -> None:
    """Watch engines, positions, profit, predictions and risk guards."""
    with user_errors():
        from live.top import show_once, watch

        if once:
            show_once(state, out)
        else:
            watch(state, out, interval)


def _print(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
