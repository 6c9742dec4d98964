"""`make setup` makes the environment from what a machine has, repairs it, and says what it lacks.

uv is played by a small program that makes empty packages, so no test needs a network; the true
installation is what every fresh clone does in `.ci/run`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bootstrap
import interpreters
import pytest
from interpreters import Interpreter

REAL = str(Path(sys.executable).resolve())
HOME = str(Path(sys.executable).resolve().parent)
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
FAKE_UV = f"""#!{sys.executable} -S
import json, os, pathlib, sys

arguments = sys.argv[1:]
log = pathlib.Path(os.environ["FAKE_UV_LOG"])
with log.open("a") as file:
    settings = {{name: value for name, value in os.environ.items() if name.startswith("UV_")}}
    file.write(json.dumps([arguments, settings]) + "\\n")
if arguments == ["--version"]:
    print("uv 0.9.9")
elif arguments[0] == "venv":
    python = arguments[arguments.index("--python") + 1]
    if python == "3.12":
        sys.exit("no network")
    venv = pathlib.Path(arguments[2])
    (venv / "bin").mkdir(parents=True)
    (venv / {SITE!r}).mkdir(parents=True)
    (venv / "bin" / "python").symlink_to({REAL!r})
    (venv / "bin" / "activate").write_text(str(venv))
    (venv / "pyvenv.cfg").write_text("home = " + {HOME!r} + "\\n")
elif "--editable" in arguments:
    pathlib.Path(".venv/bin/levibot").touch()
else:
    site = pathlib.Path(".venv") / {SITE!r}
    (site / "thing-1.0.dist-info").mkdir(exist_ok=True)
    for name in {list(bootstrap.IMPORTS)!r}:
        folder = site / name.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
