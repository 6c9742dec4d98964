"""The tearsheet: complete, self-contained, repeatable, and plain about what is not known."""

from __future__ import annotations

import base64
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time
from research.estimates import Estimate
from research.metrics import PREDICTION_METRICS, prediction_metrics, reliability_curve
from research.performance import TradingFrames, Waterfall, trading_metrics
from research.report import (
    MAX_POINTS,
    Curve,
    FoldMark,
    curve_of,
    estimate_of,
    monthly_returns,
    number_text,
    trade_groups,
    verdict,
)
from research.tearsheet import TearsheetData, render_tearsheet, write_tearsheet

START = parse_time("2024-01-01")
BALANCE = 100_000.0
INSTRUMENTS = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")


def example(days: int = 45, *, skill: float = 0.3, trades: bool = True, seed: int = 5) -> Any:
    """Hourly predictions of two instruments, and trades on them, all out of one random stream."""
    random = np.random.default_rng(seed)
    n = days * 24
    ts = START + np.arange(1, n + 1) * NS_PER_HOUR
    rows = []
    for name in INSTRUMENTS:
        logit = skill * random.standard_normal(n)
        probability = 1.0 / (1.0 + np.exp(-logit))
        rows.append(
            pd.DataFrame(
                {
                    "ts_init": ts,
                    "instrument_id": name,
                    "fold": np.minimum(np.arange(n) * 3 // n, 2),
                    "prob_up": probability,
                    "base_prob": 0.5,
                    "label": (random.random(n) < probability).astype(float),
                }
            )
        )
    predictions = pd.concat(rows).sort_values(["ts_init", "instrument_id"], ignore_index=True)
    return SimpleNamespace(predictions=predictions, frames=_frames(ts, random, trades=trades))


def _frames(ts: np.ndarray, random: np.random.Generator, *, trades: bool) -> TradingFrames:
    """Positions of two hours, one after the other, with consistent books."""
    fills, positions, funding = [], [], []
    equity = np.full(len(ts), BALANCE)
    gross = np.zeros(len(ts))
    net = np.zeros(len(ts))
    for number, row in enumerate(range(5, len(ts) - 5, 11) if trades else ()):
        name = INSTRUMENTS[number % 2]
        side = 1 if random.random() < 0.5 else -1
        quantity = 200.0
        ends = np.array([100.0, 100.0 + side * 0.15 + 0.8 * random.standard_normal()])
        commission = 0.0005 * quantity * ends
        for leg, (reference, paid) in enumerate(zip(ends, commission, strict=True)):
            way = side if leg == 0 else -side
            fills.append(
                {
                    "ts_event": ts[row + 2 * leg - 1] + 250_000_000,
                    "instrument_id": name,
                    "side": way,
                    "quantity": quantity,
                    "price": reference * (1.0 + way * 1e-4),
                    "reference_price": reference,
                    "commission": paid,
                    "slippage_cost": quantity * reference * 1e-4,
                    "reason": "entry" if leg == 0 else "exit",
                }
            )
        opened, closed = fills[-2]["price"], fills[-1]["price"]
        payment = -side * quantity * opened * 1e-5
        funding.append({"ts_event": ts[row], "instrument_id": name, "payment": payment})
        realized = side * quantity * (closed - opened)
        positions.append(
            {
                "instrument_id": name,
                "ts_opened": fills[-2]["ts_event"],
                "ts_closed": fills[-1]["ts_event"],
                "side": side,
                "quantity": quantity,
                "average_open": opened,
                "average_close": closed,
                "realized_pnl": realized,
                "commission": float(commission.sum()),
                "funding": payment,
                "reason": ("signal", "stop_loss")[number % 3 == 0],
            }
        )
        gross[row : row + 2] = quantity * opened
        net[row : row + 2] = side * quantity * opened
        equity[row] += payment - commission[0]
        equity[row + 1] = equity[row]
        equity[row + 2 :] += realized + payment - float(commission.sum())
    return TradingFrames(
        fills=pd.DataFrame(
            fills,
            columns=None if fills else [
                "ts_event", "instrument_id", "side", "quantity", "price", "reference_price",
                "commission", "slippage_cost", "reason",
            ],
        ),
        positions=pd.DataFrame(
            positions,
            columns=None if positions else [
                "instrument_id", "ts_opened", "ts_closed", "side", "quantity", "average_open",
                "average_close", "realized_pnl", "commission", "funding", "reason",
            ],
        ),
        funding=pd.DataFrame(
            funding, columns=None if funding else ["ts_event", "instrument_id", "payment"]
        ),
        equity=pd.DataFrame(
            {"ts_init": ts, "equity": equity, "gross_exposure": gross, "net_exposure": net}
        ),
    )  # fmt: skip


def sheet(
    days: int = 45, *, replayed: bool = True, synthetic: bool = True, **options: Any
) -> TearsheetData:
    """Return the data of a run of three folds."""
    run = example(days, **options)
    end = START + days * NS_PER_DAY
    borders = [START + k * days // 3 * NS_PER_DAY for k in range(4)]
    marks = tuple(FoldMark(f"fold {k}", *borders[k : k + 2]) for k in range(3))

    def measured(frame: pd.DataFrame, start: int, stop: int) -> dict[str, Any]:
        found: dict[str, Any] = {"prediction": prediction_metrics(frame, samples=60)}
        if replayed:
            found["trading"] = trading_metrics(
                run.frames, start=start, end=stop, starting_balance=BALANCE, samples=60
            )
        return {
            part: {name: value.as_dict() for name, value in metrics.items()}
            for part, metrics in found.items()
        }

    metrics = measured(run.predictions, START, end) | {
        "folds": [
            measured(run.predictions[run.predictions["fold"] == k], mark.start, mark.end)
            for k, mark in enumerate(marks)
        ],
        "provenance": {
            "synthetic": synthetic,
            "data_hash": "d" * 64,
            "config_hash": "c" * 64,
            "seed": 7,
            "version": "0.1.0",
        },
        "seconds": {"features": 1.5, "fit": 9.25, "replay": 4.0, "total": 15.0},
        "peak_memory_mb": 512.3,
    }
    rising = np.linspace(BALANCE, 123_400.0, days * 24)
    held = pd.DataFrame({"ts_init": run.frames.equity["ts_init"], "equity": rising})
    return TearsheetData(
        title="perps <example>",
        metrics=metrics,
        predictions=run.predictions,
        reliability=reliability_curve(run.predictions),
        start=START,
        end=end,
        folds=marks,
        frames=run.frames if replayed else None,
        starting_balance=BALANCE,
        benchmarks={"buy and hold": held},
        references={"last sign": prediction_metrics(run.predictions, samples=0)},
        settings={"taker fee": "5 bps"},
    )


@pytest.fixture(scope="module")
def data() -> TearsheetData:
    return sheet()


@pytest.fixture(scope="module")
def page(data: TearsheetData) -> str:
    return render_tearsheet(data, quantstats=False)


class _Links(HTMLParser):
    """Collect every address that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found += [values[key] or "" for key in ("src", "href") if key in values]
        if tag == "img":
            self.images.append(values)


# -- the page -------------------------------------------------------------------------------------


def test_the_page_needs_no_network(page: str) -> None:
    links = _Links()
    links.feed(page)
    assert len(links.images) == 7
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.found)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    for image in links.images:
        assert image["alt"]
        picture = base64.b64decode((image["src"] or "").split(",", 1)[1]).decode()
        outside = set(re.findall(r'(?:href|src)="(?!#)([^"]*)"', picture))
        assert outside == set()
    assert len(page.encode()) < 2_000_000


def test_equal_data_give_equal_bytes(data: TearsheetData, page: str) -> None:
    assert render_tearsheet(data, quantstats=False) == page


@pytest.mark.slow
def test_another_process_gives_equal_bytes(page: str, tmp_path: Path) -> None:
    """Hash seeds and object addresses of the process must not show."""
    code = (
        "import sys, pathlib, importlib.util as u\n"
        "spec = u.spec_from_file_location('t', sys.argv[1]); t = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(t)\n"
        "text = t.render_tearsheet(t.sheet(), quantstats=False)\n"
        "pathlib.Path(sys.argv[2]).write_text(text, encoding='utf-8')\n"
    )
    out = tmp_path / "page.html"
    subprocess.run(
        [sys.executable, "-c", code, __file__, str(out)],
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "99", "PYTHONPATH": ".", "PATH": "", "MPLCONFIGDIR": str(tmp_path)},
    )
    assert out.read_text(encoding="utf-8") == page


def test_every_part_that_was_asked_for_is_there(page: str) -> None:
    for text in (
        *("Verdict", "Predictions by fold", "pooled", "fold 2", "Monthly returns", "last sign"),
        *("From gross to net", "Equity against flat, buy and hold", "BTCUSDT-PERP.BINANCE"),
        *("short", "stop loss", "d" * 64, "c" * 64, "config hash", "taker fee", "9.25 s"),
        *("95 % interval", "Sharpe ratio, net", "Break-even cost", "peak memory", "512 MB"),
    ):
        assert text in page, text
    assert "perps &lt;example&gt;" in page, "titles are escaped"
    words = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page).lower()
    assert not re.search(r"\b(nan|inf|none)\b", words.split("</style>")[1])


def test_synthetic_data_are_marked_and_real_ones_are_not(data: TearsheetData, page: str) -> None:
    assert "SYNTHETIC DATA" in page
    real = dict(data.metrics) | {"provenance": {**data.metrics["provenance"], "synthetic": False}}
    assert "SYNTHETIC DATA" not in render_tearsheet(
        replace(data, metrics=real, frames=None), quantstats=False
    )


def test_the_headline_shows_the_numbers_of_the_metrics(data: TearsheetData, page: str) -> None:
    for key, percent in (("auc", False), ("accuracy_at_10pct", True)):
        value, interval = number_text(estimate_of(data.metrics["prediction"][key]), percent=percent)
        assert f"<b>{value}</b>" in page
        assert interval in page
    value, interval = number_text(estimate_of(data.metrics["trading"]["net_return"]), percent=True)
    assert f"<b>{value}</b>" in page
    assert interval in page


def test_a_run_without_a_replay_has_a_page_too() -> None:
    page = render_tearsheet(sheet(12, replayed=False))
    assert "Predictions by fold" in page
    assert "Monthly returns" not in page
    assert page.count("<img") == 3


def test_a_strategy_that_never_trades_has_a_page_and_reasons() -> None:
    page = render_tearsheet(sheet(12, trades=False))
    assert "The strategy never traded" in page
    assert "no trades, so that equity never moved" in page
    assert "quantstats needs at least two days of returns that vary" in page
    assert "There were none." in page


def test_a_ruined_account_has_a_page_and_reasons() -> None:
    data = sheet(12)
    assert data.frames is not None
    level = np.linspace(BALANCE, -50_000.0, 12 * 24)
    equity = data.frames.equity.assign(equity=level)
    frames = replace(data.frames, equity=equity)
    trading = trading_metrics(
        frames, start=data.start, end=data.end, starting_balance=BALANCE, samples=20
    )
    metrics = {**data.metrics, "trading": {key: found.as_dict() for key, found in trading.items()}}
    page = render_tearsheet(replace(data, frames=frames, metrics=metrics))
    assert "equity fell to zero or below" in page
    assert "after ruin" in page
    assert "<b>-150 %</b>" in page


def test_nothing_is_left_when_the_disk_is_full(
    data: TearsheetData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "tearsheet.html").write_text("before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tearsheet(data, tmp_path, quantstats=False)
    assert [path.name for path in tmp_path.iterdir()] == ["tearsheet.html"]
    assert (tmp_path / "tearsheet.html").read_text() == "before"


def test_books_that_do_not_agree_are_shown_in_red(data: TearsheetData) -> None:
    assert data.frames is not None
    fills = data.frames.fills.assign(reference_price=data.frames.fills["reference_price"] * 1.01)
    wrong = TradingFrames(fills, data.frames.positions, data.frames.funding, data.frames.equity)
    page = render_tearsheet(replace(data, frames=wrong), quantstats=False)
    assert "the fills&#39; profit must agree with the change of equity" in page
    assert "tell the same story" not in page


def test_costs_under_stress_stand_beside_what_was_paid(data: TearsheetData, page: str) -> None:
    title = "Had the same trades cost more, less, or come a bar later"
    assert title not in page
    ratio = {"value": -1.25, "low": -2.0, "high": 0.5}
    rows = [{"name": "costs x 3", "net_return": ratio | {"value": -0.375}, "net_sharpe": ratio}]
    stress = {"rows": rows, "break_even": 1.437, "delay_cost": 12.0}
    stressed = replace(data, metrics={**data.metrics, "stress": stress})
    shown = render_tearsheet(stressed, quantstats=False)
    assert title in shown
    for text in ("costs x 3", "-38 %", "-1.2", "costs x 1.44"):
        assert text in shown, text


def test_missing_metrics_are_refused(data: TearsheetData) -> None:
    metrics = {key: value for key, value in data.metrics.items() if key != "seconds"}
    with pytest.raises(DataError, match=r"metrics must have the keys \['seconds'\]"):
        render_tearsheet(replace(data, metrics=metrics))
    with pytest.raises(DataError, match="folds must be those of the metrics, were 0 against 3"):
        render_tearsheet(replace(data, folds=()))


@pytest.mark.slow
def test_the_page_is_written_whole_with_quantstats_own_numbers(
    data: TearsheetData, tmp_path: Path
) -> None:
    assert write_tearsheet(data, tmp_path) == [tmp_path / "tearsheet.html"]
    assert [path.name for path in tmp_path.iterdir()] == ["tearsheet.html"]
    text = (tmp_path / "tearsheet.html").read_text(encoding="utf-8")
    assert "Smart Sharpe" in text
    sharpe = estimate_of(data.metrics["trading"]["net_sharpe"]).value
    assert f'<td>Sharpe</td><td class="n">{sharpe:.3f}</td>' in text


@pytest.mark.slow
def test_the_full_quantstats_report_is_written_on_request(
    data: TearsheetData, tmp_path: Path
) -> None:
    paths = write_tearsheet(data, tmp_path, full=True)
    assert [path.name for path in paths] == ["tearsheet.html", "quantstats.html"]
    assert paths[1].stat().st_size > 50_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quantstats.html", "tearsheet.html"]


def test_a_full_report_without_a_replay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a replay, and this run has none"):
        write_tearsheet(sheet(12, replayed=False), tmp_path, full=True)


def test_drawing_leaves_no_trace_in_matplotlib(data: TearsheetData) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    render_tearsheet(data, quantstats=False)
    assert dict(mpl.rcParams) == before


# -- what it is made of ---------------------------------------------------------------------------


def test_thinning_keeps_the_ends_and_the_extremes() -> None:
    random = np.random.default_rng(1)
    level = np.exp(np.cumsum(0.01 * random.standard_normal(50_000)))
    curve = Curve("x", np.arange(50_000, dtype=np.int64), level)
    ts, thin = curve.thinned()
    assert len(ts) <= MAX_POINTS + 2
    assert (np.diff(ts) > 0).all()
    assert (thin[0], thin[-1]) == (level[0], level[-1])
    assert (thin.min(), thin.max()) == (level.min(), level.max())
    assert np.array_equal(thin, level[ts])
    short = Curve("y", ts[:100], thin[:100])
    assert short.thinned()[1] is short.level


def test_drawdown_counts_from_the_start() -> None:
    curve = Curve("x", np.arange(4), np.array([0.9, 1.2, 0.6, 1.5]))
    assert curve.drawdown().level.tolist() == pytest.approx([-0.1, 0.0, -0.5, 0.0])


def test_curves_start_at_one() -> None:
    frame = pd.DataFrame({"ts_init": [10, 20, 30], "equity": [50.0, 60.0, 90.0]})
    whole = curve_of("x", frame, start=0, end=30, starting_balance=100.0)
    assert whole.level.tolist() == [1.0, 0.5, 0.6, 0.9]
    part = curve_of("x", frame, start=10, end=20, starting_balance=100.0)
    assert part.ts.tolist() == [10, 20]
    assert part.level.tolist() == [1.0, 1.2]
    assert part.last_return == pytest.approx(0.2)
    with pytest.raises(DataError, match="the curve 'x' must have rows in the span"):
        curve_of("x", frame, start=30, end=40, starting_balance=100.0)


def test_months_compound_to_the_whole() -> None:
    from research.performance import daily_equity

    random = np.random.default_rng(2)
    start, days = parse_time("2023-11-20"), 75
    ts = start + np.arange(1, days + 1) * NS_PER_DAY
    level = BALANCE * np.exp(np.cumsum(0.02 * random.standard_normal(days)))
    frame = pd.DataFrame({"ts_init": ts, "equity": level})
    daily = daily_equity(frame, start=start, end=int(ts[-1]), starting_balance=BALANCE)
    rows = monthly_returns(daily)
    assert [row.year for row in rows] == [2023, 2024]
    known = [
        [month for month, value in enumerate(row.months, 1) if not math.isnan(value)]
        for row in rows
    ]
    assert known == [[11, 12], [1, 2]]
    total = math.prod(1.0 + row.total for row in rows) - 1.0
    assert total == pytest.approx(level[-1] / BALANCE - 1.0)
    stamps = pd.Series(level, index=pd.to_datetime(ts - 1))
    december = stamps[stamps.index < "2024-01-01"].iloc[-1] / stamps[:"2023-11-30"].iloc[-1] - 1.0
    assert rows[0].months[11] == pytest.approx(december)


def test_groups_of_trades_add_up() -> None:
    positions = example().frames.positions
    for column in ("instrument_id", "reason"):
        *parts, whole = trade_groups(positions, column)
        assert whole.name == "all"
        assert sum(part.trades for part in parts) == whole.trades == len(positions)
        for name in ("realized", "fees", "funding", "net"):
            assert sum(getattr(part, name) for part in parts) == pytest.approx(getattr(whole, name))
        assert whole.realized - whole.fees + whole.funding == pytest.approx(whole.net)


@pytest.mark.parametrize(
    ("found", "percent", "expected"),
    [
        (Estimate(0.54912, 0.5401, 0.5602), False, ("0.549", "0.540 to 0.560")),
        (Estimate(0.0312, -0.1, 0.2), True, ("3 %", "-10 to 20 %")),
        (Estimate(0.0312, 0.03, 0.0324), True, ("3.12 %", "3.00 to 3.24 %")),
        (Estimate(144576.0, math.nan, math.nan), False, ("144,576", "")),
        (Estimate(math.nan, math.nan, math.nan), True, ("n/a", "")),
        (Estimate(0.0, 0.0, 0.0), False, ("0", "0 to 0")),
        (Estimate(12345.6, 10000.0, 15000.0), False, ("12,346", "10,000 to 15,000")),
    ],
)
def test_numbers_show_what_their_interval_supports(
    found: Estimate, percent: bool, expected: tuple[str, str]
) -> None:
    assert number_text(found, percent=percent) == expected


def _told(
    auc: Estimate, net: Estimate, *, gross: float = 100.0, synthetic: bool = False, **more: object
) -> str:
    prediction = dict.fromkeys(PREDICTION_METRICS, Estimate(0.01, -0.01, 0.02).as_dict())
    prediction["auc"] = auc.as_dict()
    trading = {"trades": Estimate(10, 5, 15).as_dict(), "net_return": net.as_dict()}
    metrics = {
        "prediction": prediction,
        "trading": trading,
        "provenance": {"synthetic": synthetic},
        **more,
    }
    steps = Waterfall(gross, 30.0, 20.0, 0.0, gross - 50.0, 0.0, 1000.0)
    return "\n".join(line.text for line in verdict(metrics, steps, {"buy and hold": -0.123}))


def test_the_verdict_says_what_the_intervals_allow() -> None:
    good, none, bad = (
        Estimate(0.55, 0.54, 0.56), Estimate(0.51, 0.49, 0.53), Estimate(0.45, 0.43, 0.47),
    )  # fmt: skip
    sure, perhaps, loss = (
        Estimate(0.2, 0.1, 0.3), Estimate(0.1, -0.1, 0.3), Estimate(-0.1, -0.3, 0.1),
    )  # fmt: skip
    assert "better than chance" in _told(good, sure)
    assert "cannot be told from chance" in _told(none, sure)
    assert "worse than chance" in _told(bad, sure)
    assert "more than the luck of the days explains" in _told(good, sure)
    assert "this may be luck" in _told(good, perhaps)
    assert "Before costs it earned 100 USDT; fees and slippage took 50" in _told(good, loss)
    assert "lost, before costs as well" in _told(good, loss, gross=-10.0)
    assert "buy and hold lost 12.3 %" in _told(good, sure)


def test_the_verdict_claims_nothing_of_few_days_and_knows_the_trials() -> None:
    auc, net = Estimate(0.55, 0.54, 0.56), Estimate(0.2, 0.1, 0.3)
    few = _told(auc, net, span={"start": 0, "end": 4 * NS_PER_DAY})
    assert "cannot be told from chance: AUC 0.55." in few
    assert "the strategy earned 20 %, and this may be luck" in few
    assert "a record of 4 days: with fewer than 8 no interval means anything" in few
    enough = {"start": 0, "end": 8 * NS_PER_DAY}
    assert "more than the luck of the days explains." in _told(auc, net, span=enough)
    tried = _told(auc, net, span=enough, trials={"count": 40, "dsr": 0.62})
    assert "but not more than that of 40 trials (deflated Sharpe ratio 62 %)" in tried
    for trials in ({"count": 40, "dsr": 0.97}, {"count": 1, "dsr": 0.9}, None):
        assert "luck of the days explains." in _told(auc, net, span=enough, trials=trials)


def test_a_result_too_good_to_be_true_is_called_that_on_real_data_only() -> None:
    auc, net = Estimate(0.64, 0.63, 0.65), Estimate(0.2, 0.1, 0.3)
    assert "look for a leak" in _told(auc, net)
    assert "look for a leak" not in _told(auc, net, synthetic=True)


def test_a_sceptics_objections_stand_on_the_page(data: TearsheetData, page: str) -> None:
    assert "sceptic" not in page  # a run older than the critic
    said = [
        {"key": "costs", "severity": "serious", "text": "Gone at 1.2 < 2 times.", "evidence": {}}
    ]
    objected = replace(data, metrics={**data.metrics, "critic": said})
    shown = render_tearsheet(objected, quantstats=False)
    assert '<td class="serious">serious</td><td>Gone at 1.2 &lt; 2 times.</td>' in shown
    unopposed = replace(data, metrics={**data.metrics, "critic": []})
    assert "None of the faults" in render_tearsheet(unopposed, quantstats=False)
