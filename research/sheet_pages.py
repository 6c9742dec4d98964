"""The tearsheet on paper: A4 pages as one PDF or as pictures, drawn by matplotlib alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from catalog.timestamps import format_time
from research import sheet_plots as plots
from research import sheet_tables as tables
from research.plots import GREY, RED, STYLE, png_bytes
from research.report import monthly_returns, verdict
from research.run_sheet import RunSheet, TearsheetData, named_sheets
from research.tearsheet import partial_file, remarks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

PAGE_NAME = "page-{:02d}.png"
_WIDTH, _HEIGHT = 8.27, 11.69
"""A4, inches."""
_DPI = 220
"""Of what is a picture even in a PDF: the marks of many trades."""
_MARGIN, _LINE = 0.55, 0.165
_BOTTOM = _HEIGHT - 0.75
_INK, _SOFT, _RULE = "#111827", "#6b7280", "#e5e7eb"
_MOODS = {"good": ("+", "#00755a"), "bad": ("-", "#b34700"), "neutral": ("·", _SOFT)}


def write_pdf(runs: Sequence[TearsheetData], path: Path, *, title: str | None = None) -> int:
    """Write the pages as one PDF and return their number; equal runs give equal bytes.

    Parameters
    ----------
    runs : sequence of TearsheetData
        As for `research.tearsheet.render_tearsheets`.
    path : Path
        File to write, whole or not at all.
    title : str, optional
        Of the first page; the runs' names if absent.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    # Dates would make equal runs differ.
    told = {"CreationDate": None, "Creator": None, "Producer": None}
    pages = paper(runs, title)
    with (
        partial_file(path) as partial,
        mpl.rc_context({**STYLE, "pdf.fonttype": 42}),
        PdfPages(partial, metadata=told) as file,
    ):
        for page in pages:
            file.savefig(page, dpi=_DPI)
    return len(pages)


