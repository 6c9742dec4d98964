"""The contract that every expert keeps: fit, batch, stream, save, load, refuse, repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ConfigError, LeviBotError
from research.experts import ExpertCost, FitContext, FittedExpert
from research.models.registry import EXPERT_KINDS, ExpertsConfig, fit_expert, load_expert
from tests.contracts.experts import (
    CONFIGS,
    DEEP,
    KINDS,
    SLOW,
    agree,
    case,
    columns,
    fit,
    fitted,
    part,
    streamed,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every kind was saved, each in one of its own."""
    folder = tmp_path_factory.mktemp("experts")
    for kind in KINDS:
        (folder / kind).mkdir()
        fitted(kind).save(folder / kind)
    return folder


def loaded(folder: Path, name: str) -> FittedExpert:
    return load_expert(name, folder / name, case().matrix.names)


def test_every_kind_is_tested() -> None:
    assert set(KINDS) == set(EXPERT_KINDS)
    assert {kind for kind in KINDS if EXPERT_KINDS[kind].deep} == set(DEEP)
    assert list(ExpertsConfig(**CONFIGS).chosen()) == list(EXPERT_KINDS)


def test_a_batch_answers_every_row_asked(name: str) -> None:
    matrix, asked = case().matrix, case().asked
    answer = fitted(name).predict(matrix, asked)
    for column in columns(answer):
        assert column.shape == asked.shape
        assert column.dtype == np.float64
    known = np.isfinite(answer.prob_up)
    assert known.mean() > (0.6 if name in (*DEEP, "sentiment") else 0.999)
    assert np.all((answer.prob_up[known] > 0.0) & (answer.prob_up[known] < 1.0))
    assert answer.prob_up[known].std() > 0.0
    gives_return = np.isfinite(answer.mu)
    np.testing.assert_array_equal(gives_return, known & (name in DEEP))
    assert np.all(answer.sigma[gives_return] > 0.0)
    assert np.all(answer.epistemic[gives_return] >= 0.0)
    assert fitted(name).name == name


def test_the_order_and_number_of_rows_asked_do_not_matter(name: str) -> None:
    matrix, asked = case().matrix, case().asked
    together = columns(fitted(name).predict(matrix, asked))
    chosen = np.random.default_rng(0).permutation(len(asked))[:37]
    agree(name, columns(fitted(name).predict(matrix, asked[chosen])), together[:, chosen])
    assert len(fitted(name).predict(matrix, asked[:0])) == 0


