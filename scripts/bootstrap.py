"""Make the project's environment: uv in .tools, Python >= 3.12 in .venv, the locked packages.

Run by `make setup` with whatever Python 3 there is, so it uses the standard library only and
nothing newer than Python 3.6. A second call finds the stamp of the first and returns at once.

LEVIBOT_PYTHON names the interpreter to use, instead of looking for one.
"""

import ast
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from interpreters import VERSIONS, SetupError, choose, home, interpreters, python_paths, read_output

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
VENV_PYTHON = str(VENV / "bin" / "python")
STAMP = VENV / ".levibot-setup.json"
LOCK = "requirements-dev.txt"
UV_LOCK = "scripts/uv-requirements.txt"
SOURCES = (LOCK, UV_LOCK, "pyproject.toml", "scripts/bootstrap.py")

# The oldest uv whose options are the ones used here.
OLDEST_UV = (0, 5, 0)
# How many Pythons' pips are tried for it: one may be too old, but a network that is down stays so.
PIP_ATTEMPTS = 3

INSTALL_PYTHON = """Install one (3.12 or 3.13) in any of these ways and run make again:
  pyenv:          pyenv install 3.12
  Debian, Ubuntu: sudo apt install python3.12    (where the release has it)
  Fedora:         sudo dnf install python3.12
  macOS:          brew install python@3.12
or name one that you have: make setup LEVIBOT_PYTHON=/path/to/python3.12"""

# What levibot spends its start on. Importing it once proves that the machine can load it, and
# leaves the bytecode behind: 11 s the first time, 4 s from then on.
IMPORTS = (
    "duckdb",
    "lightgbm",
    "matplotlib.pyplot",
    "nautilus_trader",
    "numba",
    "optuna",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "quantstats",
    "scipy.stats",
    "sklearn.isotonic",
    "typer",
)


def main() -> int:
    """Make or repair the environment; return the exit code."""
    if is_ready():
        return 0
    TOOLS.mkdir(exist_ok=True)
    try:
        with (TOOLS / "setup.lock").open("w") as lock:
            # Two makes at once: the second waits and then finds the work done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready():
                install()
    except SetupError as error:
        sys.stderr.write(f"setup failed: {error}\n")
        return 1
    return 0


def install() -> None:
    """Find or fetch uv and Python, then install the locked set and the project."""
    start = time.monotonic()
    if STAMP.exists():
        STAMP.unlink()
    environment = clean_environment()
    uv = find_uv(environment) or fetch_uv(environment)
    environment.update(index_settings(environment, pip_settings(environment)))
    if not venv_is_usable():
        create_venv(uv, environment)
    say("installing the locked packages into .venv")
    into = [uv, "pip", "install", "--quiet", "--python", VENV_PYTHON]
    run([*into, "--require-hashes", "--requirement", LOCK], environment)
    # The build backend is in the locked set, so nothing outside it is fetched here either.
    run([*into, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], environment)
    check_imports(environment)
    write_stamp()
    say(f"ready after {time.monotonic() - start:.0f} s")


