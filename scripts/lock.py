"""Write the locked requirements, or check that they still belong to pyproject.toml.

``make lock`` resolves anew and keeps every pin that still fits; ``make lock UPGRADE=1`` takes the
newest. The check needs no network: the head of each file holds a hash of the dependency lists that
it was resolved from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import bootstrap

ROOT = Path(__file__).resolve().parents[1]
LOCKS: dict[str, tuple[str, ...]] = {"requirements.txt": (), "requirements-dev.txt": ("dev",)}
"""Each locked file and the extras that it holds beside the dependencies themselves."""

_MARK = "dependencies sha256:"


def dependency_digest(pyproject: str, extras: Sequence[str]) -> str:
    """Return the hash of what a lock is resolved from: dependencies, extras, Python versions."""
    project = tomllib.loads(pyproject)["project"]
    inputs = {
        "python": project["requires-python"],
        "dependencies": sorted(project["dependencies"]),
        "extras": {name: sorted(project["optional-dependencies"][name]) for name in extras},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def stale(root: Path) -> list[str]:
    """Return one line for each locked file that no longer belongs to pyproject.toml."""
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    problems = []
    for name, extras in LOCKS.items():
        path = root / name
        expected = f"{_MARK}{dependency_digest(pyproject, extras)}"
        if not path.is_file():
            problems.append(f"{name} is missing: run `make lock` and commit it")
        elif expected not in path.read_text(encoding="utf-8").split("==", maxsplit=1)[0]:
            problems.append(
                f"{name} was locked from other dependencies than pyproject.toml has: "
                "run `make lock` and commit it"
            )
    return problems


def write(root: Path, *, upgrade: bool) -> None:
    """Resolve both sets, the runtime set first so that the other keeps its versions."""
    environment = bootstrap.clean_environment()
    uv = bootstrap.find_uv(environment) or bootstrap.fetch_uv(environment)
    pip = bootstrap.pip_settings(environment)
    # Folders and further indexes of this machine could hold builds, and so hashes, of its own.
    index: dict[str, str] = {
        name: pip[name] for name in ("index-url", "cert", "trusted-host") if name in pip
    }
    environment |= bootstrap.index_settings(environment, index)
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate"]
    command += ["--python", bootstrap.VENV_PYTHON]
    if upgrade:
        command.append("--upgrade")
    for name, extras in LOCKS.items():
        said = f"make lock  # {_MARK}{dependency_digest(pyproject, extras)}"
        options = ["--universal", "--python-version", "3.12", "--custom-compile-command", said]
        for extra in extras:
            options += ["--extra", extra]
        if extras:
            options += ["--constraints", "requirements.txt"]
        _run([*command, *options, "--output-file", name, "pyproject.toml"], root, environment)
    uv_lock = ["--custom-compile-command", "make lock", "--output-file", bootstrap.UV_LOCK, "-"]
    _run([*command, "--universal", *uv_lock], root, environment, text="uv\n")


def _run(command: list[str], root: Path, environment: dict[str, str], text: str = "") -> None:
    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        check=False,
        input=text,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise SystemExit(f"uv could not resolve the dependencies (exit code {done.returncode})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Lock or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Lock the dependencies, or check the lock.")
    parser.add_argument("--check", action="store_true", help="only check, without network")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options = parser.parse_args(arguments)
    if not options.check:
        write(ROOT, upgrade=options.upgrade)
    problems = stale(ROOT)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
