"""The locked files belong to pyproject.toml, and say so when they do not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import lock
import pytest


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    for name in ("pyproject.toml", *lock.LOCKS):
        shutil.copy(root / name, tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_dependency_changed_since_is_noticed(copy: Path) -> None:
    assert lock.stale(copy) == []
    edit(copy / "pyproject.toml", '"duckdb>=', '"duckdb>=0.')
    assert [problem.split()[0] for problem in lock.stale(copy)] == list(lock.LOCKS)


def test_a_tool_changed_since_concerns_the_development_set_only(copy: Path) -> None:
    edit(copy / "pyproject.toml", '"ruff>=', '"ruff>=0.')
    problems = lock.stale(copy)
    assert len(problems) == 1
    assert re.match("requirements-dev.txt was locked from other dependencies", problems[0])


def test_the_digest_is_indifferent_to_order_and_to_other_extras() -> None:
    head = '[project]\nrequires-python = ">=3.12"\n'
    extras = "[project.optional-dependencies]\ndev = []\n"
    one = head + 'dependencies = ["a", "b"]\n' + extras
    other = head + 'dependencies = ["b", "a"]\n' + extras + 'deep = ["torch"]\n'
    assert lock.dependency_digest(one, ("dev",)) == lock.dependency_digest(other, ("dev",))
    assert lock.dependency_digest(one, ("dev",)) != lock.dependency_digest(one, ())


def test_a_missing_lock_is_named(copy: Path) -> None:
    (copy / "requirements.txt").unlink()
    assert lock.stale(copy) == ["requirements.txt is missing: run `make lock` and commit it"]


def pins(path: Path) -> dict[str, str]:
    """Return the version by name and marker: a universal lock may hold one name twice."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)([^\\]*)", line) for line in lines]
    return {f"{one[1]}{one[3].strip()}": one[2] for one in found if one}


def test_every_pin_has_a_hash_and_both_sets_agree(root: Path) -> None:
    runtime, development = (pins(root / name) for name in lock.LOCKS)
    assert len(runtime) > 40
    assert runtime.items() <= development.items()
    for name in lock.LOCKS:
        blocks = re.split(r"\n(?=\S)", (root / name).read_text(encoding="utf-8"))
        packages = [block for block in blocks if not block.startswith("#")]
        assert packages
        assert all("--hash=sha256:" in block for block in packages)


def test_both_sets_can_fit_deep_experts_and_serve_them(root: Path) -> None:
    for name in lock.LOCKS:
        held = set(re.findall(r"^([a-z-]+)==", (root / name).read_text(encoding="utf-8"), re.M))
        assert {"torch", "onnx", "onnxruntime", "safetensors", "lightgbm"} <= held
