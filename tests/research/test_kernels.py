from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research import kernel_tools, kernels
from research.feature_table import BASE_FEATURES
from research.kernel_cache import cache_folder, compile_entry_points, compiled_kernels, source_hash

ROOT = Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------------------------------------
# Windows with additions only.


@given(
    size=st.integers(1, 30),
    start=st.integers(0, 1_000),
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=120),
)
def test_sliding_sum_is_that_of_the_last_values(size: int, start: int, values: list[float]) -> None:
    state = [0.0] * (size + 2)
    for number, value in enumerate(values):
        found = kernel_tools.slide(state, 0, size, (start + number) % size, value)
        if number >= size - 1:
            expected = math.fsum(values[number - size + 1 : number + 1])
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-6)


@given(st.integers(1, 30), st.integers(0, 100), st.lists(st.floats(-1e9, 1e9), max_size=60))
def test_a_sliding_sum_of_zeros_is_zero_whatever_was_before(
    size: int, start: int, before: list[float]
) -> None:
    state = [0.0] * (size + 2)
    total = math.nan
    for number, value in enumerate([*before, *([0.0] * size)]):
        total = kernel_tools.slide(state, 0, size, (start + number) % size, value)
    assert total == 0.0


@given(st.integers(2, 20), st.integers(0, 500), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_a_sliding_sum_has_the_same_bits_wherever_it_started(
    size: int, start: int, later: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0.0, 1.0, later + 4 * size).tolist()
    first, second = [0.0] * (size + 2), [0.0] * (size + 2)
    for number, value in enumerate(values):
        position = (start + number) % size
        one = kernel_tools.slide(first, 0, size, position, value)
        if number >= later:
            other = kernel_tools.slide(second, 0, size, position, value)
            if number >= later + size - 1:
                assert one == other


def test_the_layout_of_the_state_has_no_overlaps() -> None:
    windows = [
        (kernels.EMA_20_RING, 16),
        (kernels.EMA_200_RING, 16),
        (kernels.SQUARES_20, 22),
        (kernels.SQUARES_96, 98),
        (kernels.VOLUME_96, 98),
        (kernels.VOLUME_SQUARES_96, 98),
        (kernels.SIGNED_20, 22),
        (kernels.VOLUME_20, 22),
        (kernels.GAINS_14, 16),
        (kernels.LOSSES_14, 16),
    ]
    end = kernels.SCALED_16 + 1
    for start, size in windows:
        assert start == end
        end = start + size
    assert end == kernels.FLOATS
    assert kernels.RING > 800 + kernels.EMA_ANCHOR


def test_the_kernel_writes_as_many_columns_as_the_table_names() -> None:
    assert len(BASE_FEATURES) == kernels.BASE_COLUMNS


def test_warm_up_covers_what_the_longest_feature_needs() -> None:
    assert kernels.WARMUP_SLOTS >= 800 + kernels.EMA_ANCHOR - 1 + kernels.SLOPE_RING_MASK
    # Another instrument, whose bars may be carried that long, must be known by then.
    assert kernels.WARMUP_SLOTS >= kernels.CROSS_SLOTS + kernel_tools.MAX_CARRIED


# ---------------------------------------------------------------------------------------------
# Compiled kernels are never stale.

_KERNEL = """
import importlib.util
from pathlib import Path


def double(x):
    return {factor} * x


def kernel(x):
    return double(x) + 1.0


HELPERS = (double,)
ENTRY_POINTS = (kernel,)
"""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # numba looks the module of a cached kernel up by its name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEVIBOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_changed_helper_is_seen_even_if_the_file_keeps_its_time_and_size(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python's own bytecode cache is fooled by such a file too, and is not what is tested.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "small_kernel.py"
    results = []
    for factor in ("2.0", "3.0", "2.0"):
        path.write_text(_KERNEL.format(factor=factor))
        # numba alone compares time and size, and would run the old machine code.
        os.utime(path, (1_700_000_000, 1_700_000_000))
        results.append(compile_entry_points(load(path))["kernel"](10.0))
    assert results == [21.0, 31.0, 21.0]
    assert len(list(cache_root.iterdir())) == 2


def test_an_unchanged_source_is_read_from_the_cache(cache_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "small_kernel.py"
    path.write_text(_KERNEL.format(factor="2.0"))
    for hits in (0, 1):
        kernel = compile_entry_points(load(path))["kernel"]
        assert kernel(10.0) == 21.0
        assert sum(kernel.stats.cache_hits.values()) == hits
    assert cache_root.is_dir()


def test_the_cache_folder_depends_on_the_source_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "small_kernel.py").write_text(_KERNEL.format(factor="2.0"))
    one, other = (load(tmp_path / folder / "small_kernel.py") for folder in ("a", "b"))
    assert source_hash(one) == source_hash(other)
    assert cache_folder(one) == cache_folder(other)
    (tmp_path / "b" / "small_kernel.py").write_text(_KERNEL.format(factor="2.5"))
    assert source_hash(one) != source_hash(other)
    assert cache_folder(one) != cache_folder(other)


def test_numbas_own_cache_setting_is_left_alone(cache_root: Path, tmp_path: Path) -> None:
    import numba

    before = numba.config.CACHE_DIR
    path = tmp_path / "small_kernel.py"
    path.write_text(_KERNEL.format(factor="2.0"))
    compile_entry_points(load(path))
    assert before == numba.config.CACHE_DIR


def test_without_a_writable_folder_kernels_work_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("LEVIBOT_CACHE_DIR", str(blocked))
    path = tmp_path / "small_kernel.py"
    path.write_text(_KERNEL.format(factor="2.0"))
    with pytest.warns(RuntimeWarning, match="must be writable to keep compiled kernels"):
        kernel = compile_entry_points(load(path))["kernel"]
    assert kernel(10.0) == 21.0


def test_kernels_are_compiled_without_fastmath() -> None:
    compiled = compiled_kernels()
    for dispatcher in (compiled.step, compiled.run):
        assert not dispatcher.targetoptions.get("fastmath", False)  # type: ignore[attr-defined]
    assert compiled.step.py_func is kernels.step  # type: ignore[attr-defined]


_PLAIN = """
import sys
from catalog.arrays import Ohlcv
from research.features import FeatureConfig, FeatureStream

stream = FeatureStream(("A",), 60_000_000_000, FeatureConfig(), compiled=False)
for minute in range(1, 1_000):
    price = 100.0 + minute % 7
    rows = stream.update(minute * 60_000_000_000, {"A": Ohlcv(price, price, price, price, 1.0)})
assert len(rows["A"]) == len(stream.names)
heavy = {"numba", "lightgbm", "torch", "pandas", "scipy", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_plain_python_stream_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


_REAL = """
import numpy as np
from research.kernel_cache import compiled_kernels
from research import kernels
from tests.research.markets import BTC, Market
from research.features import FeatureConfig, compute_features
from dataclasses import replace

panel = Market(1, 980).panel()
panel = replace(panel, bars=panel.bars[:1], funding={})
matrix = compute_features(panel, FeatureConfig(funding=False))
print(float(matrix.values[-1, 0]).hex())
"""


@pytest.mark.slow
def test_a_change_in_the_real_kernels_is_seen_in_the_next_process(tmp_path: Path) -> None:
    for package in ("catalog", "research", "research/groups", "tests/research"):
        (tmp_path / package).mkdir(parents=True)
        for source in (ROOT / package).glob("*.py"):
            (tmp_path / package / source.name).write_bytes(source.read_bytes())
    path = tmp_path / "research" / "kernels.py"
    original = path.read_text()
    changed = original.replace("row[RETURN_1] = f[SCALED_1]", "row[RETURN_1] = f[SCALED_4]")
    assert changed != original
    environment = {**os.environ, "LEVIBOT_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(tmp_path)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # it is fooled by equal times as numba's is
    printed = []
    for source in (original, changed, original):
        path.write_text(source)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        done = subprocess.run(
            [sys.executable, "-c", _REAL],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(float.fromhex(done.stdout.strip()))
    assert printed[0] == printed[2]
    assert printed[0] != printed[1]
