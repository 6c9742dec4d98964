"""Cross-validation of the pipeline: its splits, its paths, and that it goes on after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from catalog.errors import ConfigError, DataError, IntegrityError, RunFailedError
from research import code_identity, cpcv
from research.cpcv import CpcvConfig, CpcvResult, cpcv_question, cpcv_splits, cross_validate
from research.fitting import fit_rows
from research.metrics import PREDICTION_METRICS, prediction_metrics
from research.models.deep.config import LSTMConfig
from research.models.registry import ExpertsConfig
from research.predictions import (
    PREDICTION_COLUMNS,
    PrecomputedPredictions,
    read_predictions,
    write_predictions,
)
from research.training_table import TrainingTable, build_table
from research.walkforward import Keep
from tests.research.experiments import config, panel
from tests.research.experiments import result as walk_forward_result

ROOT = Path(__file__).resolve().parents[2]
GROUPS = CpcvConfig(n_groups=4, n_test_groups=2)


@cache
def result() -> CpcvResult:
    return cross_validate(panel(), config(), GROUPS)


@cache
def table() -> TrainingTable:
    return build_table(panel(), config())


def same_paths(one: CpcvResult, other: CpcvResult) -> None:
    assert one.n_paths == other.n_paths == 3
    for path in range(one.n_paths):
        pd.testing.assert_frame_equal(one.path(path), other.path(path), check_exact=True)
    np.testing.assert_array_equal(one.edges, other.edges)
    assert repr(one.metrics) == repr(other.metrics)


# -- splits --------------------------------------------------------------------------------------


def test_no_training_row_shares_its_labels_time_with_a_tested_group() -> None:
    found = cpcv_splits(table(), config(), GROUPS)
    ts_init, ts_end = table().matrix.ts_init, table().labels.ts_end
    embargo = config().validation.embargo_bars * table().interval_ns
    edges = result().edges
    assert [split.groups for split in found] == list(combinations(range(4), 2))
    for split in found:
        inside = np.zeros(len(ts_init), dtype=bool)
        clear = table().trainable.copy()
        for group in split.groups:
            member = (ts_init > edges[group]) & (ts_init <= edges[group + 1])
            inside |= member
            first = ts_init[member & table().matrix.valid].min()
            last = ts_end[member & table().matrix.valid].max()
            clear &= (ts_end <= first - embargo) | (ts_init >= last + embargo)
        np.testing.assert_array_equal(split.test, np.flatnonzero(inside & table().matrix.valid))
        np.testing.assert_array_equal(split.train, np.flatnonzero(clear))
        assert split.purged > 0
        assert split.name.startswith(f"split {split.index} (groups {split.groups[0]} and ")


def test_a_split_is_the_fit_of_its_rows() -> None:
    split = cpcv_splits(table(), config(), GROUPS)[2]
    alone = fit_rows(table(), split.train, config(), split.test_start)
    frame = result().load(2)
    ours = alone.references.base_prob
    assert (frame["base_prob"] == ours).all()
    assert result().splits[2].n_train == len(split.train)
    assert result().splits[2].n_test == len(frame) == len(split.test)
    assert alone.train_end > split.test_start  # it has learned from what came later, too


# -- paths ---------------------------------------------------------------------------------------


def test_every_path_predicts_every_usable_row_once() -> None:
    names = np.array(panel().instruments(), dtype=object)
    usable = np.flatnonzero(table().matrix.valid)
    order = usable[np.lexsort((table().matrix.instrument[usable], table().matrix.ts_init[usable]))]
    for index in range(result().n_paths):
        path = result().path(index)
        np.testing.assert_array_equal(path["ts_init"], table().matrix.ts_init[order])
        np.testing.assert_array_equal(
            path["instrument_id"], names[table().matrix.instrument[order]]
        )
        np.testing.assert_array_equal(path["label"], table().labels.value[order])
        assert set(PREDICTION_COLUMNS) <= set(path.columns)
        assert sorted(path["fold"].unique()) == [0, 1, 2, 3]


def test_a_path_is_put_together_from_splits_that_test_its_groups() -> None:
    keys = ["ts_init", "instrument_id"]
    splits = {index: result().load(index).set_index(keys) for index in range(6)}
    served = set()
    for index in range(result().n_paths):
        for (group, split), part in result().path(index).groupby(["fold", "split"]):
            assert group in result().splitter.test_groups[split]
            served.add((group, split))
            rows = pd.MultiIndex.from_frame(part[keys])
            wanted = splits[split].loc[rows, "prob_up"].to_numpy()
            np.testing.assert_array_equal(part["prob_up"], wanted)
    assert len(served) == 6 * 2  # nothing that was predicted is left over


def test_paths_differ_and_are_measured() -> None:
    one, other = result().path(0), result().path(1)
    assert (one["prob_up"] != other["prob_up"]).mean() > 0.5
    assert len(result().metrics) == 3
    wanted = prediction_metrics(one, **config().bootstrap.model_dump())
    assert repr(result().metrics[0]) == repr(wanted)
    assert set(wanted) >= set(PREDICTION_METRICS)
    for found in result().metrics:  # the market is not predictable
        assert found["auc"].low < 0.5 < found["auc"].high


def test_a_path_is_served_and_stored_and_is_never_taken_for_a_walk_forward(tmp_path: Path) -> None:
    path, spec = result().path(1), result().spec
    served = PrecomputedPredictions.from_frame(path, spec)
    row = path.iloc[len(path) // 2]
    (found,) = [
        prediction
        for prediction in served.update(int(row["ts_init"]), dict.fromkeys(spec.instruments))  # type: ignore[arg-type]
        if prediction.instrument_id == row["instrument_id"]
    ]
    assert found.prob_up == row["prob_up"]
    assert found.model_version.startswith("cpcv-")
    write_predictions(tmp_path / "path.parquet", path)
    again = read_predictions(tmp_path / "path.parquet", spec, result().data_hash)
    pd.testing.assert_frame_equal(again, path, check_exact=True)
    with pytest.raises(IntegrityError, match=r"another question .*: validation was"):
        PrecomputedPredictions.from_frame(path, walk_forward_result().spec)
    with pytest.raises(IntegrityError, match=r"another question .*: validation was"):
        PrecomputedPredictions.from_frame(walk_forward_result().predictions, spec)


def test_the_layout_is_the_question_and_the_walk_forwards_folds_are_not() -> None:
    def parts(settings: CpcvConfig = GROUPS, **changes: Any) -> dict[str, str]:
        return cpcv_question(panel(), config(**changes), settings).parts

    def differing(other: dict[str, str]) -> set[str]:
        return {name for name in other if other[name] != parts()[name]}

    assert differing(parts(CpcvConfig(n_groups=5))) == {"validation"}
    assert differing(parts(embargo_bars=5)) == {"validation"}
    assert differing(parts(trees=9)) == {"expert lightgbm"}
    assert differing(parts(n_folds=2)) == set()
    assert differing(parts(min_train_rows=600)) == set()


@pytest.mark.parametrize(
    ("module", "part"),
    [("research.cross_validation", "code of splits"), ("research.cpcv", "")],
)
def test_what_divides_the_rows_is_part_of_the_question(
    monkeypatch: pytest.MonkeyPatch, module: str, part: str
) -> None:
    before = cpcv_question(panel(), config(), GROUPS).parts
    honest = code_identity._source
    changed = {module: "\nCHANGED = 1\n"}
    monkeypatch.setattr(code_identity, "_source", lambda name: honest(name) + changed.get(name, ""))
    code_identity._module_hash.cache_clear()
    after = cpcv_question(panel(), config(), GROUPS).parts
    code_identity._module_hash.cache_clear()
    # Of the module itself it is the one function that divides them; the rest measures and joins.
    assert {name for name in after if before[name] != after[name]} == ({part} if part else set())


def test_the_record_is_json() -> None:
    record = json.loads(json.dumps(result().to_json()))
    assert [len(record[name]) for name in ("splits", "paths", "edges")] == [6, 3, 5]
    assert record["splits"][5]["groups"] == [2, 3]
    assert record["embargo_ns"] == config().validation.embargo_bars * panel().interval_ns


# -- kept and resumed ----------------------------------------------------------------------------


def test_threads_and_keeping_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    keep = Keep(tmp_path, told.append)
    same_paths(cross_validate(panel(), config(threads=3), GROUPS, keep=keep), result())
    monkeypatch.setattr(cpcv, "build_table", None)  # would raise if called
    again = cross_validate(panel(), config(), GROUPS, keep=keep)
    same_paths(again, result())
    assert [one.n_train for one in again.splits] == [one.n_train for one in result().splits]
    assert again.splits[3].test_end == result().splits[3].test_end
    assert told == []


@pytest.mark.slow
def test_splits_of_other_code_are_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Keep(tmp_path)
    cross_validate(panel(), config(), GROUPS, keep=keep)
    for frame in tmp_path.glob("cpcv-*/fold-*.parquet"):
        frame.write_bytes(b"of the old code")
    honest = code_identity._source
    changed = {"research.calibration": "\nCHANGED = 1\n"}
    monkeypatch.setattr(code_identity, "_source", lambda name: honest(name) + changed.get(name, ""))
    code_identity._module_hash.cache_clear()
    try:
        same_paths(cross_validate(panel(), config(), GROUPS, keep=keep), result())
    finally:
        code_identity._module_hash.cache_clear()
    assert len(list(tmp_path.glob("cpcv-*"))) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from research.cpcv import CpcvConfig, cross_validate
from research.fold_store import FoldStore
from research.walkforward import Keep
from tests.research.experiments import config, panel

honest = FoldStore._digest
def killed(self, index):
    # Its predictions are in place, and nothing is said of them yet.
    if len(list(self.folder.glob("fold-*.json"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(self, index)
FoldStore._digest = killed
keep = Keep(Path(sys.argv[1]))
cross_validate(panel(), config(), CpcvConfig(n_groups=4, n_test_groups=2), keep=keep)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (folder,) = tmp_path.glob("cpcv-*")
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("fold-*.json")}
    assert len(kept) == 2
    assert len(list(folder.glob("fold-*.parquet"))) == 3
    features = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*.npy")}
    assert features
    told: list[str] = []
    again = cross_validate(panel(), config(), GROUPS, keep=Keep(tmp_path, told.append))
    same_paths(again, result())
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert {path: path.stat().st_mtime_ns for path in features} == features
    (remark,) = told
    assert "must be made anew: how it went is not known" in remark


def test_a_split_that_fails_is_named_and_what_was_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from research import fold_runs

    fit, calls = fold_runs.submit_fit, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise ValueError("out of luck")
        return fit(*arguments)

    monkeypatch.setattr(fold_runs, "submit_fit", failing)
    with pytest.raises(RunFailedError, match=r"split \d \(groups \d and \d, .*out of luck"):
        cross_validate(panel(), config(), GROUPS, keep=Keep(tmp_path))
    assert len(list(tmp_path.glob("cpcv-*/fold-*.parquet"))) == 2
    same_paths(cross_validate(panel(), config(), GROUPS, keep=Keep(tmp_path)), result())
    assert len(calls) == 3 + 4


# -- refusals ------------------------------------------------------------------------------------


def test_experts_that_start_warm_are_refused() -> None:
    warm = ExpertsConfig(lstm=LSTMConfig(warm_start=True))
    with pytest.raises(ConfigError, match=r"experts\.lstm\.warm_start was true: splits do not"):
        cross_validate(panel(), config().model_copy(update={"experts": warm}), GROUPS)


def test_too_few_training_rows_are_told_with_where_they_went() -> None:
    with pytest.raises(
        DataError, match=r"split 0 .* must have at least 50000 training rows, had \d+: of \d+ outs"
    ):
        cross_validate(panel(), config(min_train_rows=50_000), GROUPS)


def test_layouts_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="less than n_groups=3, was 3"):
        CpcvConfig(n_groups=3, n_test_groups=3)
    with pytest.raises(ValidationError, match="at most 1000 splits"):
        CpcvConfig(n_groups=30, n_test_groups=4)
    with pytest.raises(ConfigError, match="a path must be one of 0 to 2, was 3"):
        result().path(3)
