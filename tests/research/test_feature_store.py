"""Features that are kept: the same bits back, and nothing that was made of anything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import DataError
from research import code_identity, feature_store
from research.feature_store import MOST_KEPT, FeatureStore, feature_parts
from research.features import FeatureMatrix, compute_features
from research.training_table import build_table
from research.walkforward import Keep, walk_forward
from tests.research.experiments import config, panel, result, same_numbers, time_at

COLUMNS = ("ts_init", "instrument", "values", "valid")


def same(one: FeatureMatrix, other: FeatureMatrix) -> None:
    assert (one.names, one.instruments) == (other.names, other.instruments)
    for name in COLUMNS:
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often features are made."""
    calls: list[int] = []

    def compute(*arguments: Any, **options: Any) -> FeatureMatrix:
        calls.append(1)
        return compute_features(*arguments, **options)

    monkeypatch.setattr(feature_store, "compute_features", compute)
    return calls


def test_what_is_kept_comes_back_bit_for_bit(tmp_path: Path, counted: list[int]) -> None:
    store = FeatureStore(tmp_path / "features")
    made = store.matrix(panel(), config())
    read = store.matrix(panel(), config())
    assert len(counted) == 1
    same(read, made)
    same(read, compute_features(panel(), config().features))
    assert type(read.values) is np.ndarray  # compiled code takes it as it is
    read.values[0, 0] = 3.0  # as any table may be written to; the file does not change
    same(store.matrix(panel(), config()), made)
    assert len(counted) == 1


def test_only_what_decides_features_counts(tmp_path: Path, counted: list[int]) -> None:
    store = FeatureStore(tmp_path)
    for same_features in ({}, {"trees": 3}, {"horizon": 5}, {"threads": 3}, {"n_folds": 2}):
        store.matrix(panel(), config(**same_features))
    assert len(counted) == 1
    fewer = config().model_copy(
        update={"features": config().features.model_copy(update={"peers": False})}
    )
    store.matrix(panel(), fewer)
    store.matrix(panel(1), config())
    assert len(counted) == 3


def test_a_panel_that_was_changed_under_the_same_hash_is_another(
    tmp_path: Path, counted: list[int]
) -> None:
    store, true = FeatureStore(tmp_path), panel()
    first = true.bars[0]
    shuffled = replace(first, volume=first.volume[::-1].copy())
    other = replace(true, bars=(shuffled, *true.bars[1:]))
    assert other.data_hash == true.data_hash
    store.matrix(true, config())
    same(store.matrix(other, config()), compute_features(other, config().features))
    cut = replace(true, bars=tuple(bars.between(None, time_at(0.9)) for bars in true.bars))
    same(store.matrix(cut, config()), compute_features(cut, config().features))
    assert len(counted) == 3


def test_features_of_other_code_are_never_used(
    tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, honest = FeatureStore(tmp_path), code_identity._source
    store.matrix(panel(), config())
    changed = {"research.kernel_tools": "\nCHANGED = 1\n"}
    monkeypatch.setattr(code_identity, "_source", lambda name: honest(name) + changed.get(name, ""))
    code_identity._module_hash.cache_clear()
    try:
        store.matrix(panel(), config())
    finally:
        code_identity._module_hash.cache_clear()
    assert len(counted) == 2
    monkeypatch.setattr(
        feature_store, "code_parts", lambda _: {"code of features": "", "libraries": ""}
    )
    store.matrix(panel(), config())
    assert len(counted) == 3


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def of_another(path: Path) -> None:
    record = json.loads(path.read_text())
    record["parts"]["data"] = "another"
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("values.npy", half, "values is not what was written"),
        ("values.npy", flipped, "values is not what was written"),
        ("valid.npy", Path.unlink, "No such file"),
        ("features.json", half, "must be made anew"),
        ("features.json", Path.unlink, "No such file"),
        ("features.json", of_another, "it was made for another question"),
    ],
)
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path, counted: list[int], name: str, damage: Callable[[Path], Any], told: str
) -> None:
    remarks: list[str] = []
    store = FeatureStore(tmp_path, remarks.append)
    made = store.matrix(panel(), config())
    (entry,) = tmp_path.iterdir()
    damage(entry / name)
    same(store.matrix(panel(), config()), made)
    same(store.matrix(panel(), config()), made)
    assert len(counted) == 2
    (remark,) = remarks
    assert told in remark


def test_what_a_killed_process_left_is_not_taken(tmp_path: Path, counted: list[int]) -> None:
    store = FeatureStore(tmp_path)
    made = store.matrix(panel(), config())
    (entry,) = tmp_path.iterdir()
    entry.rename(tmp_path / f".{entry.name}.1.partial")
    same(store.matrix(panel(), config()), made)
    assert len(counted) == 2


def test_the_oldest_entries_are_removed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for bars in range(MOST_KEPT + 2):
        ahead = panel().bars[0].ts_init[-1 - bars]
        market = panel().truncated(int(ahead))
        store.matrix(market, config())
    assert len(list(tmp_path.iterdir())) == MOST_KEPT


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path: Path, counted: list[int]) -> None:
    (tmp_path / "file").write_text("")
    remarks: list[str] = []
    store = FeatureStore(tmp_path / "file" / "features", remarks.append)
    same(store.matrix(panel(), config()), compute_features(panel(), config().features))
    assert "features could not be kept in" in remarks[0]


def test_a_panel_without_a_hash_is_refused() -> None:
    with pytest.raises(DataError, match="the panel has none"):
        feature_parts(replace(panel(), data_hash=""), config())


def test_a_walk_forward_goes_on_with_the_features_that_are_kept(
    tmp_path: Path, counted: list[int]
) -> None:
    keep = Keep(tmp_path)
    first = walk_forward(panel(), config(), keep=keep)
    (tmp_path / "fold-1.parquet").unlink()
    again = walk_forward(panel(), config(), keep=keep)
    assert len(counted) == 1
    columns = ("ts_init", "prob_up", "raw_prob", "label")
    for found in (first, again):
        same_numbers(found.predictions, result().predictions, columns)
    shutil.rmtree(tmp_path / "features")
    walk_forward(panel(), config(), keep=keep)  # all folds are kept: nobody asks for features
    assert len(counted) == 1
    matrix = FeatureStore(tmp_path).matrix(panel(), config())
    table = build_table(panel(), config(), matrix=matrix)
    assert table.matrix is matrix
