"""Sequence models fold by fold: warm starts, interruptions, and going on from them."""

from __future__ import annotations

import signal
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from catalog.errors import ConfigError, RunFailedError
from research.experts import FitContext
from research.fit_job import FitOptions, Learned, Spans
from research.fitting import StepPool, fit_rows, submit_fit
from research.models.deep.config import LSTMConfig
from research.models.deep.fit import DeepExpert
from research.models.lightgbm_expert import LightGBMConfig
from research.models.registry import ExpertsConfig, fit_expert
from research.settings import WalkForwardConfig
from research.training_table import TrainingTable, build_table
from research.walkforward import Keep, WalkForwardResult, usable_folds, walk_forward
from tests.research.experiments import config, panel

LSTM = LSTMConfig(
    d_model=8, samples=2, epochs=2, period_bars=8, batch_bars=512, validation_frac=0.1
)
FOLDS = 3


def settings(*, threads: int = 1, trees: bool = True, **changes: Any) -> WalkForwardConfig:
    experts = ExpertsConfig(
        lightgbm=LightGBMConfig(n_trees=3, min_rows_in_leaf=30) if trees else None,
        lstm=LSTM.model_copy(update=changes),
    )
    base = config(threads=threads, n_folds=FOLDS)
    found: WalkForwardConfig = base.model_copy(update={"experts": experts})
    return found


@cache
def table() -> TrainingTable:
    return build_table(panel(), settings())


@cache
def warm() -> WalkForwardResult:
    return walk_forward(panel(), settings(warm_start=True))


def lstm_of(result: WalkForwardResult, fold: int) -> DeepExpert:
    model = result.folds[fold].model
    assert model is not None
    (expert,) = (member.expert for member in model.members if member.name == "lstm")
    assert isinstance(expert, DeepExpert)
    return expert


def same_weights(one: DeepExpert, other: DeepExpert) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_fold_begins_from_the_one_before() -> None:
    previous = None
    for fold in usable_folds(table(), settings()):
        head = fold.train[Spans.of(table(), fold.train, settings()).head]
        own = LSTM.model_copy(update={"warm_start": True})
        wanted = fit_expert("lstm", table(), head, own, FitContext(previous=previous))
        assert isinstance(wanted, DeepExpert)
        assert same_weights(lstm_of(warm(), fold.index), wanted)
        previous = wanted
    assert warm().started_cold == {}
    cold = walk_forward(panel(), settings())
    assert same_weights(lstm_of(cold, 0), lstm_of(warm(), 0))
    assert not same_weights(lstm_of(cold, 1), lstm_of(warm(), 1))


def test_threads_do_not_change_a_warm_start() -> None:
    found = walk_forward(panel(), settings(warm_start=True, threads=3))
    pd.testing.assert_frame_equal(found.predictions, warm().predictions, check_exact=True)


def test_nothing_that_a_fold_is_judged_on_was_learned_before() -> None:
    """Told from the rows themselves: the spans of all labels that came before, and the embargo."""
    embargo = settings().validation.embargo_bars * table().interval_ns
    ends = [0]
    for fold in usable_folds(table(), settings()):
        spans = Spans.of(table(), fold.train, settings())
        begin = table().matrix.ts_init[fold.train[spans.tail]].min()
        assert max(ends) + embargo < begin
        ends.append(int(table().labels.ts_end[fold.train[spans.head]].max()))
        model = warm().folds[fold.index].model
        assert model is not None
        assert model.reports.learned_until["lstm"] == max(ends)


def test_what_has_learned_a_row_of_the_tail_is_not_begun_from_and_it_is_told() -> None:
    own, fold = settings(warm_start=True, trees=False), usable_folds(table(), settings())[1]
    begin = int(table().matrix.ts_init[fold.train[Spans.of(table(), fold.train, own).tail]].min())
    embargo = own.validation.embargo_bars * table().interval_ns

    def fitted(until: int) -> tuple[DeepExpert, dict[str, str]]:
        options = FitOptions(previous={"lstm": Learned(lstm_of(warm(), 0), until)})
        with StepPool(1) as pool:
            model = submit_fit(pool, table(), fold.train, own, fold.test_start, options).result()
        expert = model.members[0].expert
        assert isinstance(expert, DeepExpert)
        return expert, model.reports.started_cold

    expert, told = fitted(begin - embargo - 1)
    assert same_weights(expert, lstm_of(warm(), 1))
    assert told == {}
    expert, told = fitted(begin - embargo)
    assert not same_weights(expert, lstm_of(warm(), 1))
    assert "had learned from labels until" in told["lstm"]


def test_one_fit_alone_cannot_start_warm() -> None:
    fold = usable_folds(table(), settings())[0]
    with pytest.raises(ConfigError, match=r"must start cold, but experts\.lstm\.warm_start was"):
        fit_rows(table(), fold.train, settings(warm_start=True), fold.test_start)