"""


class Clone:
    """A copy of what `make setup` needs, in a machine that has only what a test gives it."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder / "a clone"
        self.tools = folder / "bin"
        self.log = folder / "uv.log"
        self.tools.mkdir()
        (self.folder / "scripts").mkdir(parents=True)
        for name in ("bootstrap.py", "bootstrap.sh", "interpreters.py", "uv-requirements.txt"):
            shutil.copy(root / "scripts" / name, self.folder / "scripts")
        for name in ("Makefile", "pyproject.toml", "requirements-dev.txt"):
            shutil.copy(root / name, self.folder)
        for name in ("make", "sh", "env", "dirname", "echo", "sed"):
            found = shutil.which(name)
            assert found is not None
            (self.tools / name).symlink_to(found)
        self.environment = {
            "PATH": str(self.tools),
            "HOME": str(folder),
            "FAKE_UV_LOG": str(self.log),
        }
        self.program("uv", FAKE_UV)
        self.program("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')

    def program(self, name: str, text: str) -> Path:
        path = self.tools / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def make(self, target: str = "setup", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", target],
            cwd=self.folder,
            env=self.environment | environment,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[list[str]]:
        """Return what uv was asked to do since the last look."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        self.log.unlink()
        return [arguments for arguments, _ in lines if arguments != ["--version"]]

    def settings(self) -> dict[str, str]:
        last = self.log.read_text(encoding="utf-8").splitlines()[-1]
        return json.loads(last)[1]


@pytest.fixture
def clone(tmp_path: Path, root: Path) -> Clone:
    return Clone(tmp_path, root)


def test_setup_installs_hashed_packages_and_then_the_project(clone: Clone) -> None:
    done = clone.make()
    assert done.returncode == 0, done.stderr
    venv, packages, project = clone.calls()
    assert venv[0] == "venv"
    assert "--require-hashes" in packages
    assert "requirements-dev.txt" in packages
    assert {"--no-deps", "--no-build-isolation", "--editable"} <= set(project)


def test_a_second_setup_does_nothing(clone: Clone) -> None:
    clone.make()
    clone.calls()
    assert clone.make().returncode == 0
    assert clone.calls() == []


@pytest.mark.parametrize("name", ["requirements-dev.txt", "pyproject.toml"])
def test_a_changed_input_installs_again_into_the_same_environment(clone: Clone, name: str) -> None:
    clone.make()
    clone.calls()
    with (clone.folder / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert clone.make().returncode == 0
    assert [call[0] for call in clone.calls()] == ["pip", "pip"]


def break_python(clone: Clone) -> None:
    python = clone.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("nowhere")


def move_project(clone: Clone) -> None:
    clone.folder = clone.folder.rename(clone.folder.with_name("elsewhere"))


def replace_by_a_file(clone: Clone) -> None:
    shutil.rmtree(clone.folder / ".venv")
    (clone.folder / ".venv").touch()


@pytest.mark.parametrize("damage", [break_python, move_project, replace_by_a_file])
def test_a_broken_environment_is_made_anew(clone: Clone, damage: object) -> None:
    clone.make()
    clone.calls()
    assert callable(damage)
    damage(clone)
    done = clone.make()
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in clone.calls()] == ["venv", "pip", "pip"]
    assert ".venv does not work here and is made anew" in done.stderr
    clone.make()
    assert clone.calls() == []


def test_a_package_removed_by_hand_is_installed_again(clone: Clone) -> None:
    clone.make()
    clone.calls()
    (info,) = (clone.folder / ".venv").rglob("thing-1.0.dist-info")
    info.rmdir()
    clone.make()
    assert [call[0] for call in clone.calls()] == ["pip", "pip"]


def test_an_interrupted_setup_is_not_taken_for_complete(clone: Clone) -> None:
    clone.make()
    clone.calls()
    (clone.folder / "requirements-dev.txt").write_text("changed\n", encoding="utf-8")
    uv = clone.program(
        "uv", FAKE_UV.replace('elif "--editable"', "elif sys.exit(9) or '--editable'")
    )
    failed = clone.make()
    assert failed.returncode != 0
    assert "setup failed: exit code 9 from: " in failed.stderr
    clone.calls()
    uv.write_text(FAKE_UV, encoding="utf-8")
    assert clone.make().returncode == 0
    assert len(clone.calls()) == 2


def test_a_broken_shim_does_not_hide_a_good_python(clone: Clone, tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("python3", "python3.12", "python3.13", "uv"):
        shim = shims / name
        shim.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
        shim.chmod(0o755)
    done = clone.make(PATH=f"{shims}:{clone.tools}")
    # The broken uv is the first on PATH; without pip there is no other.
    if done.returncode != 0:
        assert "there is no uv" in done.stderr
        (shims / "uv").unlink()
        done = clone.make(PATH=f"{shims}:{clone.tools}")
    assert done.returncode == 0, done.stderr


def test_pyenv_versions_are_found_without_shims(clone: Clone, tmp_path: Path) -> None:
    python = tmp_path / "pyenv" / "versions" / "3.12.9" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.move(clone.tools / "python3", python)
    done = clone.make(PYENV_ROOT=str(tmp_path / "pyenv"))
    assert done.returncode == 0, done.stderr
    assert clone.calls()[0][-1] == str(python)


def test_no_python_at_all(clone: Clone) -> None:
    (clone.tools / "python3").unlink()
    done = clone.make()
    assert done.returncode != 0
    assert "setup failed: no Python 3 was found. Install one" in done.stderr


OLD_PYTHON = f"""#!/bin/sh
case "$*" in *sqlite3*) echo "3|11|2|" ;; *) exec {sys.executable} "$@" ;; esac
"""


def test_only_an_old_python_says_what_to_install(clone: Clone) -> None:
    clone.program("python3", OLD_PYTHON)
    done = clone.make()
    assert done.returncode != 0
    assert f"{clone.tools}/python3: is Python 3.11.2" in done.stderr
    assert "uv could not fetch one" in done.stderr
    assert "pyenv install 3.12" in done.stderr


def test_a_named_python_must_do(clone: Clone) -> None:
    old = clone.program("old", OLD_PYTHON)
    done = clone.make(LEVIBOT_PYTHON=str(old))
    assert done.returncode != 0
    assert f"must be a usable Python >= 3.12, was {old}, which is Python 3.11.2" in done.stderr
    done = clone.make(LEVIBOT_PYTHON="python3")
    assert done.returncode == 0, done.stderr
    assert clone.calls()[-3][-1] == str(clone.tools / "python3")


def test_a_package_that_does_not_load_fails_the_setup(clone: Clone) -> None:
    broken = "raise OSError('libgomp.so.1: cannot open shared object file')"
    clone.program(
        "uv",
        FAKE_UV.replace("touch()\n", "touch()\n", 1)
        + f"""
    (site / "lightgbm" / "__init__.py").write_text({broken!r})
