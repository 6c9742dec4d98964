"""LightGBM's shared library without its Python package: what serves a model needs nothing more.

Importing the package brings scikit-learn, scipy and pandas with it, 165 MB of memory; the shared
library alone takes 3. The two share the very code that adds up the trees, so that an answer has
the same bits either way (tested).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError, IntegrityError

_FLOAT64, _ROW_MAJOR = 1, 1
_NORMAL, _CONTRIBUTIONS = 0, 3
_GAIN = 1
_ALL_TREES = -1
_NAMES = ("lib_lightgbm.so", "lib_lightgbm.dylib", "lib_lightgbm.dll")
_FOLDERS = ("lib", "bin", ".")


class LightGBMLibrary:
    """The C interface of LightGBM, its errors turned into ours.

    Parameters
    ----------
    path : Path
        The shared library.

    Raises
    ------
    ConfigError
        If it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ConfigError(
                f"LightGBM's shared library {path.name} must be loadable, was not: {error}; "
                "install the lightgbm package again (it needs an OpenMP runtime, such as libgomp)"
            ) from error
        self._library.LGBM_GetLastError.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library.

        Raises
        ------
        IntegrityError
            With LightGBM's own words, if it says that the call failed.
        """
        if getattr(self._library, name)(*arguments):
            reason = self._library.LGBM_GetLastError().decode(errors="replace")
            raise IntegrityError(f"{name} must succeed, LightGBM refused: {reason}")


def find_library() -> Path:
    """Return where the installed lightgbm package keeps its shared library, without importing it.

    Raises
    ------
    ConfigError
        If there is no such package, or no library in it.
    """
    found = importlib.util.find_spec("lightgbm")
    places = [] if found is None else list(found.submodule_search_locations or [])
    for place in places:
        for folder in _FOLDERS:
            for name in _NAMES:
                path = Path(place) / folder / name
                if path.is_file():
                    return path
    raise ConfigError(
        "the lightgbm package must be installed with its shared library "
        f"({', '.join(_NAMES)}), "
        + (f"none was found under {', '.join(places)}" if places else "it is not installed")
        + "; install it with: make setup"
    )


@cache
def library() -> LightGBMLibrary:
    """Return the library, loaded once per process."""
    return LightGBMLibrary(find_library())


class TreeModel:
    """A model of LightGBM's text format, asked through the shared library.

    Parameters
    ----------
    text : str
        The model as LightGBM writes it.

    Raises
    ------
    IntegrityError
        If the text is no model.
    """

    def __init__(self, text: str) -> None:
        _check_text(text)
        self._handle = ctypes.c_void_p()
        rounds = ctypes.c_int()
        library().call(
            "LGBM_BoosterLoadModelFromString",
            text.encode(),
            ctypes.byref(rounds),
            ctypes.byref(self._handle),
        )
        # Not in __del__: at the end of the process what it would call is gone.
        weakref.finalize(self, library().call, "LGBM_BoosterFree", self._handle)
        self.rounds = rounds.value
        self.names = self._feature_names()

    def predict(self, values: Float64Array) -> Float64Array:
        """Return the raw probability of a rise for each row, (n_rows,).

        Each row is answered alone and on one thread: the same bits for one row and for many.
        Threads may ask at the same time.
        """
        return self._ask(values, _NORMAL, 1)[:, 0]

    def contributions(self, values: Float64Array) -> Float64Array:
        """Return what each feature adds to the log-odds of each row, (n_rows, n_features + 1).

        Tree SHAP (Lundberg et al., 2020); the last column is what every row starts from. A row's
        numbers add up to its log-odds.
        """
        return self._ask(values, _CONTRIBUTIONS, len(self.names) + 1)

    def gains(self) -> Float64Array:
        """Return the loss that the splits on each feature took away in training, (n_features,)."""
        gains = np.empty(len(self.names))
        library().call(
            "LGBM_BoosterFeatureImportance", self._handle, _ALL_TREES, _GAIN, _pointer(gains)
        )
        return gains

    def dump(self) -> dict[str, Any]:
        """Return the trees as LightGBM's `Booster.dump_model` does."""
        size = ctypes.c_int64()
        buffer = ctypes.create_string_buffer(1)
        for _ in range(2):  # once to learn how long it is
            library().call(
                "LGBM_BoosterDumpModel",
                self._handle,
                ctypes.c_int(0),
                ctypes.c_int(_ALL_TREES),
                ctypes.c_int(_GAIN),
                ctypes.c_int64(len(buffer)),
                ctypes.byref(size),
                buffer,
            )
            if size.value <= len(buffer):
                break
            buffer = ctypes.create_string_buffer(size.value)
        found: dict[str, Any] = json.loads(buffer.value)
        return found

    def check(self, values: Float64Array) -> None:
        """Refuse rows of another width than the model's.

        Raises
        ------
        DataError
            Giving both shapes.
        """
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise DataError(
                f"features must have the shape (n_rows, {len(self.names)}), had {values.shape}"
            )

    def _ask(self, values: Float64Array, kind: int, width: int) -> Float64Array:
        self.check(values)
        values = np.ascontiguousarray(values, dtype=np.float64)
        answer = np.empty((len(values), width))
        size = ctypes.c_int64()
        if not len(values):
            return answer
        library().call(
            "LGBM_BoosterPredictForMat",
            self._handle,
            _pointer(values),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(values.shape[0]),
            ctypes.c_int32(values.shape[1]),
            ctypes.c_int(_ROW_MAJOR),
            ctypes.c_int(kind),
            ctypes.c_int(0),
            ctypes.c_int(_ALL_TREES),
            b"num_threads=1",
            ctypes.byref(size),
            _pointer(answer),
        )
        if size.value != answer.size:
            raise IntegrityError(
                f"the model must give {width} numbers a row, gave {size.value} for "
                f"{len(values)} rows; it is not one of two classes"
            )
        return answer

    def _feature_names(self) -> tuple[str, ...]:
        count = ctypes.c_int()
        library().call("LGBM_BoosterGetNumFeature", self._handle, ctypes.byref(count))
        length = 1
        while True:  # the first call says how long the longest name is
            buffers = [ctypes.create_string_buffer(length) for _ in range(count.value)]
            pointers = (ctypes.c_void_p * count.value)(*map(ctypes.addressof, buffers))
            found, longest = ctypes.c_int(), ctypes.c_size_t()
            library().call(
                "LGBM_BoosterGetFeatureNames",
                self._handle,
                count,
                ctypes.byref(found),
                ctypes.c_size_t(length),
                ctypes.byref(longest),
                pointers,
            )
            if longest.value <= length:
                return tuple(buffer.value.decode() for buffer in buffers)
            length = longest.value


def _check_text(text: str) -> None:
    """Refuse a text whose trees do not lie where it says.

    LightGBM trusts those places: it would read beyond the end of a text that was cut short, and
    end the process.
    """
    problem = ""
    sizes = re.search(r"^tree_sizes=([\d ]*)$", text, re.MULTILINE)
    first, last = text.find("\nTree=0\n"), text.find("\nend of trees\n")
    if not text.startswith("tree\n"):
        problem = f"began with {text[:20]!r} instead of 'tree'"
    elif sizes is None or min(first, last) < 0:
        problem = "had no list of trees"
    else:
        place = first + 1
        for number, size in enumerate(sizes[1].split()):
            if not text.startswith(f"Tree={number}\n", place):
                problem = f"had no tree {number} at its place"
                break
            place += int(size)
        if not problem and place != last + 1:
            problem = f"had trees up to byte {last + 1} instead of {place}"
    if problem:
        raise IntegrityError(
            f"model text must be LightGBM's, {problem}; use another copy of the bundle"
        )


def _pointer(array: Float64Array) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)
