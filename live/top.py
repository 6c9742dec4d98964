"""`levibot live top`: what all engines do, in a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from catalog.instruments import symbol_of
from catalog.timestamps import format_time
from live.engine_status import RUNNING, EngineStatus
from live.overview import EngineView, Overview, Reading, RegistryReader

_UNKNOWN = "-"
_STATE_STYLES = {
    "trading": "green",
    "starting": "cyan",
    "warming": "cyan",
    "waiting": "yellow",
    "halted": "bold red",
    "failed": "bold red",
    "unknown": "bold red",
    "silent": "bold red",
    "given up": "bold red",
    "backoff": "yellow",
}
_GUARD_STYLES = {"normal": "green", "reducing": "yellow", "halted": "bold red"}
_MODE_STYLES = {"live": "bold magenta"}
_MIB = 1_048_576

_WIDEST = 10_000
_ENGINE_COLUMNS = (
    *("engine", "mode", "state", "guard", "heart", "last bar", "pos", "equity", "today"),
    *("drawdown", "orders", "fills", "rejects", "p95 ms", "restarts", "cpu", "MiB", "up"),
)
"""The most important first: the last are left out where they do not fit."""

type Cell = str | Text


def show_once(state: Path, console: Console) -> None:
    """Print one frame.

    Raises
    ------
    DataError
        If the state folder has no registry that can be read.
    """
    reader = RegistryReader(state)
    try:
        console.print(frame(Reading(reader.overview()), state, console.width))
    finally:
        reader.close()


def watch(
    state: Path, console: Console, interval_secs: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show frames until Ctrl-C; a registry that cannot be read is shown as such."""
    reader = RegistryReader(state)
    try:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(frame(Reading.of(reader), state, console.width), refresh=True)
                sleep(interval_secs)
    except KeyboardInterrupt:
        return
    finally:
        reader.close()


def frame(reading: Reading, state: Path, width: int) -> RenderableType:
    """Return one frame.

    Parameters
    ----------
    reading : Reading
        What the registry says.
    state : Path
        The state folder, for the title.
    width : int
        Of the terminal, characters.
    """
    overview = reading.overview
    parts: list[RenderableType] = [_title(overview, state), _kill_line(overview)]
    if reading.problem:
        parts.append(Text(reading.problem, style="bold red"))
        return Group(*parts)
    if not overview.engines:
        parts.append(Text("no engine has ever run with this state folder"))
        return Group(*parts)
    parts += [Text(), _engines(overview, width), Text(), _markets(overview, width)]
    problems = [
        Text.assemble((f"{name}: ", "bold"), text)
        for name, found in overview.problems.items()
        for text in found
    ]
    if problems:
        parts += [Text(), Text("problems", style="bold"), *problems]
    return Group(*parts)


def _title(overview: Overview, state: Path) -> Text:
    engines = overview.engines
    running = sum(one.running for one in engines)
    equity = _sum([one.status.equity for one in engines])
    day = _sum([_day_pnl(one.status) for one in engines])
    supervisor = "supervised" if overview.supervised else "no supervisor"
    return Text.assemble(
        ("LeviBot ", "bold"),
        f"{format_time(overview.now_ns)[:19]} UTC  {state}  {running} of {len(engines)} engines "
        f"run  {supervisor}  equity {_money(equity)} USDT  today ",
        _signed(day),
    )


def _kill_line(overview: Overview) -> Text:
    if overview.kill is None:
        return Text("kill switch off", style="green")
    return Text(f"KILL SWITCH {overview.kill}", style="bold white on red")


def _engines(overview: Overview, width: int) -> Table:
    table = _table(_ENGINE_COLUMNS, left=("engine", "mode", "state", "guard"))
    for view in overview.engines:
        table.add_row(*_engine_cells(view))
    return _fitting(table, width)


