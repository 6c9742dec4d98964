"""`levibot guard`: what the risk guard remembers, and a person's word to it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from live.console import emit, out, user_errors
from live.options import JsonOption

app = typer.Typer(
    help="See, halt and release the risk guard of a process.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StateOption = Annotated[Path, typer.Option("--state", help="File of the risk guard's state.")]
WhoOption = Annotated[str | None, typer.Option(help="Who says so; else the user of this session.")]


@app.command()
def status(state: StateOption, json: JsonOption = False) -> None:
    """Print what the guard remembers: level, holds, equity, history."""
    with user_errors():
        from live.guard_command import status

        found = status(state)
        emit(found.to_json(), json, lambda: out.print(str(found), markup=False, soft_wrap=True))


@app.command()
def halt(
    state: StateOption,
    why: Annotated[str, typer.Option(help="For the history.")],
    who: WhoOption = None,
    json: JsonOption = False,
) -> None:
    """End trading: everything is closed, and nothing is opened until a release."""
    with user_errors():
        from live.guard_command import halt

        text = halt(state, who or getpass.getuser(), why)
        emit({"text": text}, json, lambda: out.print(text, markup=False, soft_wrap=True))


@app.command()
def release(state: StateOption, who: WhoOption = None, json: JsonOption = False) -> None:
    """End every hold; losses count anew from here. Refused while anything is open."""
    with user_errors():
        from live.guard_command import release

        text = release(state, who or getpass.getuser())
        emit({"text": text}, json, lambda: out.print(text, markup=False, soft_wrap=True))
