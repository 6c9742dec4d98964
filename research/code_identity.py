"""Which code decides a result: hashes of the sources that a fit and its predictions run through.

A result that is kept is worth something only as long as the code that made it is the code there
is. What imports what is read from the sources; modules that only measure, store, serve bar by bar
or tell of progress decide nothing and are left out, so that a change in a report does not cost
hours of fitting. Comments, docstrings and blank lines do not count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from research.groups.registry import groups_of
from research.models.registry import EXPERT_KINDS
from research.predictions import hash_parts

if TYPE_CHECKING:
    from research.settings import WalkForwardConfig

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("catalog", "research")
_DECIDES_NOTHING = frozenset(
    {
        *("catalog.checks", "catalog.errors", "catalog.ingest", "catalog.instruments"),
        *("catalog.inventory", "catalog.manifest", "catalog.mirror", "catalog.progress"),
        *("catalog.quality", "catalog.transactions", "research.circuit_breaker"),
        "research.estimates",
        *("research.feature_stream", "research.metrics", "research.prediction_types"),
        *("research.predictions", "research.models.contract", "research.models.deep.checkpoint"),
        "research.models.deep.stream",
    }
)
"""They check, store, measure, serve bar by bar or name things; the data has a hash of its own."""
_GROUPS = "research.groups."
_GROUPS_OF_ALL = frozenset({"research.groups.driver", "research.groups.registry"})
_FOLDS = ("research.walkforward", "usable_folds")
"""What divides the rows into folds; the rest of its module measures."""
_SPLITS = ("research.cpcv", "cpcv_splits")
"""The same for a cross-validation."""
_LIBRARIES = ("numpy", "numba", "scipy", "scikit-learn", "lightgbm")
_DEEP_LIBRARIES = ("torch", "onnx", "onnxruntime")


def code_parts(config: WalkForwardConfig) -> dict[str, str]:
    """Return hashes of the code that decides what a configuration's folds predict, by part.

    Parameters
    ----------
    config : WalkForwardConfig
        Its features and experts say which groups and models take part.

    Returns
    -------
    dict of str
        ``code of features``, ``code of labels``, ``code of fits``, ``code of <expert>`` for each
        expert, and ``libraries``: names and versions of what they stand on.
    """
    experts = config.experts.chosen()
    groups = {f"{_GROUPS}{use.name}" for use in groups_of(config.features)}
    models = {name: _modules_of(name) for name in EXPERT_KINDS}
    outside = frozenset(module for found in models.values() for module in found)
    parts: dict[str, str] = {}
    seen: set[str] = set()
    roots = {
        "code of features": {"research.features", *groups},
        "code of labels": {"research.labels"},
        "code of fits": {"research.fitting", "research.fitted", "research.training_table"},
        **{f"code of {name}": set(models[name]) for name in experts},
    }
    for part, start in roots.items():
        found = _closure(start, _stops(outside - start, groups)) - seen
        seen |= found
        parts[part] = _hash_of(found)
    parts["code of fits"] = hash_parts(
        {"modules": parts["code of fits"], "folds": _function_hash(*_FOLDS)}
    )
    deep = any(EXPERT_KINDS[name].deep for name in experts)
    parts["libraries"] = hash_parts(library_versions(deep=deep))
    return parts


def split_code() -> str:
    """Return the hash of the code that divides rows into the splits of a cross-validation."""
    splitter = _closure(["research.cross_validation"], _DECIDES_NOTHING)
    return hash_parts({"modules": _hash_of(splitter), "splits": _function_hash(*_SPLITS)})


def library_versions(*, deep: bool) -> dict[str, str]:
    """Return the versions of the libraries that results depend on; of torch only for `deep`."""
    names = (*_LIBRARIES, *(_DEEP_LIBRARIES if deep else ()))
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _modules_of(expert: str) -> tuple[str, ...]:
    """Return the modules of an expert that no other needs."""
    kind = EXPERT_KINDS[expert]
    own = (f"research.models.deep.{expert}", f"research.models.deep.{expert}_blocks")
    exist = tuple(name for name in own if _path(name) is not None)
    return tuple(sorted({kind.fit_module, kind.load_module, *(exist if kind.deep else ())}))


def _stops(experts: frozenset[str], groups: set[str]) -> frozenset[str]:
    folder = _ROOT / "research" / "groups"
    others = {f"{_GROUPS}{path.stem}" for path in folder.glob("*.py")} - groups - _GROUPS_OF_ALL
    # A package's __init__ imports nothing that decides anything; rings is what groups share.
    return _DECIDES_NOTHING | experts | (others - {f"{_GROUPS}rings", f"{_GROUPS}__init__"})


def _closure(roots: Iterable[str], stops: frozenset[str]) -> set[str]:
    """Return the modules that some modules import, directly or not, themselves among them."""
    found: set[str] = set()
    ahead = [name for name in roots if name not in stops]
    while ahead:
        name = ahead.pop()
        if name not in found and name not in stops and _path(name) is not None:
            found.add(name)
            ahead.extend(_imports(name))
    return found


@cache
def _path(module: str) -> Path | None:
    if module.partition(".")[0] not in _PACKAGES:
        return None
    base = _ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _source(module: str) -> str:
    path = _path(module)
    assert path is not None
    return path.read_text(encoding="utf-8")


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the names that a module imports when it runs, wherever in it."""
    found: set[str] = set()
    ahead: list[ast.AST] = [ast.parse(_source(module))]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            ahead.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        ahead.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _hash_of(modules: Iterable[str]) -> str:
    return hash_parts({name: _module_hash(name) for name in modules})


@cache
def _module_hash(module: str) -> str:
    return source_hash(_source(module))


def _function_hash(module: str, name: str) -> str:
    text = _source(module)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return source_hash(ast.get_source_segment(text, node) or "")
    raise AssertionError(f"{module} must define {name}, does not")


def source_hash(text: str) -> str:
    """Return the SHA-256 of what a source says to the interpreter, as 64 hex digits."""
    digest = hashlib.sha256()
    for kind, value in _tokens(text):
        digest.update(f"{kind} {value}\n".encode())
    return digest.hexdigest()


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield kinds and texts of tokens without comments, docstrings, blank lines and layout.

    How deep a line is indented does not count, only where blocks begin and end.
    """
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in skipped
    ]
    borders = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    at_start = True
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        alone = following is None or following.type == tokenize.NEWLINE
        if token.type == tokenize.STRING and at_start and alone:
            continue  # a docstring, or a string that stands for one
        at_start = token.type in borders
        layout = token.type in borders
        yield tokenize.tok_name[token.type], "" if layout else token.string
