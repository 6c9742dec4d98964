"""Bundles: exactly what was saved, or a refusal that says which part differs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import ConfigError, DataError, IntegrityError
from research import bundle
from research.bundle import MANIFEST, load_bundle, save_bundle, verify_bundle
from research.fit_reports import fit_report
from research.walkforward import evaluate
from tests.research.experiments import model, panel, result, texts, time_at, trees_of

FILES = (
    "experts/lightgbm/calibration.json",
    "experts/lightgbm/model.txt",
    "experts/lightgbm/fit.json",
    "fusion.json",
    "guidance.json",
    "references.json",
    "reports.json",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "model"
    save_bundle(path, model(), result().metrics)
    return path


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def rewrite(path: Path, **changes: Any) -> None:
    """Change the manifest as someone would who also puts its digest right."""
    write_manifest(path, {**json.loads((path / MANIFEST).read_text()), **changes})


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    manifest["digest"] = bundle._digest(manifest)
    (path / MANIFEST).write_text(bundle._render(manifest))


def replace_part(path: Path, name: str, content: bytes | None) -> None:
    """Put something else in a part's place, or nothing, with all digests right."""
    files = json.loads((path / MANIFEST).read_text())["files"]
    if content is None:
        (path / name).unlink()
        del files[name]
    else:
        (path / name).write_bytes(content)
        files[name] = bundle._sha256(content)
    rewrite(path, files=files)


def test_round_trip_keeps_every_bit(saved: Path) -> None:
    loaded = load_bundle(saved).model
    assert texts(loaded) == texts(model())
    values = np.random.default_rng(0).normal(size=(500, len(model().feature_names)))
    np.testing.assert_array_equal(trees_of(loaded).score(values), trees_of(model()).score(values))
    assert loaded.config == model().config
    assert loaded.spec.spec_hash == model().spec.spec_hash
    assert loaded.train_end == model().train_end


def test_a_loaded_bundle_evaluates_like_the_model_that_was_saved(saved: Path) -> None:
    span = (time_at(0.6), time_at(0.9))
    one = evaluate(panel(), model(), *span)
    two = evaluate(panel(), load_bundle(saved).model, *span)
    assert one.predictions.equals(two.predictions)


def test_the_manifest_says_what_it_is(saved: Path) -> None:
    manifest = load_bundle(saved).manifest
    assert manifest["schema_version"] == 3
    assert manifest["feature_names"] == list(model().feature_names)
    assert manifest["training"]["data_hash"].startswith(panel().data_hash)  # cut off at `until`
    assert manifest["training"]["train_end"] == model().train_end
    assert manifest["training"]["synthetic"] is True
    assert manifest["metrics"]["auc"]["value"] == result().metrics["auc"].value
    assert manifest["metrics"]["n"]["low"] is None
    assert manifest["versions"]["lightgbm"]
    assert manifest["seeds"] == {"lightgbm": 7, "bootstrap": 7}
    assert set(manifest["files"]) == set(FILES)


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_bundle(tmp_path / name, model())
    for name in (*FILES, MANIFEST):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_how_the_fit_went_is_kept_and_is_no_part_of_what_the_model_is(
    saved: Path, tmp_path: Path
) -> None:
    loaded = load_bundle(saved)
    report = loaded.reports
    assert report == fit_report(model())
    assert report["seconds"]["fit lightgbm"] > 0.0
    curve = report["calibration"]["lightgbm"]
    assert curve["chosen"] == model().reports.calibration["lightgbm"].chosen
    assert {tail["side"] for tail in curve["tails"]} == {"low", "high"}
    slower = replace(model().reports, seconds={"fit lightgbm": 1e6}, cut_short=("lightgbm",))
    again = save_bundle(tmp_path / "slower", replace(model(), reports=slower))
    assert again["model_version"] == loaded.version
    assert again["files"]["reports.json"] != loaded.manifest["files"]["reports.json"]
    assert load_bundle(tmp_path / "slower").reports["cut_short"] == ["lightgbm"]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_one_byte_changed_anywhere_is_refused(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    random = np.random.default_rng(0)
    for position in [0, len(content) - 1, *random.integers(0, len(content), 40)]:
        changed = bytearray(content)
        changed[position] ^= 1
        (saved / name).write_bytes(bytes(changed))
        with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
            verify_bundle(saved)
    (saved / name).write_bytes(content)
    verify_bundle(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(IntegrityError, match=rf"missing: \['{name}'\], extra: none"):
        load_bundle(saved)


def test_an_extra_file_is_named(saved: Path) -> None:
    (saved / "model.pkl").write_bytes(b"boo")
    with pytest.raises(IntegrityError, match=r"missing: none, extra: \['model.pkl'\]"):
        load_bundle(saved)


def test_another_schema_is_refused(saved: Path) -> None:
    rewrite(saved, schema_version=1)
    with pytest.raises(IntegrityError, match=r"schema_version of .* must be 3, was 1"):
        load_bundle(saved)


def test_another_feature_table_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "feature_table_hash", lambda _: "f" * 64)
    with pytest.raises(IntegrityError, match=r"feature table of the bundle .*ffffffffffff"):
        load_bundle(saved)


def test_a_changed_part_of_the_specification_is_named(saved: Path) -> None:
    parts = json.loads((saved / MANIFEST).read_text())["parts"]
    rewrite(saved, parts={**parts, "label": "0" * 64})
    with pytest.raises(IntegrityError, match="differs from this code's in: label"):
        load_bundle(saved)


def test_an_unknown_setting_is_refused(saved: Path) -> None:
    config = json.loads((saved / MANIFEST).read_text())["config"]
    rewrite(saved, config={**config, "surprise": 1})
    with pytest.raises(IntegrityError, match="does not fit this version"):
        load_bundle(saved)


def test_other_features_in_the_model_than_in_the_manifest_are_refused(saved: Path) -> None:
    names = json.loads((saved / MANIFEST).read_text())["feature_names"]
    rewrite(saved, feature_names=names[::-1])
    with pytest.raises(IntegrityError, match="the model's features must be the manifest's"):
        load_bundle(saved)


NEEDED = (
    *("model_version", "feature_table_hash", "feature_names", "instruments", "interval_ns"),
    *("spec_hash", "parts", "config", "training", "profile", "metrics", "files"),
)


@pytest.mark.parametrize("key", NEEDED)
def test_a_manifest_without_a_part_is_refused(saved: Path, key: str) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest[key]
    write_manifest(saved, manifest)
    with pytest.raises(
        IntegrityError,
        match=rf"manifest\.json must say what a bundle is: {key}: must be given.*use",
    ):
        load_bundle(saved)


@pytest.mark.parametrize("key", NEEDED)
@pytest.mark.parametrize("value", [None, 3.5, "x", ["x", 1], {"x": 1}, True])
def test_a_manifest_with_something_else_in_a_parts_place_is_refused(
    saved: Path, key: str, value: object
) -> None:
    if (key in {"profile", "metrics"} and isinstance(value, dict)) or (
        key == "model_version" and isinstance(value, str)
    ):
        return  # as good as any other
    rewrite(saved, **{key: value})
    with pytest.raises(IntegrityError):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("train_end", "x", r"training\.train_end: Input should be a valid integer, was 'x'"),
        ("train_end", 1, "train_start, train_end and until must follow one another"),
        ("until", 0, "train_start, train_end and until must follow one another"),
        ("n_rows", 0, r"training\.n_rows: Input should be greater than or equal to 1, was 0"),
        ("synthetic", 1, r"training\.synthetic: Input should be a valid boolean, was 1"),
    ],
)
def test_what_a_model_was_fitted_on_must_be_possible(
    saved: Path, key: str, value: object, text: str
) -> None:
    training = json.loads((saved / MANIFEST).read_text())["training"]
    rewrite(saved, training={**training, key: value})
    with pytest.raises(IntegrityError, match=rf"manifest\.json must say .*{text}"):
        load_bundle(saved)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"[1]", b"", b"nul"])