def page_pictures(
    runs: Sequence[TearsheetData], *, title: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the pages as PNG: file name and content; see `write_pdf`."""
    for number, page in enumerate(paper(runs, title), 1):
        yield PAGE_NAME.format(number), png_bytes(page)


def paper(runs: Sequence[TearsheetData], title: str | None = None) -> list[Figure]:
    """Return the pages.

    Raises
    ------
    ConfigError, DataError
        As `research.tearsheet.render_tearsheets`.
    """
    plots.check_count(len(runs))
    sheets = named_sheets(runs)
    with mpl.rc_context(STYLE):
        pages = [_first(sheets, title or ", ".join(one.name for one in sheets))]
        pages += _words(sheets)
        pages += _pictures(sheets)
        pages += _tables(sheets)
        for number, page in enumerate(pages, 1):
            _frame(page, sheets, f"{number} / {len(pages)}")
    return pages


def _frame(page: Figure, sheets: Sequence[RunSheet], number: str) -> None:
    """Write what stands on every page: its number, and that data are made up where they are."""
    low = 0.3 / _HEIGHT
    names = textwrap.shorten(", ".join(one.name for one in sheets), 90, placeholder="...")
    page.text(_MARGIN / _WIDTH, low, f"LeviBot · {names}", color=_SOFT, fontsize=7)
    page.text(1.0 - _MARGIN / _WIDTH, low, number, color=_SOFT, fontsize=7, ha="right")
    if any(one.data.metrics["provenance"]["synthetic"] for one in sheets):
        page.text(0.5, low, "SYNTHETIC DATA: a made-up market", color="#b91c1c", fontsize=7.5,
                  ha="center", weight="bold")  # fmt: skip


def _text_axes(panel: FigureBase, height: float) -> Axes:
    """Return axes over a whole panel whose units are inches from its upper left corner."""
    axes = panel.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0.0, _WIDTH)
    axes.set_ylim(height, 0.0)
    return axes


# -- the first page -------------------------------------------------------------------------------


def _first(sheets: Sequence[RunSheet], title: str) -> Figure:
    """Return title, headline numbers and equity."""
    traded = any(one.trading is not None for one in sheets)
    page = _blank() if traded else Figure(figsize=(_WIDTH, _HEIGHT))
    _headline(_text_axes(page, _HEIGHT), sheets, title)
    if traded:
        _, bottom = _parts(page, (6.75, 3.85))
        plots.equity_panel(bottom, sheets)
    return page


def _parts(page: FigureBase, heights: Sequence[float]) -> list[FigureBase]:
    """Return parts of a page from top to bottom."""
    return list(page.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel())


def _blank() -> Figure:
    """Return an empty page whose pictures keep clear of its margins."""
    edge, foot = 0.75 * _MARGIN / _WIDTH, 0.55 / _HEIGHT
    inside = (edge, foot, 1.0 - 2.0 * edge, 1.0 - 2.0 * foot)
    return Figure(figsize=(_WIDTH, _HEIGHT), layout=ConstrainedLayoutEngine(rect=inside))


def _headline(axes: Axes, sheets: Sequence[RunSheet], title: str) -> None:
    for at, part in enumerate(textwrap.wrap(title, 62)[:2]):
        axes.text(_MARGIN, 0.6 + 0.28 * at, part, fontsize=16, weight="bold", color=_INK)
    spans = dict.fromkeys(
        f"{format_time(one.data.start)[:10]} to {format_time(one.data.end)[:10]}" for one in sheets
    )
    told = f"Out of sample, {' / '.join(spans)} · a year has 365 days · money in USDT"
    axes.text(_MARGIN, 1.1, told, fontsize=8, color=_SOFT)
    y = 1.22
    for remark in remarks(sheets):
        y += 0.16
        axes.text(_MARGIN, y, remark, fontsize=7.5, color=RED)
    y += 0.24
    parts = [("Predictions", tables.prediction_rows(sheets))]
    if any(one.trading is not None for one in sheets):
        parts.append(("Trading", tables.trading_rows(sheets)))
        parts.append(("How much may be luck", tables.luck_rows(sheets)))
    if len(sheets) > 1:
        for one, right in zip(sheets, _columns(len(sheets)), strict=True):
            name = textwrap.shorten(one.name, max(40 // len(sheets), 9), placeholder="...")
            axes.text(right, y, name, fontsize=7.5, weight="bold", ha="right", color=_INK)
    for name, rows in parts:
        axes.text(_MARGIN, y, name, fontsize=9, weight="bold", color=_INK)
        y += 0.05
        for row in rows:
            y += 0.192 if len(sheets) == 1 else 0.2
            _headline_row(axes, row, y, len(sheets))
        y += 0.28


def _columns(count: int) -> list[float]:
    """Return the right edges of the runs' columns, inches."""
    first, last = (3.6, _WIDTH - _MARGIN)
    return [first + (last - first) * (at + 1) / count for at in range(count)]


def _headline_row(axes: Axes, row: tables.Row, y: float, count: int) -> None:
    axes.plot([_MARGIN, _WIDTH - _MARGIN], [y + 0.055] * 2, color=_RULE, lw=0.6)
    axes.text(_MARGIN, y, row.label, fontsize=7.8, color=_INK)
    for right, cell in zip(_columns(count), row.cells, strict=True):
        beside = cell.reason or cell.interval
        if count == 1:
            axes.text(right - 1.75, y, cell.value, fontsize=8, weight="bold", ha="right")
            axes.text(right, y, beside, fontsize=7.5, color=_SOFT, ha="right")
            continue
        small = 5.6 if count <= 3 else 4.3
        shown = beside if count <= 4 else ""
        axes.text(right, y + 0.025, shown, fontsize=small, color=_SOFT, ha="right")
        axes.text(right, y - 0.065, cell.value, fontsize=7.2 if count <= 4 else 6.4,
                  weight="bold", ha="right")  # fmt: skip


# -- words and tables -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Writer:
    """Lines from top to bottom, on as many pages as they need."""

    pages: list[Figure] = field(default_factory=list)
    axes: Axes | None = None
    y: float = 0.0

    def room(self, height: float) -> Axes:
        """Return the axes of a page with so many inches left."""
        if self.axes is None or self.y + height > _BOTTOM:
            page = Figure(figsize=(_WIDTH, _HEIGHT))
            self.pages.append(page)
            self.axes, self.y = _text_axes(page, _HEIGHT), 0.6
        return self.axes

    def heading(self, text: str, *, size: float = 11.0) -> None:
        axes = self.room(0.9)
        self.y += 0.12
        axes.text(_MARGIN, self.y, text, fontsize=size, weight="bold", color=_INK)
        self.y += 0.22

    def paragraph(self, text: str, *, colour: str = _INK, mark: str = "") -> None:
        lines = textwrap.wrap(text, 112)
        axes = self.room(_LINE * len(lines) + 0.05)
        axes.text(_MARGIN, self.y, mark, fontsize=8, color=colour, weight="bold")
        inset = 0.75 if len(mark) > 1 else (0.18 if mark else 0.0)
        for line in textwrap.wrap(text, 112 - int(14 * inset)):
            axes.text(_MARGIN + inset, self.y, line, fontsize=8, color=_INK if mark else colour)
            self.y += _LINE
        self.y += 0.05

    def table(self, rows: Sequence[Sequence[str]], edges: Sequence[float], head: int = 1) -> None:
        """Write rows; the first column begins at the margin, others end at `edges` (inches)."""
        for number, row in enumerate(rows):
            axes = self.room(_LINE)
            style: dict[str, Any] = {"fontsize": 7.3, "color": _SOFT if number < head else _INK}
            axes.text(_MARGIN, self.y, row[0], **style)
            for edge, text in zip(edges, row[1:], strict=True):
                axes.text(edge, self.y, text, ha="right", **style)
            axes.plot([_MARGIN, _WIDTH - _MARGIN], [self.y + 0.05] * 2, color=_RULE, lw=0.5)
            self.y += _LINE
        self.y += 0.1


def _spread(first: float, count: int) -> list[float]:
    last = _WIDTH - _MARGIN
    return [first + (last - first) * at / max(count - 1, 1) for at in range(count)]


def _words(sheets: Sequence[RunSheet]) -> list[Figure]:
    """Return the verdict and the sceptic's list of each run."""
    writer = _Writer()
    for one in sheets:
        metrics, found = one.data.metrics, one.trading
        held = {} if found is None else {curve.name: curve.last_return for curve in found.held}
        writer.heading(f"Verdict: {one.name}" if len(sheets) > 1 else "Verdict")
        for sentence in verdict(metrics, None if found is None else found.waterfall, held):
            mark, colour = _MOODS[sentence.mood]
            writer.paragraph(sentence.text, colour=colour, mark=mark)
        critic = metrics.get("critic")
        if critic is None:
            continue
        writer.heading("What a sceptic would say", size=9.5)
        for objection in critic:
            colour = {"grave": "#7f1d1d", "serious": "#b34700"}.get(objection["severity"], _SOFT)
            writer.paragraph(objection["text"], colour=colour, mark=objection["severity"])
        if not critic:
            writer.paragraph("None of the faults that are looked for was found.", colour=GREY)
    _differences(writer, sheets)
    return writer.pages


def _differences(writer: _Writer, sheets: Sequence[RunSheet]) -> None:
    rows = tables.difference_rows(sheets)
    if not rows:
        return
    writer.heading(f"Against {sheets[0].name}, on the same days")
    shown = [
        [name, days, f"{gain.value} [{gain.interval}]", f"{ratio.value} [{ratio.interval}]"]
        for name, days, gain, ratio in rows
    ]
    head = ["", "days", "daily returns, sum", "Sharpe ratio"]
    writer.table([head, *shown], _spread(3.6, 3))


def _tables(sheets: Sequence[RunSheet]) -> list[Figure]:
    """Return months, costs, attribution, provenance and settings of each run."""
    writer = _Writer()
    for one in sheets:
        if len(sheets) > 1:
            writer.heading(one.name, size=13.0)
        if one.trading is not None:
            _money(writer, one)
        writer.heading("Where it comes from")
        writer.table(
            [[key.replace("_", " "), str(value)] for key, value in
             one.data.metrics["provenance"].items()], [_WIDTH - _MARGIN], head=0,
        )  # fmt: skip
        if one.data.settings:
            writer.heading("What the replay assumed", size=9.5)
            told = "; ".join(f"{key}: {value}" for key, value in one.data.settings.items())
            writer.paragraph(told, colour=_SOFT)
        seconds = one.data.metrics["seconds"]
        told = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
        memory = f"peak memory {one.data.metrics['peak_memory_mb']:,.0f} MB"
        writer.paragraph(f"Seconds: {told}; {memory}", colour=_SOFT)
    return writer.pages


def _money(writer: _Writer, sheet: RunSheet) -> None:
    found = sheet.trading
    assert found is not None
    writer.heading("Monthly returns, net, in percent")
    monthly = tables.monthly_cells(monthly_returns(found.span.daily))
    rows = [[str(year), *(text for text, _ in cells)] for year, cells in monthly]
    writer.table([["", *tables.MONTHS, "Year"], *rows], _spread(1.4, 13))
    writer.heading("Costs")
    balance = float(found.span.daily.equity[0])
    rows = [list(row) for row in tables.waterfall_rows(found.waterfall, balance)]
    writer.table([["", "USDT", "of equity", "bps of traded value"], *rows], _spread(4.6, 3))
    stress = tables.stress_rows(sheet.data.metrics.get("stress"))
    if stress:
        head = ["had the same trades", "net return", "95 %", "Sharpe", "95 %"]
        writer.table([head, *(list(row) for row in stress)], _spread(3.4, 4))
    head = ["trades", "won [%]", "mean [bps]", "before costs", "fees", "funding", "net [USDT]"]
    groups = tables.group_cells(found.groups)
    if groups:
        writer.heading("Where the result comes from")
    for title, group in groups:
        writer.table([[title, *head], *group], _spread(3.2, 7))
    experts = tables.expert_cells(found.experts)
    if experts:
        head = ["weight [%]", "net by weight", "agreed", "net", "disagreed", "net"]
        writer.table([["Expert", *head], *experts], _spread(3.2, 6))


# -- pictures -------------------------------------------------------------------------------------

type _Drawing = Callable[[FigureBase], None]


def _of(panel: plots.Panel, sheets: Sequence[RunSheet]) -> _Drawing:
    return lambda part: panel(part, sheets)


def _pictures(sheets: Sequence[RunSheet]) -> list[Figure]:
    """Return the pages of pictures; each part has its height in inches and its title."""
    pages = [_predictions(sheets)]
    if not any(one.trading is not None for one in sheets):
        return pages
    pages.append(
        _stacked(
            (3.2, "From gross to net", _of(plots.waterfall_panel, sheets)),
            (5.0, "Exposure, leverage and turnover", _of(plots.activity_panel, sheets)),
        )
    )
    if any(one.trading is not None and len(one.trading.entered) for one in sheets):
        drawing = _of(plots.attribution_panel, sheets)
        pages.append(_stacked((7.0, "Where the result comes from", drawing)))
    for one in sheets:
        view = one.data.view
        if view is not None and view.prices and one.trading is not None:
            name = f": {one.name}" if len(sheets) > 1 else ""
            height = min(1.0 + 2.7 * len(view.prices), 10.0)
            drawing = _of(plots.trades_panel, [one])
            pages.append(_stacked((height, f"Trades on the prices{name}", drawing)))
    return pages


def _stacked(*parts: tuple[float, str, _Drawing]) -> Figure:
    """Return a page with pictures from top to bottom, and white where they do not reach."""
    page = _blank()
    heights = [height + 0.4 for height, _, _ in parts]
    rest = max(_HEIGHT - 1.1 - sum(heights), 0.01)
    *panels, _ = _parts(page, [*heights, rest])
    for panel, (_, title, drawing) in zip(panels, parts, strict=True):
        drawing(panel)
        panel.suptitle(title, fontsize=11.0, weight="bold", color=_INK)
    return page


def _predictions(sheets: Sequence[RunSheet]) -> Figure:
    """Return the page about the predictions."""
    page = _blank()
    upper, lower, _ = _parts(page, (5.0, 3.8, 1.8))
    left, right = upper.subfigures(1, 2, squeeze=False).ravel()
    plots.reliability_panel(left, sheets)
    left.suptitle("Can the probabilities be taken at their word?", fontsize=9.5, weight="bold")
    if any(one.data.folds for one in sheets):
        plots.folds_panel(right, sheets)
        right.suptitle("Is the skill there in every fold?", fontsize=9.5, weight="bold")
    left, right = lower.subfigures(1, 2, squeeze=False).ravel()
    plots.coverage_panel(left, sheets)
    left.suptitle("Is it right where it is sure?", fontsize=9.5, weight="bold")
    if any(one.data.view is not None and one.data.view.information for one in sheets):
        plots.information_panel(right, sheets)
        right.suptitle("How long does the signal last?", fontsize=9.5, weight="bold")
    return page
