"""The kinds of experts there are: their settings, and how each is fitted and loaded.

What fits and what serves is imported when it is first asked for, so that a live process imports
neither torch nor lightgbm, and a run without news no sentiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import model_validator

from catalog.arrays import Int64Array
from catalog.config import Config
from catalog.errors import ConfigError
from research.experts import FitContext, FittedExpert
from research.models.deep.config import LSTMConfig, TFTConfig, TransformerConfig
from research.models.heuristic import HeuristicConfig
from research.models.lightgbm_expert import LightGBMConfig
from research.models.sentiment import SentimentConfig

if TYPE_CHECKING:
    from research.training_table import TrainingTable

type Fit = Callable[[TrainingTable, Int64Array, Any, FitContext], FittedExpert]
type Load = Callable[[Path, tuple[str, ...]], FittedExpert]


@dataclass(frozen=True, slots=True)
class ExpertKind:
    """A kind of expert.

    Parameters
    ----------
    name : str
        Such as ``lightgbm``.
    config : type of Config
        Its settings; they have `identity_hash`.
    fit_module : str
        Module with ``fit(table, rows, config, context)``.
    load_module, load_class : str
        Class with ``load(folder, names)``, or ``load(folder, kind, names)`` for a deep one.
    deep : bool
        Whether it is a sequence model: it reads rows before those it answers, is calibrated on a
        purged tail of its span instead of out of fold, and needs torch to be fitted.
    inputs : tuple of str
        Features without which it has no answer, whose age therefore counts for it; empty for
        those that see everything.
    """

    name: str
    config: type[Config]
    fit_module: str
    load_module: str
    load_class: str
    deep: bool = False
    inputs: tuple[str, ...] = ()


def _deep(name: str, config: type[Config]) -> ExpertKind:
    fit, load = "research.models.deep.fit", "research.models.deep.runtime"
    return ExpertKind(name, config, fit, load, "OnnxExpert", deep=True)


EXPERT_KINDS: Mapping[str, ExpertKind] = {
    kind.name: kind
    for kind in (
        ExpertKind(
            "lightgbm",
            LightGBMConfig,
            "research.models.lightgbm_expert",
            "research.models.lightgbm_serving",
            "LightGBMExpert",
        ),
        _deep("transformer", TransformerConfig),
        _deep("tft", TFTConfig),
        _deep("lstm", LSTMConfig),
        ExpertKind(
            "sentiment",
            SentimentConfig,
            "research.models.sentiment",
            "research.models.sentiment",
            "SentimentExpert",
            inputs=("news_score",),
        ),
        ExpertKind(
            "heuristic",
            HeuristicConfig,
            "research.models.heuristic",
            "research.models.heuristic",
            "HeuristicExpert",
        ),
    )
}
"""All kinds by name, in the order in which they are fitted and shown."""


class ExpertsConfig(Config):
    """Which experts a run has, and their settings; None leaves one out.

    Only those that are named take part; where nothing at all is said, it is the boosted trees.

    Parameters
    ----------
    lightgbm : LightGBMConfig, optional
        Boosted trees.
    transformer, tft, lstm : DeepConfig, optional
        Sequence models.
    sentiment : SentimentConfig, optional
        News alone; needs `features.news`.
    heuristic : HeuristicConfig, optional
        The rule that needs no training.
    """

    lightgbm: LightGBMConfig | None = LightGBMConfig()
    transformer: TransformerConfig | None = None
    tft: TFTConfig | None = None
    lstm: LSTMConfig | None = None
    sentiment: SentimentConfig | None = None
    heuristic: HeuristicConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_named(cls, given: Any) -> Any:
        """Leave the default out where others are named: nobody asked for it."""
        if isinstance(given, Mapping) and given and "lightgbm" not in given:
            return {**given, "lightgbm": None}
        return given

    @model_validator(mode="after")
    def _check_warm_starts(self) -> ExpertsConfig:
        for name in EXPERT_KINDS:
            settings = getattr(self, name)
            if getattr(settings, "warm_start", False) and getattr(settings, "refit", False):
                raise ValueError(
                    f"{name} must not have warm_start and refit together: a refit expert has "
                    "learned its whole span, of which the next fold calibrates on the later part; "
                    "set one of them to false"
                )
        return self

    def chosen(self) -> dict[str, Config]:
        """Return the settings of the experts that there are, by name, in the registry's order.

        Raises
        ------
        ConfigError
            If there is none.
        """
        found = {name: getattr(self, name) for name in EXPERT_KINDS}
        chosen = {name: config for name, config in found.items() if config is not None}
        if not chosen:
            raise ConfigError(
                f"experts must hold at least one of {', '.join(EXPERT_KINDS)}, held none"
            )
        return chosen

    def identity_hashes(self) -> dict[str, str]:
        """Return each expert's hash of everything that can change its result."""
        return {name: cast("Any", config).identity_hash() for name, config in self.chosen().items()}


def expert_kind(name: str) -> ExpertKind:
    """Return a kind by its name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in EXPERT_KINDS:
        raise ConfigError(f"an expert must be one of {', '.join(EXPERT_KINDS)}, was {name!r}")
    return EXPERT_KINDS[name]


def fit_expert(
    name: str, table: TrainingTable, rows: Int64Array, config: Config, context: FitContext
) -> FittedExpert:
    """Fit an expert of a kind.

    Parameters
    ----------
    name : str
        Of the kind.
    table : TrainingTable
        All rows. Of those not in `rows`, a sequence model reads features known before the last
        of `rows`; no label but theirs is read.
    rows : (n_rows,) int64
        Ascending numbers of the training rows.
    config : Config
        Settings of that kind.
    context : FitContext
        Progress, threads, checkpoint, and what a warm start begins from.

    Raises
    ------
    ConfigError
        If there is no such kind, or the settings are another kind's.
    DataError
        If the rows cannot be fitted.
    """
    kind = expert_kind(name)
    if not isinstance(config, kind.config):
        raise ConfigError(
            f"settings of {name} must be a {kind.config.__name__}, were a {type(config).__name__}"
        )
    fit = cast("Fit", import_module(kind.fit_module).fit)
    return fit(table, rows, config, context)


def load_expert(name: str, folder: Path, names: tuple[str, ...]) -> FittedExpert:
    """Load an expert that its `save` wrote; neither torch nor lightgbm is imported.

    Parameters
    ----------
    name : str
        Of the kind.
    folder : Path
        Where it was saved.
    names : tuple of str
        Features that rows will have.

    Raises
    ------
    ConfigError
        If there is no such kind.
    IntegrityError, DataError
        If the files are missing, damaged, or of other features.
    """
    kind = expert_kind(name)
    load = getattr(import_module(kind.load_module), kind.load_class).load
    return cast("FittedExpert", load(folder, name, names) if kind.deep else load(folder, names))
