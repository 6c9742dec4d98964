"""`levibot live logs` and `levibot live events`: what engines have written, read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from live.console import emit, out, user_errors
from live.options import FromOption, JsonOption, ToOption, optional_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


StateOption = Annotated[Path, typer.Option("--state", help="State folder of the engines.")]
EngineOption = Annotated[list[str] | None, typer.Option("--engine", "-e", help="Only of these.")]
_DEFAULT_STATE = Path("state")
_LEVELS = ("info", "warning", "error")


def logs(
    state: StateOption = _DEFAULT_STATE,
    engine: EngineOption = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only these, such as fill.")] = None,
    level: Annotated[str, typer.Option(help="At least: info, warning or error.")] = "info",
    id_: Annotated[
        str | None, typer.Option("--id", help="The chain of a bar, prediction, order or fill.")
    ] = None,
    text: Annotated[str, typer.Option(help="Part of the text.")] = "",
    from_: FromOption = None,
    to: ToOption = None,
    last: Annotated[int | None, typer.Option(help="Only so many lines, the newest.", min=1)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow.")] = False,
    json: JsonOption = False,
) -> None:
    """Print the engines' logs in the order of time; --follow goes on."""
    with user_errors():
        from collections import deque

        from catalog.errors import ConfigError
        from live.log_reader import LogFilter, chain_of, follow_logs, read_logs
        from live.state_folder import StateFolder

        if level not in _LEVELS:
            raise ConfigError(f"--level must be one of {', '.join(_LEVELS)}, was {level!r}")
        folder = StateFolder(state).logs
        chosen = LogFilter(
            engines=tuple(engine or ()),
            kinds=tuple(kind or ()),
            level=level,  # type: ignore[arg-type]
            since=optional_time(from_),
            until=optional_time(to),
            text=text,
        )
        if id_ is not None:
            chosen = chain_of(folder, id_, chosen)
        found: Iterator[dict[str, Any]] = read_logs(folder, chosen)
        _print(deque(found, last) if last is not None else found, json)
        if follow:
            _print(follow_logs(folder, chosen), json)


def events(
    state: StateOption = _DEFAULT_STATE,
    engine: EngineOption = None,
    clickhouse: Annotated[
        str | None,
        typer.Option(help="Also send them to this ClickHouse, such as http://127.0.0.1:8123."),
    ] = None,
    table: Annotated[str, typer.Option(help="ClickHouse table.")] = "levibot_events",
    json: JsonOption = False,
) -> None:
    """Write the logs as Parquet for analysis, and to ClickHouse if asked; only what is new."""
    with user_errors():
        from live.event_log import ClickHouse, export_events

        target = None if clickhouse is None else ClickHouse.of(clickhouse, table)
        found = export_events(state, tuple(engine or ()), target)
        told = f"{found.rows:,} event(s) in {found.files} file(s) under {found.folder}" + (
            f"; {found.sent:,} sent to ClickHouse" if target is not None else ""
        )
        emit(found.to_json(), json, lambda: out.print(told, markup=False, soft_wrap=True))


def _print(records: Any, as_json: bool) -> None:
    import json

    from live.log_reader import line_of

    try:
        for record in records:
            line = json.dumps(record, separators=(",", ":")) if as_json else line_of(record)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read, such as `head`, has enough; Python's end must not find the pipe either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
