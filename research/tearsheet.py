"""The page that says what runs are worth: one HTML file that needs no network to be read.

One run or several side by side: the same code draws both. Everything on it was computed before it
is drawn: `RunSheet` holds the numbers of a run, `sheet_tables` words them, `sheet_plots` draws, the
template orders. Equal data give equal bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import DataError
from catalog.timestamps import format_time
from research.performance import TradingSpan
from research.report import monthly_returns, verdict
from research.run_sheet import RunSheet, TearsheetData, TradedSheet, named_sheets
from research.sheet_numbers import same_days

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = [
    "QUANTSTATS_FILE",
    "TEARSHEET_FILE",
    "TearsheetData",
    "partial_file",
    "render_tearsheet",
    "render_tearsheets",
    "write_quantstats",
    "write_tearsheet",
]

TEARSHEET_FILE = "tearsheet.html"
QUANTSTATS_FILE = "quantstats.html"
_TEMPLATES = Path(__file__).with_name("templates")
_HALF, _WHOLE = 4.9, 10.0
"""Widths of pictures, inches."""


def render_tearsheet(data: TearsheetData, *, quantstats: bool = True) -> str:
    """Return the page of one run; see `render_tearsheets`."""
    return render_tearsheets([data], quantstats=quantstats)


def render_tearsheets(
    runs: Sequence[TearsheetData], *, title: str | None = None, quantstats: bool = True
) -> str:
    """Return the page of one run, or of several side by side.

    Parameters
    ----------
    runs : sequence of TearsheetData
        The runs, at most `research.sheet_plots.MAX_RUNS`; differences are taken from the first.
    title : str, optional
        Of the page; the runs' names if absent.
    quantstats : bool
        Whether to add quantstats' own table, whose import alone takes some seconds.

    Raises
    ------
    ConfigError
        If there are no runs or too many.
    DataError
        If a key of metrics.json is missing, or a frame has no rows in the span.
    """
    from research.sheet_plots import check_count

    check_count(len(runs))
    sheets = named_sheets(runs)
    context = _joint(sheets, quantstats) | {
        "title": title or ", ".join(one.name for one in sheets),
        "runs": [_one(sheet) for sheet in sheets],
    }
    return _template().render(context)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("tearsheet.html.j2")


def write_tearsheet(
    data: TearsheetData, folder: Path, *, quantstats: bool = True, full: bool = False
) -> list[Path]:
    """Write the page into a folder, and on request quantstats' full report beside it.

    Parameters
    ----------
    data : TearsheetData
        The numbers.
    folder : Path
        Where; must exist.
    quantstats : bool
        Whether the page holds quantstats' table.
    full : bool
        Whether to write `QUANTSTATS_FILE` as well, which takes several seconds.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    DataError
        As `render_tearsheet`; also if the full report is asked for without a replay.
    """
    page = folder / TEARSHEET_FILE
    text = render_tearsheet(data, quantstats=quantstats)
    with partial_file(page) as partial:
        partial.write_text(text, encoding="utf-8")
    if not full:
        return [page]
    write_quantstats(data, folder / QUANTSTATS_FILE)
    return [page, folder / QUANTSTATS_FILE]


def write_quantstats(data: TearsheetData, path: Path) -> None:
    """Write quantstats' own report of a run.

    Raises
    ------
    DataError
        If the run has no replay, or its returns do not vary.
    """
    if data.frames is None:
        raise DataError("the full quantstats report needs a replay, and this run has none")
    from research.quantstats_tables import write_quantstats_report

    span = TradingSpan.cut(
        data.frames, start=data.start, end=data.end, starting_balance=data.starting_balance
    )
    with partial_file(path) as partial:
        write_quantstats_report(span.daily, partial, title=data.title)


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` at the end, or vanishes if anything fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remarks(sheets: Sequence[RunSheet]) -> list[str]:
    """Return why runs that stand side by side cannot simply be compared."""
    found = []
    spans = [one.trading.span for one in sheets if one.trading is not None]
    if not same_days(spans):
        found.append("The runs cover different spans: their returns are of different markets.")
    for key, what in (("data_hash", "data"), ("version", "versions of the code")):
        if len({one.data.metrics["provenance"].get(key) for one in sheets}) > 1:
            found.append(f"The runs were made with different {what}.")
    return found


def _joint(sheets: Sequence[RunSheet], quantstats: bool) -> dict[str, Any]:
    """Return what the page shows of all runs together."""
    from research import sheet_tables as tables

    traded = [one.trading for one in sheets if one.trading is not None]
    spans = [one.span for one in traded]
    return {
        "names": [one.name for one in sheets],
        "traded_names": [one.name for one in sheets if one.trading is not None],
        "span": " / ".join(
            dict.fromkeys(
                f"{format_time(one.data.start)[:16]} to {format_time(one.data.end)[:16]} UTC"
                for one in sheets
            )
        ),
        "synthetic": any(one.data.metrics["provenance"]["synthetic"] for one in sheets),
        "remarks": remarks(sheets),
        "prediction": tables.prediction_rows(sheets),
        "trading": tables.trading_rows(sheets) if traded else [],
        "luck": tables.luck_rows(sheets) if traded else [],
        "differences": tables.difference_rows(sheets),
        "fold_heads": tables.SHORT,
        "months": tables.MONTHS,
        "pictures": _pictures(sheets, bool(traded)),
        "details": tables.detail_rows(traded) if traded else [],
        "quantstats": tables.quantstats_cells(spans) if quantstats and spans else ([], []),
    }


def _pictures(sheets: Sequence[RunSheet], traded: bool) -> dict[str, str]:
    """Return the joint pictures as data addresses, by name; only those that have something."""
    from research import sheet_plots as plots
    from research.plots import svg_uri

    wanted: dict[str, tuple[plots.Panel, float, float]] = {
        "reliability": (plots.reliability_panel, _HALF, 4.4),
        "coverage": (plots.coverage_panel, _HALF, 3.3),
    }
    if any(one.data.folds for one in sheets):
        wanted["folds"] = (plots.folds_panel, _HALF, 4.4)
    if any(one.data.view is not None and one.data.view.information for one in sheets):
        wanted["information"] = (plots.information_panel, _HALF, 3.3)
    if traded:
        several = len(sheets) > 1
        wanted["equity"] = (plots.equity_panel, _WHOLE, 4.9)
        wanted["waterfall"] = (plots.waterfall_panel, _WHOLE if several else _HALF, 3.1)
        wanted["activity"] = (plots.activity_panel, _WHOLE, 4.4)
    if any(one.trading is not None and len(one.trading.entered) for one in sheets):
        wanted["attribution"] = (plots.attribution_panel, _WHOLE, 5.6)
    return {
        name: svg_uri(plots.drawn(panel, sheets, width, height))
        for name, (panel, width, height) in wanted.items()
    }


def _one(sheet: RunSheet) -> dict[str, Any]:
    """Return what the page shows of each run by itself."""
    from research import sheet_tables as tables

    metrics, found = sheet.data.metrics, sheet.trading
    held = {} if found is None else {one.name: one.last_return for one in found.held}
    return {
        "name": sheet.name,
        "verdict": verdict(metrics, None if found is None else found.waterfall, held),
        "critic": metrics.get("critic"),
        "fold_rows": tables.fold_rows(sheet),
        "references": tables.reference_rows(sheet),
        "trading": None if found is None else _trading(sheet, found),
        "provenance": _provenance(metrics["provenance"]),
        "settings": list(sheet.data.settings.items()),
        "seconds": tables.seconds_rows(metrics["seconds"]),
        "memory": f"{float(metrics['peak_memory_mb']):,.0f} MB",
    }


def _provenance(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), str(value)) for key, value in found.items()]


def _trading(sheet: RunSheet, found: TradedSheet) -> dict[str, Any]:
    """Return what the page shows of the replay of one run."""
    from research import sheet_plots as plots
    from research import sheet_tables as tables
    from research.plots import svg_uri

    metrics, balance = sheet.data.metrics, float(found.span.daily.equity[0])
    view = sheet.data.view
    prices = 0 if view is None else len(view.prices)
    return {
        "waterfall_rows": tables.waterfall_rows(found.waterfall, balance),
        "unexplained": tables.unexplained(found.waterfall, balance),
        "stress_rows": tables.stress_rows(metrics.get("stress")),
        "execution_rows": tables.execution_rows(metrics.get("execution")),
        "ambiguous": metrics.get("ambiguous_bars"),
        "monthly": tables.monthly_cells(monthly_returns(found.span.daily)),
        "groups": tables.group_cells(found.groups),
        "experts": tables.expert_cells(found.experts),
        "trades_picture": svg_uri(
            plots.drawn(plots.trades_panel, [sheet], _WHOLE, 0.7 + 1.7 * prices)
        )
        if prices
        else "",
    }
