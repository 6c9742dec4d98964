"""`levibot live supervise`, and what is asked of its engines."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from live.console import emit, out, user_errors
from live.options import JsonOption

if TYPE_CHECKING:
    from live.registry import CommandName

StateOption = Annotated[Path, typer.Option("--state", help="State folder of the engines.")]
EngineArgument = Annotated[str, typer.Argument(help="Name of an engine, or all.")]
_DEFAULT_STATE = Path("state")


def supervise(
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Profile of engines that name none.")
    ] = "",
    bundle: Annotated[str, typer.Option(help="Bundle of engines that name none.")] = "",
    symbols: Annotated[
        str, typer.Option(help="Such as BTCUSDT,ETHUSDT: one engine for each.")
    ] = "",
    engines: Annotated[
        Path | None, typer.Option(help="YAML file that describes the engines instead.")
    ] = None,
    state: StateOption = _DEFAULT_STATE,
    mode: Annotated[str, typer.Option(help="paper, testnet or live.")] = "paper",
    equity: Annotated[float | None, typer.Option(help="USDT that the engines share.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Further option of `levibot live run`, such as --option=--catalog=data."),
    ] = None,
    healthy_after: Annotated[
        float, typer.Option(help="Seconds without a failure that clear the count of failures.")
    ] = 3_600.0,
    starts_at_once: Annotated[int, typer.Option(help="Engines that start together.", min=1)] = 2,
) -> None:
    """Run one engine for each symbol: watch it, start it again when it fails, end it in order."""
    with user_errors():
        from live.supervise_command import SuperviseRequest, supervise

        request = SuperviseRequest(
            state=state,
            symbols=symbols,
            plan=engines,
            profile=profile,
            bundle=bundle,
            mode=mode,
            equity=equity,
            options=tuple(option or ()),
            healthy_secs=healthy_after,
            starts_at_once=starts_at_once,
        )
        supervise(request)


def start(
    engine: EngineArgument, state: StateOption = _DEFAULT_STATE, json: JsonOption = False
) -> None:
    """Start an engine, also one that was given up."""
    _ask("start", engine, state, json)


def stop(
    engine: EngineArgument, state: StateOption = _DEFAULT_STATE, json: JsonOption = False
) -> None:
    """Stop an engine in order. Its positions stay, with their stops at the exchange."""
    _ask("stop", engine, state, json)


def restart(
    engine: EngineArgument, state: StateOption = _DEFAULT_STATE, json: JsonOption = False
) -> None:
    """Stop an engine in order and start it again."""
    _ask("restart", engine, state, json)


def forget(
    engine: Annotated[str, typer.Argument(help="Name of an engine.")],
    state: StateOption = _DEFAULT_STATE,
    json: JsonOption = False,
) -> None:
    """Remove an engine that is gone for good: its place in the table and in the limits of all."""
    with user_errors():
        from live.forget_command import forget_engine

        text = forget_engine(state, engine, getpass.getuser())
        emit({"text": text}, json, lambda: out.print(text, markup=False, soft_wrap=True))


def _ask(command: CommandName, engine: str, state: Path, json: bool) -> None:
    with user_errors():
        from live.registry import ALL_ENGINES
        from live.supervise_command import ask_engine

        name = ALL_ENGINES if engine == "all" else engine
        text = ask_engine(state, command, name, getpass.getuser())
        emit({"text": text}, json, lambda: out.print(text, markup=False, soft_wrap=True))