def test_a_manifest_that_is_no_record_is_refused(saved: Path, content: bytes) -> None:
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json must .*; use another copy"):
        load_bundle(saved)


PARTS = [name for name in FILES if name.endswith(".json")]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"null", b"[]", b"{}", b'"text"', b"[" * 100_000, b"1e999"]
)
def test_a_part_that_is_not_what_was_saved_is_refused_by_name(
    saved: Path, name: str, content: bytes
) -> None:
    if name == "reports.json" and content in {b"[]", b"{}"}:
        return  # it is shown, nothing is read from it
    replace_part(saved, name, content)
    where = name if name != "experts/lightgbm/fit.json" else "experts/lightgbm"
    with pytest.raises(
        IntegrityError, match=rf"(?s){where} of bundle .* must be what was saved.*; use"
    ):
        load_bundle(saved)


@pytest.mark.parametrize("name", [name for name in FILES if name != "reports.json"])
def test_a_bundle_that_was_saved_without_a_part_is_refused(saved: Path, name: str) -> None:
    replace_part(saved, name, None)
    with pytest.raises(IntegrityError, match=r" of bundle .* must be what was saved"):
        load_bundle(saved)


def test_a_bundle_of_before_reports_were_kept_loads(saved: Path) -> None:
    replace_part(saved, "reports.json", None)
    assert load_bundle(saved).model.n_rows == model().n_rows


def test_settings_without_an_expert_are_refused(saved: Path) -> None:
    config = json.loads((saved / MANIFEST).read_text())["config"]
    rewrite(saved, config={**config, "experts": {"lightgbm": None}})
    with pytest.raises(IntegrityError, match=r"does not fit this version .* at least one of"):
        load_bundle(saved)


def test_no_bundle_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be a bundle folder with a manifest\.json"):
        load_bundle(tmp_path)
    with pytest.raises(DataError, match="must be a bundle folder"):
        load_bundle(tmp_path / "absent")


def test_an_older_bundle_is_never_written_over(saved: Path) -> None:
    before = (saved / MANIFEST).read_bytes()
    with pytest.raises(ConfigError, match="must not exist yet"):
        save_bundle(saved, model())
    assert (saved / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("writes", range(len(FILES) + 1))
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    done: list[int] = []
    sync = os.fsync

    def full(descriptor: int) -> None:
        if len(done) == writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device; nothing was left behind"):
        save_bundle(tmp_path / "model", model())
    assert list(tmp_path.iterdir()) == []
