"""Features that are kept: the same bits back, and nothing that was made of anything else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.arrays import SeriesArrays
from catalog.errors import DataError
from catalog.store import FlowArrays
from catalog.timestamps import NS_PER_MINUTE
from research import code_identity, feature_store
from research.events import EventArrays
from research.feature_store import MOST_KEPT, FeatureStore, feature_parts
from research.features import FeatureMatrix, compute_features
from research.fitting import FitOptions
from research.fold_store import FoldQuestion
from research.panel import Panel
from research.panel_digest import panel_digest
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


@pytest.mark.parametrize("part", ["funding", "flow", "minutes", "series"])
def test_whatever_else_of_a_panel_was_changed_makes_it_another(part: str) -> None:
    true = full_panel()
    held = getattr(true, part)
    name, one = next(iter(held.items()))
    column = next(key for key in ("value", "quote_volume", "close") if hasattr(one, key))
    values = getattr(one, column).copy()
    values[-1] += 0.5
    changes: dict[str, Any] = {part: {**held, name: replace(one, **{column: values})}}
    other = replace(true, **changes)
    asked = [FoldQuestion.of(found, config(), FitOptions()).key for found in (true, other)]
    assert asked[0] != asked[1]
    assert feature_parts(true, config()) != feature_parts(other, config())
    nothing: dict[str, Any] = {part: {}}
    assert panel_digest(replace(true, **nothing)) not in {panel_digest(true), panel_digest(other)}


def full_panel() -> Panel:
    """A panel that holds something of everything."""
    true = panel()
    bars = true.bars[0]
    flow = FlowArrays(
        bars.instrument_id,
        bars.interval_ns,
        bars.ts_init,
        bars.volume * bars.close,
        np.arange(len(bars)),
        0.5 * bars.volume,
        0.5 * bars.volume * bars.close,
    )
    minutes = replace(bars, interval_ns=NS_PER_MINUTE)
    funding = SeriesArrays(
        bars.instrument_id, "fraction", bars.ts_init[::8], bars.ts_init[::8], bars.close[::8]
    )
    return replace(
        true,
        flow={bars.instrument_id: flow},
        minutes={bars.instrument_id: minutes},
        funding={bars.instrument_id: funding},
        series={"index.x": EventArrays("index.x", bars.ts_init, bars.close)},
    )


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    left, fresh = tmp_path / ".old.1.partial", tmp_path / ".new.2.partial"
    for path in (left, fresh):
        path.mkdir()
        (path / "values.npy").write_bytes(b"half")
    os.utime(left, (0.0, 0.0))
    FeatureStore(tmp_path).matrix(panel(), config())
    assert not left.exists()
    assert fresh.exists()


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
