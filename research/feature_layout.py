"""The table of a run's features, and where kernels find and put things for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError
from research import kernel_tools, kernels
from research.feature_config import FeatureConfig
from research.feature_table import (
    BASE_FEATURES,
    CODE_FEATURE,
    FUNDING_FEATURES,
    LEAD_FEATURES,
    PEER_FEATURES,
    Feature,
    ratio_feature,
)
from research.group_drivers import GroupLayout
from research.groups.registry import GroupUse, first_columns, groups_of
from research.inputs import not_one_of
from research.kernel_cache import source_hash
from research.panel_series import PanelNeeds


def feature_table(config: FeatureConfig) -> tuple[Feature, ...]:
    """Return the features of a run in the order of their columns."""
    table = BASE_FEATURES
    if config.funding:
        table += FUNDING_FEATURES
    if config.lead is not None:
        table += LEAD_FEATURES
    if config.peers:
        table += PEER_FEATURES
    table += tuple(ratio_feature(first, second) for first, second in config.ratios)
    for group in groups_of(config):
        table += group.features()
    if config.instrument_code:
        table += (CODE_FEATURE,)
    return table


def panel_needs(config: FeatureConfig) -> PanelNeeds:
    """Return what a panel must hold for these features beside bars: for `load_panel`."""
    from research.groups import slow

    fear_greed = () if config.fear_greed is None else (config.fear_greed,)
    return PanelNeeds(
        funding=config.funding,
        flow=config.flow,
        minutes=config.path,
        onchain=() if config.onchain is None else ((config.onchain, slow.METRICS),),
        indices=(*config.dvol, *fear_greed),
        news=config.news,
        fear_greed=config.fear_greed,
        history_ns=slow.HISTORY_NS,
        funding_history_ns=slow.FUNDING_HISTORY_NS if config.funding_terms else 0,
    )


def feature_table_hash(config: FeatureConfig) -> str:
    """Return the SHA-256 of what decides a feature's value: settings, table, kernels' sources."""
    table = [asdict(feature) for feature in feature_table(config)]
    groups = {group.name: source_hash(*group.sources) for group in groups_of(config)}
    parts = [config.model_dump(mode="json"), table, source_hash(kernels, *kernels.SOURCES), groups]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def layout_faults(
    instruments: Sequence[str], interval_ns: int, config: FeatureConfig
) -> tuple[str, ...]:
    """Return why features cannot be computed for these instruments at this interval.

    Parameters
    ----------
    instruments : sequence of str
        Instrument ids.
    interval_ns : int
        Length of a bar.
    config : FeatureConfig
        The features.

    Returns
    -------
    tuple of str
        One sentence a fault, each beginning with the key that it is about; empty if there is none.
    """
    named = [("features.lead", config.lead)] if config.lead is not None else []
    named += [("features.ratios", name) for pair in config.ratios for name in pair]
    faults = [
        not_one_of(key, name, instruments)
        for key, name in dict.fromkeys(named)
        if name not in instruments
    ]
    if config.peers and len(instruments) < 2:
        faults.append(
            "features.peers must have other instruments to look at, was true for "
            f"{', '.join(instruments)} alone: its features would never be defined; add "
            "instruments or set features.peers: false"
        )
    for use in groups_of(config):
        if use.name == "cross" and config.lead not in instruments:
            continue  # said above
        # Of a list each entry by itself, so that all that are wrong are named.
        parts = use.options if use.name == "timeframes" else ()
        alone = [_group_fault(use, instruments, interval_ns, (part,)) for part in parts]
        found = [fault for fault in alone if fault]
        faults += found or [_group_fault(use, instruments, interval_ns, use.options)]
    return tuple(fault for fault in faults if fault)


def _group_fault(
    use: GroupUse, instruments: Sequence[str], interval_ns: int, options: object
) -> str:
    try:
        use.module.settings(tuple(instruments), interval_ns, options)
    except ConfigError as error:
        return f"features.{str(error).removeprefix('features.')}"
    return ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the kernel finds and puts things for one configuration."""

    names: tuple[str, ...]
    settings: Int64Array
    ratios: Int64Array
    count: int
    groups: tuple[GroupLayout, ...]

    @classmethod
    def of(cls, instruments: Sequence[str], interval_ns: int, config: FeatureConfig) -> Layout:
        """Lay out the columns in the order of `feature_table`.

        Raises
        ------
        ConfigError
            Naming everything for which `layout_faults` says that it cannot be.
        """
        faults = layout_faults(instruments, interval_ns, config)
        if faults:
            raise ConfigError("; ".join(faults))
        names = tuple(feature.name for feature in feature_table(config))
        settings = np.full(kernels.SETTINGS, kernel_tools.NEVER, dtype=np.int64)
        for place, first in (
            (kernels.FUNDING_AT, FUNDING_FEATURES[0].name),
            (kernels.LEAD_AT, LEAD_FEATURES[0].name),
            (kernels.PEERS_AT, PEER_FEATURES[0].name),
            (kernels.CODE_AT, CODE_FEATURE.name),
        ):
            if first in names:
                settings[place] = names.index(first)
        if config.lead is not None:
            settings[kernels.LEAD] = instruments.index(config.lead)
        settings[kernels.RATIO_COUNT] = len(config.ratios)
        if config.ratios:
            settings[kernels.RATIOS_AT] = names.index(ratio_feature(*config.ratios[0]).name)
        codes = [instruments.index(name) for pair in config.ratios for name in pair]
        uses = groups_of(config)
        groups = tuple(
            GroupLayout.of(use, instruments, interval_ns, first)
            for use, first in zip(uses, first_columns(uses, names), strict=True)
        )
        return cls(names, settings, np.array(codes, dtype=np.int64), len(instruments), groups)

    def arrays(self) -> tuple[Float64Array, Int64Array]:
        """Return the state of instruments about which nothing is known."""
        floats = np.zeros((self.count, kernels.FLOATS))
        return floats, np.full((self.count, kernels.INTS), kernel_tools.NEVER, dtype=np.int64)

    def scratch_arrays(self) -> tuple[Int64Array, Float64Array, Float64Array]:
        """Return room for what the kernel needs within one step."""
        shared = np.zeros(kernels.RATIO_VALUES + len(self.ratios) // 2)
        return np.zeros(self.count, dtype=np.int64), np.zeros((self.count + 1, 5)), shared