""",
    )
    done = clone.make()
    assert done.returncode != 0
    assert "lightgbm is installed, but does not load: OSError: libgomp.so.1" in done.stderr
    assert "sudo apt install libgomp1" in done.stderr
    assert not (clone.folder / ".venv" / ".levibot-setup.json").exists()


def test_help_lists_every_target_that_the_issue_names(clone: Clone) -> None:
    done = clone.make("help")
    shown = done.stdout
    for target in ("setup", "demo", "test", "test-all", "check", "fix", "bench"):
        assert f"\n  {target} " in shown, done.stderr
    assert not (clone.folder / ".venv").exists()


# -- where packages come from --------------------------------------------------------------------


def test_pip_settings_by_precedence() -> None:
    text = (
        ":env:.index-url='three'\n"
        "global.index-url='one'\n"
        "install.index-url='two'\n"
        "global.extra-index-url='a b'\n"
        "freeze.timeout='9'\n"
    )
    assert bootstrap.parse_pip_settings(text) == {"index-url": "three", "extra-index-url": "a b"}


@pytest.fixture
def no_uv_config(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_uv_is_told_where_pip_looks(tmp_path: Path, no_uv_config: dict[str, str]) -> None:
    pip = {
        "index-url": "scheme://mirror/simple",
        "extra-index-url": "scheme://more/simple",
        "find-links": f"{tmp_path} {tmp_path}/absent",
        "no-index": "true",
        "timeout": "180",
        "trusted-host": "mirror\nmore",
    }
    assert bootstrap.index_settings(no_uv_config, pip) == {
        "UV_DEFAULT_INDEX": "scheme://mirror/simple",
        "UV_INDEX": "scheme://more/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(tmp_path),
        "UV_NO_INDEX": "1",
        "UV_HTTP_TIMEOUT": "180",
        "UV_INSECURE_HOST": "mirror more",
    }


def test_settings_of_uvs_own_are_left_alone(tmp_path: Path, no_uv_config: dict[str, str]) -> None:
    pip = {"index-url": "scheme://mirror/simple"}
    assert bootstrap.index_settings(no_uv_config, {}) == {}
    assert bootstrap.index_settings(no_uv_config | {"UV_INDEX_URL": "scheme://mine"}, pip) == {}
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv" / "uv.toml").touch()
    assert bootstrap.index_settings(no_uv_config, pip) == {}


# -- which Python --------------------------------------------------------------------------------


def test_the_preferred_version_wins_and_then_the_newest_patch() -> None:
    found = [
        Interpreter("a", (3, 14, 0), ""),
        Interpreter("b", (3, 12, 1), ""),
        Interpreter("c", (3, 12, 9), ""),
        Interpreter("d", (3, 12, 10), "is a pre-release"),
        Interpreter("e", (3, 13, 1), ""),
    ]
    chosen = interpreters.choose(found)
    assert chosen is not None
    assert chosen.path == "c"
    assert interpreters.choose([found[3]]) is None


def test_this_python_is_usable() -> None:
    probed = interpreters.probe(sys.executable)
    assert probed is not None
    assert probed.version == sys.version_info[:3]
    assert probed.problem == ""
    assert interpreters.probe(os.devnull) is None
