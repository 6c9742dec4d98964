"""The Makefile, pre-commit and CI run the same commands, and the wheel holds what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import bootstrap
import pytest
import yaml
from house_rules import PACKAGES


def make_variable(root: Path, name: str) -> list[str]:
    found = re.search(
        rf"^{name} := (.*)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found is not None
    return found[1].split()


def test_pre_commit_runs_what_make_check_runs(root: Path) -> None:
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = config["repos"]
    assert local["repo"] == "local"
    entries = [hook["entry"] for hook in local["hooks"]]
    assert entries == [f"make {name}" for name in make_variable(root, "CHECKS")]


def test_the_workflow_calls_the_same_commands(root: Path) -> None:
    text = (root / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert commands == {".ci/run", "make demo"}


def run_ci(root: Path, folder: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of .ci/run with a `make` that fails at one target."""
    script = folder / ".ci" / "run"
    script.parent.mkdir()
    script.write_bytes((root / ".ci" / "run").read_bytes())
    make = folder / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\necho "target $1"\n[ "$1" != {failing} ]\n', encoding="utf-8")
    # Where these are there, none are fetched.
    for tool in ("promtool", "prometheus"):
        make.with_name(tool).write_text("#!/bin/sh\n", encoding="utf-8")
    for one in make.parent.iterdir():
        one.chmod(0o755)
    return subprocess.run(
        ["bash", str(script)],
        env={"PATH": f"{make.parent}:/usr/bin:/bin", "CI": "true"},
        check=False,
        capture_output=True,
        text=True,
    )


def test_ci_runs_check_then_tests_then_the_longer_proofs(root: Path, tmp_path: Path) -> None:
    done = run_ci(root, tmp_path, failing="nothing")
    assert done.returncode == 0
    assert re.findall(r"^target (\S+)", done.stdout, re.MULTILINE) == [
        "setup",
        "check",
        "test",
        "test-all",
    ]
    assert re.search(r"^test-all +\d+ s +passed$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("failing", ["setup", "check", "test", "test-all"])
def test_ci_stops_at_the_first_failure(root: Path, tmp_path: Path, failing: str) -> None:
    done = run_ci(root, tmp_path, failing)
    assert done.returncode == 1
    assert re.findall(r"^target (\S+)", done.stdout, re.MULTILINE)[-1] == failing
    assert re.search(rf"^{failing} +\d+ s +FAILED$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_wheel_works_without_the_sources(root: Path, tmp_path: Path) -> None:
    uv = bootstrap.find_uv(bootstrap.clean_environment())
    if uv is None:
        pytest.skip("uv is absent: the environment was not made by `make setup`")
    names = ["pyproject.toml", "README.md", "LICENSE", *PACKAGES]
    source = tmp_path / "source"
    source.mkdir()
    # From what git holds, in a copy: a build leaves its folders beside the sources.
    files = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", *names],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in files:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    command = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--offline"]
    command += ["--python", sys.executable, "--out-dir", str(tmp_path / "dist"), str(source)]
    built = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
        archive.extractall(tmp_path / "installed")
    for name in files:
        assert name in held or Path(name).parts[0] not in PACKAGES
    done = subprocess.run(
        [sys.executable, "-c", "import live.cli; print(live.__file__); live.cli.main()", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "installed") in done.stdout, done.stderr
    assert "walkforward" in done.stdout
