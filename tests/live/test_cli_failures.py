"""What goes wrong inside a run reaches the user: an exit code, the original words, no folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import research.fold_runs as fold_runs_module
import research.predictor as predictor_module
from adapters.synthetic import SyntheticConfig
from live.cli import app
from live.synthesis import make_market
from research.circuit_breaker import BreakerConfig, CircuitBreaker
from research.experts import ExpertOutput
from research.models.lightgbm_expert import BinnedRows
from research.models.lightgbm_serving import LightGBMExpert
from strategies.fill_model import ReplayFillModel
from strategies.fusion import FusionStrategy
from strategies.order_desk import OrderDesk
from strategies.predictor_actor import PredictorActor
from tests.live.quick_page import quick_page

BTC = "BTCUSDT-PERP.BINANCE"
SMALL = (
    f'--set=data.instruments=["{BTC}"]',
    f"--set=features.lead={BTC}",
    "--set=features.ratios=[]",
    "--set=features.peers=false",
    "--set=data.end=2024-02-08",
    "--set=validation.test_start=2024-02-04",
    "--set=validation.n_folds=2",
    "--set=experts.lightgbm.n_trees=5",
    "--set=bootstrap.samples=50",
    "--set=strategy.entry_threshold=0.51",
)


@pytest.fixture(scope="module", autouse=True)
def _quick_page() -> Iterator[None]:
    with quick_page():
        yield


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small market of one instrument."""
    folder = tmp_path_factory.mktemp("failures") / "catalog"
    make_market(folder, SyntheticConfig(instruments=(BTC,), end="2024-02-08", news_per_day=0.0))
    return folder


def walkforward(catalog: Path, out: Path) -> Result:
    arguments = ["walkforward", "-p", "synthetic", *SMALL, "-c", str(catalog), "-o", str(out)]
    return CliRunner().invoke(app, arguments)


def boom(*_: Any, **__: Any) -> None:
    raise ArithmeticError("the original words")


def test_undisturbed_the_command_trades_and_writes_a_run(catalog: Path, tmp_path: Path) -> None:
    import pandas as pd

    done = walkforward(catalog, tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "run" / "fills.parquet")) > 0


@pytest.mark.parametrize(
    ("owner", "callback", "told"),
    [
        (FusionStrategy, "_decide", "a callback raised FusionStrategy.on_"),
        (OrderDesk, "_submit", "a callback raised FusionStrategy.on_"),
        (PredictorActor, "_predict", "a callback raised PredictorActor.on_bar"),
        (ReplayFillModel, "_terms_of", "a callback raised ReplayFillModel.get_orderbook"),
    ],
)
def test_a_callback_that_raises_ends_the_command_with_5_and_its_words(
    catalog: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    callback: str,
    told: str,
) -> None:
    monkeypatch.setattr(owner, callback, boom)
    done = walkforward(catalog, tmp_path / "run")
    assert done.exit_code == 5, done.stderr
    assert "error: the run's books must balance" in done.stderr
    assert told in done.stderr
    assert "ArithmeticError: the original words" in done.stderr
    assert "must not be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_orders_that_the_exchange_denies_end_the_command_with_5(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nautilus_trader.model import BookType, OrderBook

    def empty(self: Any, instrument: Any, *_: Any) -> OrderBook:
        return OrderBook(instrument.id, BookType.L2_MBP)

    monkeypatch.setattr(ReplayFillModel, "get_orderbook_for_fill_simulation", empty)
    done = walkforward(catalog, tmp_path / "run")
    assert done.exit_code == 5
    # An order that the exchange may fill in part ends without a fill where there is no market.
    assert "market or limit orders not filled as they must: F1-E" in done.stderr
    assert "must be filled with" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("owner", "step"), [(BinnedRows, "fit"), (fold_runs_module, "predict_rows")]
)
def test_a_fold_that_fails_is_named_with_its_real_error(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    monkeypatch.setattr(owner, step, boom)
    done = walkforward(catalog, tmp_path / "run")
    assert done.exit_code == 5, done.stderr
    assert "error: fold" in done.stderr
    assert "training and" in done.stderr
    assert "ArithmeticError" in done.stderr
    assert "the original words" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bundle(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the first days."""
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    done = command("train", catalog, out, "--until", "2024-02-04")
    assert done.exit_code == 0, done.stderr
    return out


SPAN = ("--from", "2024-02-04", "--to", "2024-02-06")


def command(name: str, catalog: Path, out: Path, *more: str) -> Result:
    arguments = [name, "-p", "synthetic", *SMALL, "-c", str(catalog), "--out", str(out), *more]
    return CliRunner().invoke(app, arguments)


class Broken:
    """An expert's stream that has lost its weights, from its nth bar on."""

    def __init__(self, stream: Any, good: int) -> None:
        self.stream, self.left = stream, good

    def update(self, *arguments: Any) -> ExpertOutput:
        self.left -= 1
        if self.left < 0:
            raise ArithmeticError("the original words")
        found: ExpertOutput = self.stream.update(*arguments)
        return found


@pytest.mark.parametrize("good", [0, 100])
def test_an_expert_that_fails_in_serving_ends_the_command_with_5_and_its_words(
    catalog: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    made = LightGBMExpert.stream
    monkeypatch.setattr(LightGBMExpert, "stream", lambda *a: Broken(made(*a), good))
    breaker = ("--set=breaker.first_bars=400", "--set=breaker.max_bars=400")
    run = ("--bundle", str(bundle), *SPAN, *breaker)
    done = command("backtest", catalog, tmp_path / "run", *run)
    told = done.stderr.replace("\n", " ")
    assert done.exit_code == 5, told
    assert "what a bundle says bar by bar must be what it says in one batch" in told
    assert f"left out: lightgbm (trips: 1, failed: 1 of {good + 1} calls, held back: " in told
    assert "at last: raised ArithmeticError: the original words" in told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_fares_well_says_so(catalog: Path, bundle: Path, tmp_path: Path) -> None:
    done = command("backtest", catalog, tmp_path / "run", "--bundle", str(bundle), *SPAN)
    assert done.exit_code == 0, done.stderr
    assert "no expert failed" in done.stdout
    metrics, record = (
        json.loads((tmp_path / "run" / name).read_text()) for name in ("metrics.json", "run.json")
    )
    served = metrics["served"]
    assert record["served"] == served
    assert served["rows"] == 2 * 96
    assert served["degraded_frac"] == 0.0
    state = served["breakers"]["lightgbm"]
    assert (state["trips"], state["failures"], state["status"]) == (0, 0, "closed")
    assert state["calls"] >= served["rows"]


@pytest.mark.slow
def test_both_audits_and_backtests_serve_with_the_profiles_breaker(
    catalog: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[BreakerConfig] = []

    class Noting(CircuitBreaker):
        def __init__(self, name: str, config: BreakerConfig) -> None:
            found.append(config)
            super().__init__(name, config)

    monkeypatch.setattr(predictor_module, "CircuitBreaker", Noting)
    told = "--set=breaker.first_bars=3"
    run = ("--bundle", str(bundle), *SPAN, told)
    assert command("backtest", catalog, tmp_path / "run", *run).exit_code == 0
    audit = ["audit", "parity", "-p", "synthetic", *SMALL, "-c", str(catalog), *SPAN, told]
    done = CliRunner().invoke(app, audit)
    assert done.exit_code == 0, done.stderr
    assert found == [BreakerConfig(first_bars=3)] * 2