def check_imports(environment: Dict[str, str]) -> None:
    """Import the large packages once.

    Raises
    ------
    SetupError
        If one does not load, such as for want of a library of the system.
    """
    say("compiling what levibot imports")
    writing = {name: environment[name] for name in environment if name != "PYTHONDONTWRITEBYTECODE"}
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, flush=True)\n"
        "    importlib.import_module(name)"
    )
    process = subprocess.Popen(
        [VENV_PYTHON, "-W", "ignore", "-c", code, *IMPORTS],
        env=dict(writing, MPLBACKEND="Agg"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = (text.decode("utf-8", "replace").split("\n") for text in process.communicate())
    if process.returncode == 0:
        return
    reached = [name for name in output if name]
    last = [line for line in errors if line.strip()] or [f"exit code {process.returncode}"]
    hint = ""
    if "libgomp" in last[-1]:
        hint = "\nInstall OpenMP (Debian, Ubuntu: sudo apt install libgomp1)"
    name = reached[-1] if reached else "Python"
    raise SetupError(f"{name} is installed, but does not load: {last[-1]}{hint}")


# -- is there anything to do ---------------------------------------------------------------------


def is_ready() -> bool:
    """Return whether the last setup still holds: same inputs, same place, nothing removed."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
        present = {path.name for path in Path(stamp["site_packages"]).iterdir()}
    except (OSError, ValueError, KeyError):
        return False
    return (
        stamp["inputs"] == inputs_digest()
        and present.issuperset(stamp["distributions"])
        and (VENV / "bin" / "levibot").exists()
        and venv_is_usable()
    )


def inputs_digest() -> str:
    """Return a hash of everything the environment depends on, its own place included."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in SOURCES:
        digest.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return digest.hexdigest()


def venv_is_usable() -> bool:
    """Return whether .venv runs, is at its own place, and has a Python that we accept."""
    # A copied or moved folder still runs, but its scripts point to where it was made.
    try:
        if str(VENV) not in (VENV / "bin" / "activate").read_text(encoding="utf-8"):
            return False
    except OSError:
        return False
    if sys.executable == VENV_PYTHON:
        return sys.version_info[:2] in VERSIONS
    output = read_output([VENV_PYTHON, "-I", "-c", "import sys; print(*sys.version_info[:2])"])
    return output is not None and output.split() in [[str(a), str(b)] for a, b in VERSIONS]


def write_stamp() -> None:
    """Record what was installed; only the last step of a complete setup does."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = (read_output([VENV_PYTHON, "-I", "-c", code]) or "").strip()
    names = [path.name for path in Path(site_packages).iterdir()]
    stamp = {
        "inputs": inputs_digest(),
        "site_packages": site_packages,
        "distributions": sorted(name for name in names if name.endswith(".dist-info")),
    }
    partial = STAMP.with_suffix(".tmp")
    partial.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    partial.replace(STAMP)


# -- uv ------------------------------------------------------------------------------------------


def find_uv(environment: Dict[str, str]) -> Optional[str]:
    """Return a uv that works and is new enough: the project's own, or the one on PATH."""
    own = str(TOOLS / "uv" / "bin" / "uv")
    for uv in (own, shutil.which("uv", path=environment.get("PATH"))):
        if uv and uv_version(uv, environment) >= OLDEST_UV:
            return uv
    return None


def uv_version(uv: str, environment: Dict[str, str]) -> Tuple[int, ...]:
    """Return the version of a uv, or () where it does not run."""
    words = (read_output([uv, "--version"], environment) or "").split()
    try:
        return tuple(int(part) for part in words[1].split("."))
    except (IndexError, ValueError):
        return ()


def fetch_uv(environment: Dict[str, str]) -> str:
    """Install uv into .tools with the pip of any Python 3, and return its path."""
    failures = []
    for python in islice(pips(environment), PIP_ATTEMPTS):
        say(f"installing uv into .tools with {python} -m pip")
        try:
            pip_install_uv(python, environment)
        except SetupError as error:
            # The pip of an old Python cannot read today's wheels; another may.
            failures.append(f"  {python}: {error}")
            continue
        uv = find_uv(environment)
        if uv is not None:
            return uv
        failures.append(f"  {python}: installed a uv that does not run on this machine")
    tried = "\n".join(failures) or "  there is none"
    raise SetupError(
        f"there is no uv, and no Python 3 with a pip that could install it:\n{tried}\n"
        "Install pip (Debian, Ubuntu: sudo apt install python3-pip; elsewhere: "
        "python3 -m ensurepip --user) or uv, and run make again"
    )


def pip_install_uv(python: str, environment: Dict[str, str]) -> None:
    """Put the locked uv into .tools/uv, whole or not at all."""
    # These settings of the user's are for environments, and refuse or collide with --target.
    overrides = {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_USER": "0", "PIP_NO_INPUT": "1"}
    overrides.update({"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"})
    # uv is one compiled program, which runs beside Pythons older than it could be imported by.
    options = ["--quiet", "--no-deps", "--ignore-requires-python", "--require-hashes"]
    with tempfile.TemporaryDirectory(dir=str(TOOLS)) as folder:
        target = Path(folder) / "uv"
        command = [python, "-m", "pip", "install", *options, "--target", str(target)]
        run([*command, "--requirement", UV_LOCK], dict(environment, **overrides))
        shutil.rmtree(str(TOOLS / "uv"), ignore_errors=True)
        target.replace(TOOLS / "uv")


def pips(environment: Dict[str, str]) -> Iterator[str]:
    """Yield every Python 3 that has a pip."""
    seen = set()
    for python in [sys.executable, *python_paths(environment)]:
        if python in seen or VENV in Path(python).parents:
            continue
        seen.add(python)
        if "(python 3" in (read_output([python, "-m", "pip", "--version"], environment) or ""):
            yield python


def clean_environment() -> Dict[str, str]:
    """Return the environment for pip and uv: the user's, without what points them elsewhere."""
    environment = dict(os.environ)
    for name in ("PYTHONHOME", "PYTHONPATH", "UV_SYSTEM_PYTHON", "UV_PYTHON", "VIRTUAL_ENV"):
        environment.pop(name, None)
    # The environment may be active while it is made anew.
    folders = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join(
        folder for folder in folders if Path(folder) != VENV / "bin"
    )
    has_cache = "UV_CACHE_DIR" in environment or "XDG_CACHE_HOME" in environment
    if not has_cache and not os.access(str(home()), os.W_OK):
        environment["UV_CACHE_DIR"] = str(TOOLS / "uv-cache")
    return environment


# -- where packages come from: pip's settings, handed to uv --------------------------------------


def pip_settings(environment: Dict[str, str]) -> Dict[str, str]:
    """Return pip's settings by name, from its files and its environment; {} without a pip."""
    python = next(pips(environment), None)
    if python is None:
        return {}
    return parse_pip_settings(
        read_output([python, "-m", "pip", "config", "list"], environment) or ""
    )


def parse_pip_settings(text: str) -> Dict[str, str]:
    """Parse `pip config list`: the environment wins over [install], which wins over [global]."""
    settings = {}  # type: Dict[str, str]
    for section in ("global.", "install.", ":env:."):
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                try:
                    settings[name[len(section) :]] = str(ast.literal_eval(value))
                except (SyntaxError, ValueError):
                    continue
    return settings


def index_settings(environment: Dict[str, str], pip: Dict[str, str]) -> Dict[str, str]:
    """Return the UV_ variables that make uv look where pip looks.

    uv does not read pip's settings. Where the user has set up uv itself, that alone counts.
    """
    own = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
    if any(environment.get(name) for name in (*own, "UV_CONFIG_FILE", "UV_NO_INDEX")):
        return {}
    config = Path(environment.get("XDG_CONFIG_HOME") or str(home() / ".config"))
    if any((folder / "uv" / "uv.toml").exists() for folder in (config, Path("/etc"))):
        return {}
    found = {}  # type: Dict[str, str]
    if pip.get("index-url"):
        found["UV_DEFAULT_INDEX"] = pip["index-url"]
    extra = reachable(pip.get("extra-index-url", ""))
    if extra:
        found["UV_INDEX"] = " ".join(extra)
        # pip takes the best version of all indexes; with hashes locked nobody can slip one in.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    links = reachable(pip.get("find-links", ""))
    if links:
        found["UV_FIND_LINKS"] = ",".join(links)
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    same = {"trusted-host": "UV_INSECURE_HOST", "timeout": "UV_HTTP_TIMEOUT"}
    same.update({"default-timeout": "UV_HTTP_TIMEOUT", "cert": "SSL_CERT_FILE"})
    for name, variable in same.items():
        if pip.get(name) and not environment.get(variable):
            found[variable] = " ".join(pip[name].split())
    return found


def reachable(text: str) -> List[str]:
    """Split a list of places, leaving out folders that do not exist (pip warns, uv would stop)."""
    places = []
    for place in text.split():
        path = place[len("file://") :] if place.startswith("file://") else place
        if "://" in path or Path(path).exists():
            places.append(place)
    return places


# -- Python --------------------------------------------------------------------------------------


def create_venv(uv: str, environment: Dict[str, str]) -> None:
    """Create .venv with the best Python found, else with one that uv fetches."""
    found = list(interpreters(environment))
    best = choose(found)
    # What is taken away is either broken, moved, or of a Python that is not accepted.
    if VENV.is_symlink() or VENV.exists():
        say(".venv does not work here and is made anew")
        if VENV.is_symlink() or not VENV.is_dir():
            VENV.unlink()
        else:
            shutil.rmtree(str(VENV))
    command = [uv, "venv", "--quiet", str(VENV), "--python"]
    if best is not None:
        version = ".".join(str(part) for part in best.version)
        say(f"creating .venv with Python {version} ({best.path})")
        run([*command, best.path], environment)
        return
    say("no suitable Python >= 3.12 here: asking uv to fetch one")
    try:
        run([*command, "3.12", "--python-preference", "only-managed"], environment)
    except SetupError as error:
        looked = "\n".join(f"  {one.path}: {one.problem}" for one in found) or "  none"
        raise SetupError(
            f"no suitable Python >= 3.12.\nFound here:\n{looked}\n"
            f"uv could not fetch one: {error}\n{INSTALL_PYTHON}"
        ) from None


# -- processes -----------------------------------------------------------------------------------


def run(command: List[str], environment: Dict[str, str]) -> None:
    """Run a command in the project folder, its output shown.

    Raises
    ------
    SetupError
        If it fails.
    """
    code = subprocess.call(command, cwd=str(ROOT), env=environment, stdin=subprocess.DEVNULL)
    if code != 0:
        shown = " ".join(command).replace(f"{ROOT}{os.sep}", "")
        raise SetupError(f"exit code {code} from: {shown}")


def say(text: str) -> None:
    """Tell the user what is going on."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
