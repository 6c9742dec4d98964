"""Several runs on one page and on paper."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from catalog.errors import ConfigError
from research.market_view import ViewedRun, market_view
from research.metrics import BootstrapConfig
from research.performance import TradingFrames, daily_equity
from research.run_sheet import TearsheetData, named_sheets
from research.sheet_pages import PAGE_NAME, page_pictures, write_pdf
from research.sheet_plots import MAX_RUNS
from research.sheet_tables import luck_rows
from research.tearsheet import render_tearsheets
from tests.research.test_sheet_numbers import made_bars
from tests.research.test_tearsheet import BALANCE, sheet

BOOTSTRAP = BootstrapConfig(samples=40)


def viewed(title: str, *, seed: int = 5, days: int = 12) -> TearsheetData:
    """A run that kept what is shown of the market."""
    data = sheet(days, synthetic=False, seed=seed)
    assert data.frames is not None
    daily = daily_equity(
        data.frames.equity, start=data.start, end=data.end, starting_balance=BALANCE
    )
    run = ViewedRun(data.predictions, data.frames.positions, daily, 4, BOOTSTRAP)
    view = market_view(run, made_bars(days * 24), data.benchmarks)
    return replace(data, title=title, view=view, bootstrap=BOOTSTRAP)


@pytest.fixture(scope="module")
def pair() -> list[TearsheetData]:
    validation = {
        "trials": {"count": 42, "dsr": 0.875},
        "variants": {"tables": {"pbo": {"value": 0.375}, "spa_nothing": {"consistent": 0.0625}}},
        "null": {"p_values": {"net_sharpe": 0.031, "log_loss_skill": 0.011},
                 "config": {"runs": 100}},
    }  # fmt: skip
    return [viewed("one"), replace(viewed("two <b>", seed=6), validation=validation)]


@pytest.fixture(scope="module")
def page(pair: list[TearsheetData]) -> str:
    return render_tearsheets(pair, title="A & B", quantstats=False)


def test_both_runs_stand_side_by_side(page: str) -> None:
    assert "<h1>A &amp; B</h1>" in page
    assert '<th class="n">one</th><th class="n">two &lt;b&gt;</th>' in page
    for text in (
        *("Against one", "Days in common", "Trades on the prices", "How long does the signal last"),
        *("Is it right where it is sure", "Exposure, leverage and turnover", "by random lengths"),
        *("<b>42</b>", "<b>87.5 %</b>", "<b>0.375</b>", "<b>0.062</b>", "<b>0.031</b>"),
        *("100 runs", "not validated", "before the ledger", "when it was validated"),
    ):
        assert text in page, text
    # Both have pictures of their trades beside the joint ones.
    assert page.count("<img") == 10


def test_what_is_missing_says_why() -> None:
    data = viewed("one")
    frames, metrics = data.frames, {**data.metrics, "trials": {"count": 3, "dsr": None}}
    assert frames is not None
    idle = replace(
        data,
        metrics=metrics,
        frames=TradingFrames(
            frames.fills[:0], frames.positions[:0], frames.funding[:0], frames.equity
        ),
        view=None,
    )
    validated = replace(idle, validation={"variants": {"tables": {"pbo": None}}})
    rows = luck_rows(named_sheets([idle, validated]))
    told = {row.label: [cell.reason or cell.interval for cell in row.cells] for row in rows}
    assert told["Trials on these data"] == ["when it was run", "when it was validated"]
    assert told["Deflated Sharpe ratio"] == ["no Sharpe ratio"] * 2
    assert told["Same trades at other times"] == ["no trades"] * 2
    assert told["Probability of backtest overfitting"] == ["not validated", "not to be had"]


def test_a_page_of_several_needs_no_network_and_no_script(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 10
    assert all(one.startswith("data:image/svg+xml;base64,") for one in sources)
    assert "<script" not in page
    words = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page).lower().split("</style>")[1]
    assert not re.search(r"\b(nan|inf|none)\b", words.replace("none of the faults", ""))


def test_what_others_set_in_matplotlib_changes_nothing(
    pair: list[TearsheetData], page: str
) -> None:
    """Quantstats changes the defaults of the process when it is imported."""
    with mpl.rc_context({"axes.labelsize": 25.0, "axes.facecolor": "red", "font.size": 3.0}):
        assert render_tearsheets(pair, title="A & B", quantstats=False) == page


def test_runs_that_cannot_be_compared_are_told(pair: list[TearsheetData], page: str) -> None:
    assert "different spans" not in page
    other = viewed("two", days=9)
    metrics = {
        **other.metrics,
        "provenance": {**other.metrics["provenance"], "data_hash": "e" * 64},
    }
    told = render_tearsheets([pair[0], replace(other, metrics=metrics)], quantstats=False)
    assert "The runs cover different spans" in told
    assert "made with different data" in told
    assert "different versions" not in told


def test_runs_of_the_same_name_are_numbered(pair: list[TearsheetData]) -> None:
    bare = replace(pair[0], frames=None, view=None)
    page = render_tearsheets([bare, bare], quantstats=False)
    assert '<th class="n">one (1)</th><th class="n">one (2)</th>' in page


def test_more_runs_than_can_be_told_apart_are_refused(pair: list[TearsheetData]) -> None:
    with pytest.raises(ConfigError, match=f"must be 1 to {MAX_RUNS}, were {MAX_RUNS + 1}"):
        render_tearsheets([pair[0]] * (MAX_RUNS + 1))
    with pytest.raises(ConfigError, match="were 0"):
        render_tearsheets([])


@pytest.mark.slow
def test_paper_is_written_whole_and_the_same_twice(
    pair: list[TearsheetData], tmp_path: Path
) -> None:
    pages = write_pdf(pair, tmp_path / "a.pdf")
    assert write_pdf(pair, tmp_path / "b.pdf") == pages >= 7
    first, second = ((tmp_path / name).read_bytes() for name in ("a.pdf", "b.pdf"))
    assert first == second
    assert first.startswith(b"%PDF")
    assert first.count(b"/Type /Page\n") + first.count(b"/Type /Page ") == pages
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "b.pdf"]


@pytest.mark.slow
def test_pages_as_pictures_are_numbered(pair: list[TearsheetData]) -> None:
    found = dict(page_pictures(pair[:1]))
    assert list(found) == [PAGE_NAME.format(at) for at in range(1, len(found) + 1)]
    assert all(picture.startswith(b"\x89PNG") for picture in found.values())


def test_paper_of_a_run_without_a_replay(tmp_path: Path) -> None:
    data = sheet(12, replayed=False)
    assert write_pdf([data], tmp_path / "a.pdf") == 4
