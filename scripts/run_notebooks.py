"""Run the notebooks, and write the copies with outputs that readers see.

The percent-format ``notebooks/NAME.py`` is the source. ``make run-notebooks`` runs each from top to
bottom in a fresh kernel, in the folder where Jupyter would, and writes ``NAME.ipynb``.
``--run-only`` writes nothing (the tests do this), ``--check`` runs nothing and compares the cells
of each pair.
"""

# nbformat's functions carry no types.
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
CELL_TIMEOUT_SECS = 300


def sources(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks' sources in reading order; `names` select by part of the name.

    Raises
    ------
    SystemExit
        If a name matches none.
    """
    found = sorted(folder.glob("[0-9]*.py"))
    for name in names:
        if not any(name in path.stem for path in found):
            known = ", ".join(path.stem for path in found) or "none"
            raise SystemExit(f"no notebook is called {name!r}; there are: {known}")
    return [path for path in found if not names or any(name in path.stem for name in names)]


def execute(source: Path) -> Any:
    """Return the notebook of a percent-format file, run from top to bottom.

    Raises
    ------
    CellExecutionError
        If a cell raises; the text shows the cell and the error.
    """
    notebook = jupytext.read(source)
    # Ids and metadata that differ from run to run would hide what a change did.
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder of the user's own, where TCP is open to everybody on the machine.
        kernel = {"transport": "ipc", "ip": f"{folder}/kernel"}
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_SECS,
            kernel_name="python3",
            resources={"metadata": {"path": str(source.parent)}},
            record_timing=False,
            config=Config({"KernelManager": kernel}),
        )
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def out_of_step(source: Path) -> str:
    """Return what is wrong between a source and its copy with outputs, or ''."""
    copy = source.with_suffix(".ipynb")
    if not copy.is_file():
        return f"{copy.name} is missing: run `make run-notebooks` and commit it"
    cells = [_cells(jupytext.read(path)) for path in (source, copy)]
    if cells[0] != cells[1]:
        return f"{copy.name} was made from another {source.name}: run `make run-notebooks`"
    return ""


def _cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or compare; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the notebooks and write their copies.")
    parser.add_argument("names", nargs="*", help="part of the name of those to run")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--run-only", action="store_true", help="write nothing")
    mode.add_argument("--check", action="store_true", help="only compare each pair's cells")
    options = parser.parse_args(arguments)
    # The kernel must find this environment's python3, not one of the user's other kernels.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    code = 0
    for source in sources(FOLDER, options.names):
        start = time.monotonic()
        problem = out_of_step(source) if options.check else ""
        if not options.check:
            try:
                notebook = execute(source)
            except CellExecutionError as error:
                problem = str(error)
            else:
                if not options.run_only:
                    nbformat.write(notebook, source.with_suffix(".ipynb"))
        seconds = time.monotonic() - start
        print(f"{source.stem}: {problem or 'ok'} ({seconds:.0f} s)", file=sys.stderr)
        code = 1 if problem else code
    return code


if __name__ == "__main__":
    raise SystemExit(main())
