"""Check the house rules that no linter knows. Prints `file:line: rule` and exits 1 on any.

- No pickle, and nothing that unpickles: loading a model must not be able to run code.
- No absolute path of somebody's machine in a tracked file, a notebook's output included.
- No address of a registry in a locked file.
- No unfinished work: what is left over belongs in an issue.
- In the packages: functions of at most 80 lines without their docstring, files of at most 500.
- No tracked file above 1 MB.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("catalog", "adapters", "research", "strategies", "live")
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 500
MAX_FILE_BYTES = 1_000_000

_UNPICKLING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
_UNPICKLING_CALLS = {"joblib.load", "torch.load"}
_UNPICKLING_NAMES = {"read_pickle", "to_pickle"}
# Written in pieces, so that this file keeps its own rules.
_MACHINE_PATH = re.compile(r"(?<![\w.})~$-])/(?:home|root|work|Users)" + "/")
_UNFINISHED = re.compile(r"\b(?:TO" + "DO|FIX" + r"ME)\b")
_ADDRESS = re.compile(r"://|^\s*--(?:index|extra-index|find-links|trusted-host)")
_CODE = {".py", ".sh", ".toml", ".yaml", ".yml", ".html", ".css", ""}


def tracked_files(root: Path) -> list[Path]:
    """Return the files that git tracks, relative to `root`."""
    # The folder may belong to another user, as in a container.
    command = ["git", "-c", f"safe.directory={root}", "ls-files", "-z"]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
    names = output.decode("utf-8").split("\0")
    return [Path(name) for name in names if name and (root / name).is_file()]


def violations(root: Path, files: list[Path]) -> Iterator[str]:
    """Yield each breach of a rule as ``file:line: text``."""
    for path in files:
        content = (root / path).read_bytes()
        if len(content) > MAX_FILE_BYTES:
            yield f"{path}:1: larger than {MAX_FILE_BYTES:,} bytes, was {len(content):,}"
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        for line, problem in [*_text_problems(path, text), *_package_problems(path, text)]:
            yield f"{path}:{line}: {problem}"


def _text_problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    is_lock = path.name.endswith("requirements.txt") or path.name == "requirements-dev.txt"
    for number, line in enumerate(text.splitlines(), start=1):
        if _MACHINE_PATH.search(line):
            yield number, "path of one machine; paths are relative, or come from the user"
        if path.suffix in _CODE and _UNFINISHED.search(line):
            yield number, "unfinished work; do it, or open an issue"
        if is_lock and _ADDRESS.search(line):
            yield number, "address of a registry in a locked file; run `make lock`"


def _package_problems(path: Path, text: str) -> Iterator[tuple[int, str]]:
    if path.suffix != ".py" or path.parts[0] not in PACKAGES:
        return
    n_lines = len(text.splitlines())
    if n_lines > MAX_FILE_LINES:
        yield 1, f"file must have at most {MAX_FILE_LINES} lines, was {n_lines}; split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _code_lines(node)
            if length > MAX_FUNCTION_LINES:
                yield (
                    node.lineno,
                    f"function {node.name} must have at most {MAX_FUNCTION_LINES} lines, "
                    f"was {length}; split it",
                )
        name = _unpickles(node)
        if name:
            line = getattr(node, "lineno", 1)
            yield line, f"{name} can run code from a file; store text or safetensors"


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's length without its docstring."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def _unpickles(node: ast.AST) -> str:
    """Return the name of what unpickles in this node, or ''."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        return next((name for name in names if name.split(".")[0] in _UNPICKLING_MODULES), "")
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        names = [f"{module}.{alias.name}" for alias in node.names]
        if module.split(".")[0] in _UNPICKLING_MODULES:
            return module
        return next((name for name in names if name in _UNPICKLING_CALLS), "")
    if isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        return name if name in _UNPICKLING_CALLS or node.attr in _UNPICKLING_NAMES else ""
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        allowed = not (isinstance(node.value, ast.Constant) and node.value.value is False)
        return "allow_pickle" if allowed else ""
    return ""


def main() -> int:
    """Check every tracked file; return the exit code."""
    found = list(violations(ROOT, tracked_files(ROOT)))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