class Killer:
    """A progress that kills the run at a call of a stage; it remembers all stages."""

    def __init__(self, stage: str = "", at: int = 0) -> None:
        self.stage, self.at = stage, at
        self.calls: list[str] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append(stage)
        if stage == self.stage and done >= self.at:
            raise ZeroDivisionError("killed")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"refit": True}, "fold 1: fit lstm"),
        ({"refit": True}, "fold 1: fit lstm (whole span)"),
        ({"warm_start": True}, "fold 1: fit lstm"),
        ({"warm_start": True}, "fold 2: fit lstm"),
    ],
)
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, changes: dict[str, Any], stage: str
) -> None:
    own = settings(trees=False, **changes)
    whole = walk_forward(panel(), own, keep=Keep(tmp_path / "whole"))
    with pytest.raises(RunFailedError, match=r"fold \d .*ZeroDivisionError: killed"):
        # In the second of two epochs: the first is done, and its checkpoint written.
        walk_forward(panel(), own, progress=Killer(stage, 1_200), keep=Keep(tmp_path / "killed"))
    left = {path.parent.name for path in (tmp_path / "killed").rglob("*.checkpoint.safetensors")}
    assert left == {"whole span" if "whole" in stage else "head"}
    kept = len(bytes_of(tmp_path / "killed"))
    assert 0 < kept < FOLDS
    told: list[str] = []
    progress = Killer()
    again = walk_forward(
        panel(), own, progress=progress, keep=Keep(tmp_path / "killed", told.append)
    )
    assert told == []
    fresh = Killer()
    walk_forward(panel(), own, progress=fresh)
    assert 0 < progress.calls.count(stage) < fresh.calls.count(stage)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    pd.testing.assert_frame_equal(again.predictions, whole.predictions, check_exact=True)
    assert repr(again.metrics) == repr(whole.metrics)
    names = {path.name for path in (tmp_path / "killed").iterdir()} - {".lock", "features"}
    assert names == {f"fold-{fold}.{end}" for fold in range(FOLDS) for end in ("parquet", "json")}


def test_kept_folds_give_the_result_of_a_run_that_keeps_nothing(tmp_path: Path) -> None:
    kept = walk_forward(panel(), settings(warm_start=True), keep=Keep(tmp_path))
    pd.testing.assert_frame_equal(kept.predictions, warm().predictions, check_exact=True)
    assert kept.predictions.attrs == warm().predictions.attrs
    progress = Killer()
    again = walk_forward(panel(), settings(warm_start=True), progress=progress, keep=Keep(tmp_path))
    assert not [stage for stage in progress.calls if "fit" in stage]
    pd.testing.assert_frame_equal(again.predictions, warm().predictions, check_exact=True)
    for ours, theirs in zip(again.folds, warm().folds, strict=True):
        assert ours.model is None
        assert (ours.n_train, ours.train_end) == (theirs.n_train, theirs.train_end)
    assert again.step_seconds.keys() == warm().step_seconds.keys()


def test_a_warm_run_whose_experts_are_gone_begins_anew_and_says_why(tmp_path: Path) -> None:
    own = settings(trees=False, warm_start=True)
    with pytest.raises(RunFailedError, match="killed"):
        walk_forward(panel(), own, progress=Killer("fold 1: fit lstm"), keep=Keep(tmp_path))
    (path,) = (tmp_path / "fold-0.experts").rglob("*.weights.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    told: list[str] = []
    found = walk_forward(panel(), own, keep=Keep(tmp_path, told.append))
    (remark,) = told
    assert remark.startswith("all folds must be made anew: experts of fold 0")
    again = walk_forward(panel(), own)
    pd.testing.assert_frame_equal(found.predictions, again.predictions, check_exact=True)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.timeout(60)
def test_an_interrupt_ends_a_long_fit_within_seconds() -> None:
    forever = settings(trees=False, epochs=10_000, patience=10_000)
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    began: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage.endswith("fit lstm") and done > 1_000 and not began:
            began.append(time.monotonic())
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        walk_forward(panel(), forever, progress=progress)
    assert time.monotonic() - began[0] < 5.0


def test_fits_tell_their_loss_under_the_fold_s_name() -> None:
    notes: dict[str, str] = {}

    class Told(Killer):
        def note(self, stage: str, text: str) -> None:
            notes[stage] = text

    progress = Told()
    walk_forward(panel(), settings(refit=True), progress=progress)
    wanted = {f"fold {n}: fit lstm{part}" for n in range(FOLDS) for part in ("", " (whole span)")}
    assert set(notes) == wanted
    assert all(text.startswith("loss 0.") for text in notes.values())
    trees = {
        f"fold {n}: fit lightgbm{part}"
        for n in range(FOLDS)
        for part in ("", " (without block 0)", " (without block 1)")
    }
    assert wanted | trees <= set(progress.calls)
    assert np.isfinite(list(warm().step_seconds.values())).all()
