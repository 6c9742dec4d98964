"""Notebooks run from top to bottom, and readers see what the source makes."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import run_notebooks

SOURCES = run_notebooks.sources(run_notebooks.FOLDER)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_copy_for_readers_is_in_step(source: Path) -> None:
    assert run_notebooks.out_of_step(source) == ""


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_runs(source: Path, root: Path) -> None:
    # In a process of its own: Jupyter's warnings are not ours to turn into errors.
    command = [sys.executable, "scripts/run_notebooks.py", "--run-only", source.stem]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_jupyterlab_opens_them(root: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    options = "--no-browser --allow-root --IdentityProvider.token=t --ServerApp.port_retries=0"
    # As `make notebooks` starts it.
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert "jupyter lab --notebook-dir=notebooks $(ARGS)" in makefile
    command = [Path(sys.executable).with_name("jupyter"), "lab", "--notebook-dir=notebooks"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [*command, *options.split(), f"--port={port}"], cwd=root, stdout=log, stderr=log
        )
        try:
            told = _answer(f"http://127.0.0.1:{port}/api/contents?token=t", server)
            assert "05_overfitting.ipynb" in {one["name"] for one in told["content"]}
        finally:
            server.terminate()
            server.wait()


def _answer(address: str, server: subprocess.Popen[bytes]) -> Any:
    while True:
        assert server.poll() is None, "JupyterLab ended"
        try:
            answer = requests.get(address, timeout=10)
        except requests.ConnectionError:
            time.sleep(0.2)
            continue
        answer.raise_for_status()
        return answer.json()


@pytest.mark.slow
def test_a_failing_cell_fails_the_run_and_is_shown(tmp_path: Path, root: Path) -> None:
    (tmp_path / "01_broken.py").write_text("# %%\nvalue = 1\n\n# %%\nvalue / 0\n", encoding="utf-8")
    code = (
        "import sys, pathlib, run_notebooks\n"
        "run_notebooks.FOLDER = pathlib.Path(sys.argv[1])\n"
        "sys.exit(run_notebooks.main([]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, cwd=root / "scripts", check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert not (tmp_path / "01_broken.ipynb").exists()


def test_a_copy_of_another_source_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "01_x.py"
    source.write_text("# %%\nx = 1\n", encoding="utf-8")
    assert run_notebooks.out_of_step(source).startswith("01_x.ipynb is missing")
    run_notebooks.jupytext.write(run_notebooks.jupytext.read(source), source.with_suffix(".ipynb"))
    assert run_notebooks.out_of_step(source) == ""
    source.write_text("# %%\nx = 2\n", encoding="utf-8")
    assert run_notebooks.out_of_step(source).startswith("01_x.ipynb was made from another 01_x.py")
