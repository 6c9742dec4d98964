"""What goes wrong inside a run reaches the user: an exit code, the original words, no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import research.walkforward as walkforward_module
from adapters.synthetic import SyntheticConfig
from live.cli import app
from live.synthesis import make_market
from research.models.lightgbm_expert import BinnedRows
from strategies.fill_model import ReplayFillModel
from strategies.fusion import FusionStrategy
from strategies.predictor_actor import PredictorActor

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
        (FusionStrategy, "_submit", "a callback raised FusionStrategy.on_"),
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
    assert "orders denied or rejected: F1-E" in done.stderr
    assert f"was REJECTED: No market for {BTC}" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("owner", "step"), [(BinnedRows, "fit"), (walkforward_module, "predict_rows")]
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