def _engine_cells(view: EngineView) -> list[Cell]:
    status, record, counters = view.status, view.record, view.status.counters
    state = _state(view)
    level = status.guard.level
    cpu = None if record is None else record.cpu_frac
    memory = None if record is None or record.rss_bytes is None else record.rss_bytes / _MIB
    p95 = status.decision_latency_ms.quantile(0.95)
    return [
        status.engine,
        Text(status.mode, style=_MODE_STYLES.get(status.mode, "")),
        Text(state, style=_STATE_STYLES.get(state, "dim")),
        Text(level, style=_GUARD_STYLES[level]),
        _age(view.heartbeat_age_secs),
        _age(view.age_secs(status.last_bar_ns)),
        str(len(status.positions)),
        _money(status.equity),
        _signed(_day_pnl(status)),
        _percent(view.drawdown_frac),
        f"{counters.orders:,}",
        f"{counters.fills:,}",
        f"{counters.rejects:,}",
        _UNKNOWN if p95 is None else f"<{p95:g}",
        _UNKNOWN if record is None else f"{record.restarts:,}",
        _percent(cpu),
        _UNKNOWN if memory is None else f"{memory:.0f}",
        _age(view.age_secs(status.started_ns)) if view.running else _UNKNOWN,
    ]


def _markets(overview: Overview, width: int) -> Table:
    columns = (
        *("engine", "instrument", "quantity", "entry", "mark", "stop", "PnL", "prob. up"),
        *("confidence", "uncertainty", "predicted"),
    )
    table = _table(columns, left=("engine", "instrument"))
    for view in overview.engines:
        status = view.status
        names = dict.fromkeys((*status.positions, *status.predictions))
        for number, name in enumerate(names):
            cells = [*_position_cells(status, name), *_prediction_cells(view, name)]
            table.add_row("" if number else status.engine, symbol_of(name), *cells)
    return _fitting(table, width)


def _position_cells(status: EngineStatus, name: str) -> list[Cell]:
    one = status.positions.get(name)
    if one is None:
        return ["flat", "", "", "", ""]
    known = one.entry_price is not None and one.mark is not None
    pnl = one.quantity * (one.mark - one.entry_price) if known else None  # type: ignore[operator]
    stop: Cell = Text("none", style="yellow") if one.stop is None else _price(one.stop)
    side = Text(f"{one.quantity:+g}", style="green" if one.quantity > 0 else "red")
    return [side, _price(one.entry_price), _price(one.mark), stop, _signed(pnl)]


def _prediction_cells(view: EngineView, name: str) -> list[Cell]:
    one = view.status.predictions.get(name)
    if one is None:
        return ["", "", "", ""]
    age = _age(view.age_secs(one.ts_ns))
    when: Cell = Text(f"{age} degraded", style="yellow") if one.degraded else age
    return [_number(one.prob_up), _number(one.confidence), _number(one.epistemic), when]


def _fitting(table: Table, width: int) -> Table:
    """Leave out the last columns as long as there are more than fit."""
    measuring = Console(width=_WIDEST, file=io.StringIO())
    while len(table.columns) > 1 and measuring.measure(table).maximum > width:
        table.columns.pop()
    return table


def _table(columns: tuple[str, ...], left: tuple[str, ...]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _state(view: EngineView) -> str:
    """Return what it does; a process that was given up or says nothing does nothing."""
    if view.record is not None and view.record.stage in ("backoff", "given_up"):
        return view.record.stage.replace("_", " ")
    state = view.status.state
    return "silent" if state in RUNNING and not view.running else state


def _day_pnl(status: EngineStatus) -> float | None:
    if status.equity is None or status.day_start_equity is None:
        return None
    return status.equity - status.day_start_equity


def _sum(values: list[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) if known else None


def _money(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.2f}"


def _price(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.6g}"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3f}"


def _percent(fraction: float | None) -> str:
    return _UNKNOWN if fraction is None else f"{fraction:.1%}"


def _signed(value: float | None) -> Text:
    if value is None:
        return Text(_UNKNOWN)
    return Text(f"{value:+,.2f}", style="green" if value > 0 else "red" if value < 0 else "")


def _age(secs: float | None) -> str:
    """Return a duration in at most four characters or so: 12s, 3m, 2h05, 4d."""
    if secs is None:
        return _UNKNOWN
    if secs < 100:
        return f"{secs:.0f}s"
    minutes = int(secs // 60)
    if minutes < 100:
        return f"{minutes}m"
    hours, rest = divmod(minutes, 60)
    return f"{hours}h{rest:02d}" if hours < 48 else f"{hours // 24}d"
