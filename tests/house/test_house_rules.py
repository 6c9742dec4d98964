"""Every house rule catches its breach, and only that."""

from __future__ import annotations

from pathlib import Path

import house_rules
import pytest


def breaches(folder: Path, name: str, text: str) -> list[str]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return list(house_rules.violations(folder, [Path(name)]))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import dill as d",
        "from pickle import loads",
        "from joblib import load",
        "import joblib\nmodel = joblib.load(path)",
        "import torch\nmodel = torch.load(path)",
        "frame = pd.read_pickle(path)",
        "frame.to_pickle(path)",
        "values = np.load(path, allow_pickle=True)",
        "values = np.load(path, allow_pickle=flag)",
    ],
)
def test_unpickling_is_refused_in_packages_only(tmp_path: Path, code: str) -> None:
    assert "can run code from a file" in breaches(tmp_path, "research/bundle.py", code)[0]
    assert breaches(tmp_path, "tests/research/test_bundle.py", code) == []


@pytest.mark.parametrize(
    "code",
    [
        "from joblib import Parallel",
        "import json\nvalue = json.load(file)",
        "values = np.load(path, allow_pickle=False)",
        "model = lightgbm.Booster(model_file=path)",
    ],
)
def test_what_only_looks_alike_is_allowed(tmp_path: Path, code: str) -> None:
    assert breaches(tmp_path, "research/bundle.py", code) == []


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users"])
@pytest.mark.parametrize("name", ["README.md", "catalog/store.py", "notebooks/01_data.ipynb"])
def test_a_machine_path_is_refused_everywhere(tmp_path: Path, folder: str, name: str) -> None:
    found = breaches(tmp_path, name, f'one = 1\npath = "/{folder}/somebody/x"\n')
    assert found == [
        f"{name}:2: path of one machine; paths are relative, or come from the user",
    ]


@pytest.mark.parametrize(
    "text",
    ["../shared/work/data", "~/work/x", "$HOME/work/x", "example.org/home/page", "runs/root/x"],
)
def test_relative_paths_are_allowed(tmp_path: Path, text: str) -> None:
    assert breaches(tmp_path, "docs/page.md", text) == []


@pytest.mark.parametrize(
    "line",
    [
        "thing @ " + "https:" + "//files.example.org/thing.whl",
        "--index-url somewhere",
        "--extra-index-url x",
        "--find-links wheels",
    ],
)
def test_an_address_in_a_lock_is_refused(tmp_path: Path, line: str) -> None:
    lock = f"thing==1.0 \\\n    --hash=sha256:00\n{line}\n"
    found = breaches(tmp_path, "requirements.txt", lock)
    assert found == ["requirements.txt:3: address of a registry in a locked file; run `make lock`"]
    assert breaches(tmp_path, "scripts/uv-requirements.txt", "uv==1 --hash=sha256:00") == []


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME"])
def test_unfinished_work_is_refused_in_code(tmp_path: Path, word: str) -> None:
    assert "unfinished work" in breaches(tmp_path, "live/cli.py", f"x = 1  # {word}: later\n")[0]
    assert breaches(tmp_path, "live/cli.py", f"{word}S = 1\n") == []


def function(n_lines: int, docstring_lines: int = 0) -> str:
    doc = [f'    """{"word " * 3}', *["    more"] * (docstring_lines - 2), '    """']
    body = ["    x = 1"] * (n_lines - 1)
    return "\n".join(["def f():", *(doc if docstring_lines else []), *body]) + "\n"


def test_function_length_counts_no_docstring(tmp_path: Path) -> None:
    assert breaches(tmp_path, "catalog/a.py", function(80)) == []
    assert breaches(tmp_path, "catalog/a.py", function(80, docstring_lines=40)) == []
    assert breaches(tmp_path, "catalog/a.py", function(81)) == [
        "catalog/a.py:1: function f must have at most 80 lines, was 81; split it"
    ]


def test_file_length(tmp_path: Path) -> None:
    assert breaches(tmp_path, "catalog/a.py", "x = 1\n" * 500) == []
    assert breaches(tmp_path, "catalog/a.py", "x = 1\n" * 501) == [
        "catalog/a.py:1: file must have at most 500 lines, was 501; split it"
    ]
    assert breaches(tmp_path, "tests/a.py", "x = 1\n" * 501) == []


def test_large_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(b"\xff" * 1_000_001)
    assert list(house_rules.violations(tmp_path, [Path("big.bin")])) == [
        "big.bin:1: larger than 1,000,000 bytes, was 1,000,001"
    ]