def test_rows_not_yet_known_do_not_matter(name: str) -> None:
    matrix, asked = case().matrix, case().asked
    cut = np.sort(matrix.ts_init[asked])[len(asked) // 2]
    early = asked[matrix.ts_init[asked] <= cut]
    changed = matrix.values.copy()
    changed[matrix.ts_init > cut] *= -1.5
    changed[:, matrix.names.index("instrument_code")] = matrix.instrument
    agree(
        name,
        columns(fitted(name).predict(replace(matrix, values=changed), early)),
        columns(fitted(name).predict(matrix, early)),
    )


def test_a_stream_gives_the_batch(name: str) -> None:
    matrix, asked = case().matrix, case().asked
    together = columns(fitted(name).predict(matrix, asked))
    agree(name, streamed(fitted(name), matrix)[:, asked], together)


def test_a_stream_that_starts_late_gives_the_batch_after_its_reach(name: str, folder: Path) -> None:
    expert, matrix, asked = loaded(folder, name), case().matrix, case().asked
    ready = matrix.ts_init[asked].min() + (expert.reach_bars + 7) * case().table.interval_ns
    start = matrix.ts_init[asked].min() + 7 * case().table.interval_ns
    later = part(matrix, matrix.ts_init >= start)
    # A window counts tokens: where bars are missing it reaches back a little farther.
    ready += 4 * case().table.interval_ns
    found = streamed(expert, later)[:, later.ts_init > ready]
    rows = np.flatnonzero(matrix.ts_init > ready)
    wanted = columns(expert.predict(matrix, rows))
    assert np.isfinite(wanted[0]).mean() > 0.5
    agree(name, found, wanted)


def test_two_streams_know_nothing_of_each_other(name: str, folder: Path) -> None:
    expert = loaded(folder, name)
    matrix = part(case().matrix, case().asked[::1])
    alone = streamed(expert, matrix)
    one, other = expert.stream(3), expert.stream(3)
    interval = case().table.interval_ns
    found = np.full_like(alone, np.nan)
    for ts_init in np.unique(matrix.ts_init):
        rows = np.flatnonzero(matrix.ts_init == ts_init)
        slot, codes = int(ts_init // interval), matrix.instrument[rows]
        other.update(slot, codes, -2.0 * matrix.values[rows])
        found[:, rows] = columns(one.update(slot, codes, matrix.values[rows]))
    np.testing.assert_array_equal(found, alone)


def test_what_was_saved_is_what_was_fitted(name: str, folder: Path) -> None:
    expert, again = fitted(name), loaded(folder, name)
    matrix, asked = case().matrix, case().asked
    # For a deep expert this is torch's batch against onnxruntime's.
    agree(name, columns(again.predict(matrix, asked)), columns(expert.predict(matrix, asked)))
    np.testing.assert_array_equal(streamed(again, matrix), streamed(expert, matrix))
    assert (again.name, again.reach_bars) == (expert.name, expert.reach_bars)
    assert again.cost.parameters == expert.cost.parameters


def test_what_was_loaded_is_saved_as_it_was(name: str, folder: Path, tmp_path: Path) -> None:
    loaded(folder, name).save(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / name / file.name).read_bytes(), file.name
    again = load_expert(name, tmp_path, case().matrix.names)
    assert isinstance(again.cost, ExpertCost)


def test_no_file_names_this_machine(name: str, folder: Path) -> None:
    files = sorted((folder / name).iterdir())
    assert files
    for file in files:
        content = file.read_bytes()
        assert str(ROOT).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_damaged_files_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    for damaged in sorted((folder / name).iterdir()):
        if "weights" in damaged.name:  # not served: only to fit on from
            continue
        half = damaged.read_bytes()[: damaged.stat().st_size // 2]
        for place, content in enumerate((None, b"", b"{}", half)):
            copy = tmp_path / f"{damaged.name}-{place}"
            copy.mkdir()
            for file in (folder / name).iterdir():
                if file != damaged:
                    (copy / file.name).write_bytes(file.read_bytes())
                elif content is not None:
                    (copy / file.name).write_bytes(content)
            with pytest.raises(LeviBotError, match=r"must be|must hold|cannot be read"):
                load_expert(name, copy, case().matrix.names)


def test_other_columns_are_refused(name: str, folder: Path) -> None:
    names = case().matrix.names
    for other in (names[::-1], names[:-1]):
        with pytest.raises(LeviBotError, match=r"must be the"):
            load_expert(name, folder / name, other)
    matrix, asked = case().matrix, case().asked
    for expert in (fitted(name), loaded(folder, name)):
        with pytest.raises(LeviBotError, match=r"must (be|have)"):
            expert.predict(part_of_columns(len(names) - 1), asked)
        with pytest.raises(LeviBotError, match=r"must be"):
            expert.predict(replace(matrix, names=names[::-1]), asked)


def part_of_columns(count: int):  # type: ignore[no-untyped-def]
    matrix = case().matrix
    return replace(matrix, names=matrix.names[:count], values=matrix.values[:, :count])


def test_wrong_shapes_are_refused(name: str, folder: Path) -> None:
    stream = loaded(folder, name).stream(3)
    width = len(case().matrix.names)
    rows, codes = np.zeros((2, width)), np.array([0, 2])
    for bad, wrong_codes, slot, message in (
        (rows[:, 1:], codes, 9, r"must have the shape \(n_codes, n_features\) = \(2, \d+\), had"),
        (rows[0], codes, 9, "must have the shape"),
        (rows, codes[:1], 9, "must have the shape"),
        (rows, codes[::-1], 9, "codes must ascend within 0 … 2"),
        (rows, np.array([1, 3]), 9, "codes must ascend within 0 … 2"),
        (rows, np.array([1, 1]), 9, "codes must ascend within 0 … 2"),
    ):
        with pytest.raises(LeviBotError, match=message):
            stream.update(slot, wrong_codes, bad)
    assert len(stream.update(9, codes, rows)) == 2
    with pytest.raises(LeviBotError, match=r"slot must be later than the last one \(9\), was 9"):
        stream.update(9, codes, rows)
    assert len(stream.update(10, codes[:0], rows[:0])) == 0


def test_missing_slow_inputs_are_survived(name: str, folder: Path) -> None:
    matrix, asked = case().matrix, case().asked
    values = matrix.values.copy()
    values[np.ix_(asked, [matrix.names.index(column) for column in SLOW])] = np.nan
    without = replace(matrix, values=values)
    for expert in (fitted(name), loaded(folder, name)):
        found = columns(expert.predict(without, asked))
        usual = columns(expert.predict(matrix, asked))
        if name == "sentiment":  # without news it has nothing to say, and says so
            assert np.isnan(found).all()
        else:
            np.testing.assert_array_equal(np.isnan(found), np.isnan(usual))
        agree(name, streamed(expert, without)[:, asked], found)


def test_a_second_fit_is_the_same(name: str) -> None:
    matrix, asked = case().matrix, case().asked
    one, other = fitted(name).predict(matrix, asked), fit(name).predict(matrix, asked)
    np.testing.assert_array_equal(columns(one), columns(other))


def test_rows_outside_the_training_span_do_not_matter(name: str) -> None:
    one = case()
    last = one.matrix.ts_init[one.train].max()
    values, label = one.matrix.values.copy(), one.table.labels.value.copy()
    later = one.matrix.ts_init > last
    values[later] = np.where(np.isnan(values[later]), 1.0, -3.0 * values[later])
    others = np.setdiff1d(np.arange(len(label)), one.train)
    label[others] = 1.0 - label[others]
    returns = one.table.labels.forward_return.copy()
    returns[others] = 7.0
    table = replace(
        one.table,
        matrix=replace(one.matrix, values=values),
        labels=replace(one.table.labels, value=label, forward_return=returns),
    )
    expert = fit_expert(name, table, one.train, CONFIGS[name], FitContext())
    np.testing.assert_array_equal(
        columns(expert.predict(one.matrix, one.asked)),
        columns(fitted(name).predict(one.matrix, one.asked)),
    )


def test_it_knows_what_it_costs(name: str, folder: Path) -> None:
    cost = loaded(folder, name).cost
    assert cost.parameters == 0 if name == "heuristic" else cost.parameters > 0
    on_disk = sum(
        file.stat().st_size for file in (folder / name).iterdir() if "weights" not in file.name
    )
    assert 0.5 * on_disk < cost.size_bytes < 1.5 * on_disk + 1_000
    assert cost.size_bytes <= 512_000_000


def test_progress_is_told_to_its_end(name: str) -> None:
    told: list[tuple[str, int, int]] = []
    context = FitContext(progress=lambda *state: told.append(state))
    fit_expert(name, case().table, case().train, CONFIGS[name], context)
    assert told
    assert {stage for stage, _, _ in told} == {f"fit {name}"}
    assert told[-1][1] == told[-1][2]


def test_settings_say_who_they_are(name: str) -> None:
    config = CONFIGS[name]
    assert config.identity_hash() == type(config)(**config.model_dump()).identity_hash()
    field = {"sentiment": "prior_scale", "heuristic": "tilt"}.get(name, "learning_rate")
    other = config.model_copy(update={field: 0.011})
    assert other.identity_hash() != config.identity_hash()


def test_other_settings_and_names_are_refused() -> None:
    wrong = CONFIGS["sentiment"]
    with pytest.raises(ConfigError, match="settings of lightgbm must be a LightGBMConfig, were a"):
        fit_expert("lightgbm", case().table, case().train, wrong, FitContext())
    with pytest.raises(ConfigError, match=r"must be one of lightgbm, .* was .oracle."):
        fit_expert("oracle", case().table, case().train, wrong, FitContext())
    with pytest.raises(ConfigError, match="experts must hold at least one of"):
        ExpertsConfig(lightgbm=None).chosen()


SERVE = """
import json, sys
from pathlib import Path
import numpy as np
from research.models.registry import load_expert
folder, names = Path(sys.argv[1]), tuple(json.loads(sys.argv[2]))
values = np.zeros((2, len(names)))
for kind in json.loads(sys.argv[3]):
    expert = load_expert(kind, folder / kind, names)
    stream = expert.stream(3)
    for slot in range(3):
        assert len(stream.update(slot, np.array([0, 2]), values)) == 2
heavy = ("torch", "lightgbm", "sklearn", "pandas", "numba", "onnx", "onnxscript", "sympy")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_serving_imports_neither_torch_nor_lightgbm(folder: Path) -> None:
    arguments = [str(folder), json.dumps(case().matrix.names), json.dumps(KINDS)]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not {"torch", "lightgbm", "sklearn", "onnx"} & set(json.loads(done.stdout))
