"""Folds that are kept: the same bits back, and nothing that answers another question."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.errors import DataError, IntegrityError
from research.fitting import FitOptions
from research.fold_store import KEPT_KEY, FoldQuestion, FoldStore, joined
from research.predictions import SPEC_KEY
from research.walkforward import predict_forward
from tests.research.experiments import config, panel, result

FACTS: dict[str, Any] = {
    "fold": 0,
    "seconds": {"predict": 1.5},
    "peak_memory_mb": 100.0,
    "calibration": {"lightgbm": "platt"},
    "fusion": None,
}


def question(**parts: str) -> FoldQuestion:
    asked = FoldQuestion.of(panel(), config(), FitOptions())
    return replace(asked, parts={**asked.parts, **parts})


def frame_of(fold: int) -> pd.DataFrame:
    frame = result().predictions
    return frame[frame["fold"] == fold].reset_index(drop=True)


def kept(folder: Path, told: list[str] | None = None, **parts: str) -> FoldStore:
    remarks: list[str] = [] if told is None else told
    return FoldStore(folder / "h1", question(**parts), remarks.append)


@pytest.fixture
def store(tmp_path: Path) -> FoldStore:
    """A store with three folds."""
    found = kept(tmp_path)
    for fold in range(3):
        found.save(fold, frame_of(fold), {**FACTS, "fold": fold})
    return found


def test_what_is_kept_comes_back_bit_for_bit(store: FoldStore) -> None:
    assert store.holds(3)
    assert not store.holds(4)
    pd.testing.assert_frame_equal(store.load(1), frame_of(1), check_exact=True)
    again = joined(store, range(3))
    pd.testing.assert_frame_equal(again, result().predictions, check_exact=True)
    assert again.attrs == result().predictions.attrs
    facts = store.facts(2)
    assert facts.pop("sha256") == store.hashes(3)[2]
    assert facts == {**FACTS, "fold": 2}


def test_the_same_fold_is_the_same_bytes(store: FoldStore, tmp_path: Path) -> None:
    other = kept(tmp_path / "other")
    other.save(1, frame_of(1), {**FACTS, "fold": 1})
    for name in ("fold-1.parquet", "fold-1.json"):
        assert (other.folder / name).read_bytes() == (store.folder / name).read_bytes()
    assert {path.name for path in other.folder.iterdir()} == {"fold-1.parquet", "fold-1.json"}


def test_a_walk_forward_reads_what_is_kept_and_fits_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    store = kept(tmp_path, told)
    first = predict_forward(panel(), config(), keep=store)
    pd.testing.assert_frame_equal(first, result().predictions, check_exact=True)
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    (store.folder / "fold-1.parquet").unlink()
    again = predict_forward(panel(), config(), keep=store)
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    after = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    fold = {"fold-1.parquet", "fold-1.json"}
    assert {name for name in after if after[name] != before[name]} == fold
    assert told == []
    monkeypatch.setattr("research.walkforward.build_table", None)  # would raise if called
    pd.testing.assert_frame_equal(
        predict_forward(panel(), config(), keep=store), first, check_exact=True
    )


def test_another_question_is_told_part_by_part(store: FoldStore, tmp_path: Path) -> None:
    told: list[str] = []
    other = kept(tmp_path, told, data="other", **{"code of lstm": "abc"})
    del other.question.parts["calibration"]
    assert not other.has(0)
    assert told == [
        "h1, fold 0 must be made anew: calibration is gone; code of lstm is new; data changed"
    ]
    assert not other.holds_fold(1)
    assert not other.holds(3)
    assert len(told) == 1
    assert other.question.key != store.question.key


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"trees": 9}, {"expert lightgbm"}),
        ({"horizon": 3}, {"label"}),
        ({"embargo_bars": 5}, {"validation"}),
        ({"threads": 2}, set()),
    ],
)
def test_a_question_is_its_settings(changes: dict[str, Any], part: set[str]) -> None:
    one = FoldQuestion.of(panel(), config(), FitOptions()).parts
    other = FoldQuestion.of(panel(), config(**changes), FitOptions()).parts
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == part


def test_data_and_other_fusions_are_part_of_the_question() -> None:
    def parts(seed: int, options: FitOptions) -> dict[str, str]:
        return FoldQuestion.of(panel(seed), config(), options).parts

    def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
        return {name for name in one if one[name] != other[name]}

    plain = parts(0, FitOptions())
    assert differing(plain, parts(1, FitOptions())) == {"bars", "data"}
    assert differing(plain, parts(0, FitOptions(alternatives=True))) == {"other fusions"}
    subsets = {"without_lstm": ("lightgbm",)}
    assert differing(plain, parts(0, FitOptions(subsets=subsets))) == {"other fusions"}


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def unstamped(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


def oddly_stamped(path: Path) -> None:
    stamp = {SPEC_KEY: json.dumps({KEPT_KEY: 3})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(stamp), path)


def of_another_run(path: Path) -> None:
    """Put rows there that answer the same question, but were not written with the facts."""
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table]), path)


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


def lacking(path: Path) -> None:
    path.write_text('{"fold": 1}')


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("fold-1.parquet", half, "it cannot be read"),
        ("fold-1.parquet", empty, "it cannot be read"),
        ("fold-1.parquet", flipped, ""),
        ("fold-1.parquet", unstamped, "it cannot be read"),
        ("fold-1.parquet", oddly_stamped, "it cannot be read"),
        ("fold-1.parquet", of_another_run, "its predictions are not those that were written"),
        ("fold-1.json", half, "how it went is not known"),
        ("fold-1.json", empty, "how it went is not known"),
        ("fold-1.json", Path.unlink, "how it went is not known"),
        ("fold-1.json", other_json, "must say calibration, fold"),
        ("fold-1.json", lacking, "must say calibration, fold"),
    ],
)
def test_a_damaged_fold_is_made_anew(
    store: FoldStore, tmp_path: Path, name: str, damage: Callable[[Path], Any], told: str
) -> None:
    damage(store.folder / name)
    remarks: list[str] = []
    found = kept(tmp_path, remarks)
    assert [found.has(index) for index in range(4)] == [True, False, True, False]
    (remark,) = remarks
    assert remark.startswith("h1, fold 1 must be made anew: ")
    assert told in remark
    assert not found.holds(3)
    found.save(1, frame_of(1), {**FACTS, "fold": 1})
    assert found.holds(3)
    pd.testing.assert_frame_equal(joined(found, range(3)), result().predictions, check_exact=True)


def test_what_is_half_written_is_not_there(store: FoldStore, tmp_path: Path) -> None:
    """A killed process leaves files under another name, or predictions that nothing is said of."""
    table, facts = store.folder / "fold-1.parquet", store.folder / "fold-1.json"
    table.rename(table.with_name(".fold-1.parquet.partial"))
    assert not store.holds_fold(1)
    told: list[str] = []
    other = kept(tmp_path, told, data="other")
    # Another question's predictions are in place, and the first one's facts still beside them.
    before = facts.read_bytes()
    other.save(1, frame_of(1).assign(prob_up=0.5), {**FACTS, "fold": 1})
    facts.write_bytes(before)
    assert not other.has(1)
    assert told == ["h1, fold 1 must be made anew: its predictions are not those that were written"]


def test_folds_of_before_the_hash_are_still_read(store: FoldStore) -> None:
    path = store.folder / "fold-1.json"
    facts = json.loads(path.read_text())
    del facts["sha256"]
    path.write_text(json.dumps(facts))
    assert store.holds(3)


def test_errors_say_what_to_do(store: FoldStore, tmp_path: Path) -> None:
    half(store.folder / "fold-1.parquet")
    with pytest.raises(DataError, match=r"must be a complete Parquet file, .*remove it"):
        store.load(1)
    half(store.folder / "fold-1.json")
    with pytest.raises(IntegrityError, match=r"fold-1\.json must be a JSON record, is not"):
        store.facts(1)
    (tmp_path / "file").write_text("")
    blocked = FoldStore(tmp_path / "file", question())
    with pytest.raises(DataError, match=r"fold 0 could not be kept in .*make room"):
        blocked.save(0, frame_of(0), FACTS)
