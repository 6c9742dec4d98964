"""Whether the parts of a configuration can work with one another: what settings alone decide.

Each part checks itself when it is made; this is about what one part needs of another, so that
nobody waits for data or a fit only to hear that it could never have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from catalog.errors import ConfigError
from research.feature_layout import feature_table, layout_faults
from research.fusion import FIRST_WEIGHTS
from research.models.registry import EXPERT_KINDS
from research.staleness import flat_limits

if TYPE_CHECKING:
    from research.settings import WalkForwardConfig

_LEARNED = ("log_pool", "stacking", "regime")
"""Methods of fusion that weigh experts against each other."""


def require_consistent(
    config: WalkForwardConfig, instruments: Sequence[str], interval_ns: int
) -> None:
    """Refuse a configuration whose parts do not fit together.

    Raises
    ------
    ConfigError
        Naming everything that `faults_of` finds.
    """
    faults = faults_of(config, instruments, interval_ns)
    if faults:
        raise ConfigError("\n".join(faults))


def faults_of(
    config: WalkForwardConfig, instruments: Sequence[str], interval_ns: int
) -> tuple[str, ...]:
    """Return what speaks against a configuration, whatever the data may be.

    Parameters
    ----------
    config : WalkForwardConfig
        What the model is.
    instruments : sequence of str
        Instrument ids, in the order of their codes.
    interval_ns : int
        Length of a bar.

    Returns
    -------
    tuple of str
        One sentence a fault, each beginning with the key that it is about; empty if there is none.
    """
    return (
        *layout_faults(instruments, interval_ns, config.features),
        *_label_faults(config),
        *_expert_faults(config),
        *_staleness_faults(config, interval_ns),
    )


def _label_faults(config: WalkForwardConfig) -> Iterator[str]:
    if config.label.kind == "meta":
        yield (
            "label.kind must be forward_sign, volatility_scaled or triple_barrier, was meta: that "
            "label judges trades of a primary model, whose side no setting can give; call "
            "research.labels.compute_labels with a side"
        )


def _expert_faults(config: WalkForwardConfig) -> Iterator[str]:
    try:
        chosen = tuple(config.experts.chosen())
    except ConfigError as error:
        yield str(error)
        return
    names = {feature.name for feature in feature_table(config.features)}
    for name in chosen:
        absent = [feature for feature in EXPERT_KINDS[name].inputs if feature not in names]
        if absent:
            yield (
                f"experts.{name} must have the features {', '.join(absent)}, there are none; "
                f"switch them on (such as features.news) or set experts.{name}: null"
            )
    yield from _fusion_faults(config, chosen)


def _fusion_faults(config: WalkForwardConfig, chosen: tuple[str, ...]) -> Iterator[str]:
    # Here: what fits is not needed by those who only ask whether settings are sound.
    from research.fitting import FALLBACKS

    fusion = config.fusion
    fused = tuple(name for name in chosen if name not in FALLBACKS) or chosen
    if fusion.fixed_weights != FIRST_WEIGHTS:
        unknown = [name for name in fusion.fixed_weights if name not in fused]
        if unknown:
            yield (
                f"fusion.fixed_weights must name experts that are fused ({', '.join(fused)}), "
                f"named {', '.join(unknown)}"
            )
    if fusion.method == "fixed" and not any(fusion.fixed_weights.get(name) for name in fused):
        yield (
            f"fusion.fixed_weights must give one of the fused experts ({', '.join(fused)}) a "
            f"weight for the method fixed, were {fusion.fixed_weights}"
        )
    if fusion.method == "regime" and not config.features.regime:
        yield "fusion.method must be another than regime without features.regime, was regime"
    if fusion.method in _LEARNED and len(fused) == 1:
        yield (
            f"fusion.method must be auto where there is one expert to fuse ({fused[0]}), was "
            f"{fusion.method}, which weighs several"
        )


def _staleness_faults(config: WalkForwardConfig, interval_ns: int) -> Iterator[str]:
    names = [feature.name for feature in feature_table(config.features)]
    try:
        flat_limits(names, config.staleness, interval_ns)
    except ConfigError as error:
        yield str(error)
