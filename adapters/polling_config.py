"""Settings of the slow inputs of a live node: what is polled, where, how often, how patiently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from adapters.coinmetrics import metric_unit
from adapters.news import MARKET_WIDE
from catalog.config import Config
from catalog.errors import ConfigError
from catalog.strict_yaml import explain, read_settings

_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_PERPETUAL = re.compile(r"^[A-Z0-9]+-PERP\.[A-Z0-9_]+$")


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"must be a full http(s) address, was {url!r}")
    if parts.username or parts.password:
        # The address is not shown: the name and the password would be, too.
        raise ValueError(
            "must hold neither name nor password, but was an address with them: put them into the "
            "environment and name the variable in headers_from_env"
        )
    return url


def _base_url(url: str) -> str:
    plain = _plain_url(url)
    if urlsplit(url).query or urlsplit(url).fragment:
        raise ValueError(f"must be an address without a query, was {plain!r}: the reader adds it")
    return plain.rstrip("/")


def _variables(names: dict[str, str]) -> dict[str, str]:
    bad = [name for name in names.values() if _VARIABLE.match(name) is None]
    if bad:
        # The value is not shown: it may be the secret itself, written in the wrong place.
        raise ValueError(f"must be names of environment variables, which {len(bad)} were not")
    return names


type Url = Annotated[str, AfterValidator(_plain_url)]
type BaseUrl = Annotated[str, AfterValidator(_base_url)]
type Environment = Annotated[dict[str, str], AfterValidator(_variables)]


class Source(Config):
    """What all readers have in common.

    Polls lie on a grid of wall-clock time: every `every_secs` from midnight UTC on, `offset_secs`
    later, so that what is published on the hour is there soon after, and a random part of
    `spread_secs` later, so that engines beside one another do not ask at once.

    Parameters
    ----------
    every_secs : float
        Time between two polls, seconds.
    offset_secs, spread_secs : float
        Seconds; see above.
    first_secs : float
        How old what is published at the first poll may be, seconds: the last values must be known
        at once, not from their next change on.
    stale_secs : float
        Age of the last record from which on the input counts as stale, seconds.
    query_from_env, headers_from_env : mapping of str to str
        Keys of a paid service: names of query parameters or headers, and the environment
        variables that hold their values. Where there are any, redirects are not followed.
    """

    every_secs: float = Field(ge=0.01, le=86_400.0)
    offset_secs: float = Field(default=3.0, ge=0.0, le=3_600.0)
    spread_secs: float = Field(default=2.0, ge=0.0, le=600.0)
    first_secs: float = Field(gt=0.0)
    stale_secs: float = Field(gt=0.0)
    query_from_env: Environment = Field(default_factory=dict)
    headers_from_env: Environment = Field(default_factory=dict)


class FundingSource(Source):
    """Settled funding rates of Binance's USDT-margined perpetuals.

    Parameters
    ----------
    instruments : tuple of str
        Such as ``BTCUSDT-PERP.BINANCE``.
    base_url : str
        The exchange's REST address, or that of a test exchange.
    """

    instruments: tuple[str, ...] = Field(min_length=1)
    base_url: BaseUrl = "https://fapi.binance.com"
    every_secs: float = Field(default=60.0, ge=0.01, le=86_400.0)
    first_secs: float = Field(default=86_400.0, gt=0.0)
    stale_secs: float = Field(default=9 * 3_600.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _distinct("instruments", self.instruments)
        bad = [name for name in self.instruments if _PERPETUAL.match(name) is None]
        if bad:
            raise ValueError(
                f"instruments must be perpetuals such as BTCUSDT-PERP.BINANCE, were "
                f"{', '.join(bad)}"
            )
        return self


class DvolSource(Source):
    """Deribit's index of implied volatility, by the hour.

    Parameters
    ----------
    currencies : tuple of str
        Lower case, such as ``btc``: the catalog's ``dvol.btc``.
    base_url : str
        The exchange's address, without ``/api/v2``.
    """

    currencies: tuple[str, ...] = ("btc",)
    base_url: BaseUrl = "https://www.deribit.com"
    every_secs: float = Field(default=300.0, ge=0.01, le=86_400.0)
    first_secs: float = Field(default=6 * 3_600.0, gt=0.0)
    stale_secs: float = Field(default=2 * 3_600.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _distinct("currencies", self.currencies)
        _lower_case("currencies", self.currencies)
        return self


class FearGreedSource(Source):
    """The daily Fear & Greed index of alternative.me."""

    base_url: BaseUrl = "https://api.alternative.me"
    every_secs: float = Field(default=900.0, ge=0.01, le=86_400.0)
    first_secs: float = Field(default=2 * 86_400.0, gt=0.0)
    stale_secs: float = Field(default=30 * 3_600.0, gt=0.0)


class OnchainSource(Source):
    """Daily on-chain metrics of Coin Metrics' community API.

    Parameters
    ----------
    assets : tuple of str
        Lower case, such as ``btc``: the catalog's ``coinmetrics.btc``.
    metrics : tuple of str
        The vendor's names, such as ``AdrActCnt``; every asset must have all of them.
    base_url : str
        The service's address, without ``/v4``.
    completion : bool
        Whether to ask for ``AssetEODCompletionTime`` too: when a past day was known. Without it
        history counts as known `publication_delay_hours` after its day
        (`adapters.options.ImportOptions`). What comes live is known when it comes.
    """

    assets: tuple[str, ...] = ("btc",)
    metrics: tuple[str, ...] = Field(min_length=1)
    base_url: BaseUrl = "https://community-api.coinmetrics.io"
    completion: bool = False
    every_secs: float = Field(default=900.0, ge=0.01, le=86_400.0)
    first_secs: float = Field(default=4 * 86_400.0, gt=0.0)
    stale_secs: float = Field(default=42 * 3_600.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _distinct("assets", self.assets)
        _lower_case("assets", self.assets)
        _distinct("metrics", self.metrics)
        unknown = [name for name in self.metrics if metric_unit(name) is None]
        if unknown:
            raise ValueError(
                f"metrics must be ones whose unit is known, were {', '.join(unknown)}; see "
                "adapters.coinmetrics.UNITS"
            )
        return self


class JsonFields(Config):
    """Where a headline's parts stand in a JSON answer; dots lead into objects (``source.title``).

    Parameters
    ----------
    items : str
        The list of headlines; empty if the answer itself is the list.
    headline, published : str
        Text, and time: ISO 8601 text, or seconds or milliseconds since 1970.
    id, source, asset, score : str or None
        Identity, outlet, what it is about, and sentiment in [-1, 1]; None where there is none.
    """

    items: str = ""
    headline: str = "title"
    published: str = "published_at"
    id: str | None = None
    source: str | None = None
    asset: str | None = None
    score: str | None = None


class NewsSource(Source):
    """A feed of headlines: RSS 2.0 and its elders, Atom, JSON Feed, or JSON with a map of fields.

    Parameters
    ----------
    series : str
        The catalog's series that it goes on with: what the features were trained on.
    url : str
        Its address.
    format : {"feed", "json_feed", "json"}
        ``feed`` is RSS or Atom.
    fields : JsonFields
        For ``json``. Of ``json_feed`` only `score` and `asset` are looked at, for extensions such
        as ``_sentiment.score``.
    asset : str
        What headlines are about that do not say so.
    outlet : str or None
        Who publishes it; None: what the feed calls itself.
    max_items : int
        Headlines of one answer that are looked at, the newest by the feed's own order.
    """

    series: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: Url
    format: Literal["feed", "json_feed", "json"] = "feed"
    fields: JsonFields = JsonFields()
    asset: str = Field(default=MARKET_WIDE, min_length=1)
    outlet: str | None = None
    max_items: int = Field(default=500, ge=1, le=5_000)
    every_secs: float = Field(default=120.0, ge=0.01, le=86_400.0)
    first_secs: float = Field(default=86_400.0, gt=0.0)
    stale_secs: float = Field(default=86_400.0, gt=0.0)


class PollLimits(Config):
    """How much a reader takes and how patient it is.

    Parameters
    ----------
    timeout_secs : float
        Longest silence of a server, seconds.
    deadline_secs : float
        Longest time for one body, seconds, however steadily it drips.
    history_secs : float
        Longest time for what all readers have of the past, seconds: an engine that starts waits for
        it.
    max_bytes : int
        Largest body, unpacked.
    backoff_secs, max_backoff_secs : float
        Wait after a failure, seconds; it doubles with each in a row up to the most. A refusal
        (an answer that would be the same again) waits the most at once.
    jitter_frac : float
        Up to this part of a wait is added at random.
    max_skew_secs : float
        How far a server's clock may be ahead of ours, seconds. A record from further ahead is
        refused; a clock that is further off in either direction is told (`InputStatus.skew_secs`).
    """

    timeout_secs: float = Field(default=10.0, gt=0.0)
    deadline_secs: float = Field(default=30.0, gt=0.0)
    history_secs: float = Field(default=20.0, gt=0.0)
    max_bytes: int = Field(default=2_000_000, ge=1_000)
    backoff_secs: float = Field(default=2.0, gt=0.0)
    max_backoff_secs: float = Field(default=300.0, gt=0.0)
    jitter_frac: float = Field(default=0.25, ge=0.0, le=1.0)
    max_skew_secs: float = Field(default=5.0, ge=0.0, le=60.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_backoff_secs < self.backoff_secs:
            raise ValueError(
                f"max_backoff_secs must be at least backoff_secs ({self.backoff_secs:g}), was "
                f"{self.max_backoff_secs:g}"
            )
        return self


class Polling(Config):
    """The slow inputs of a live node. What is None or empty is not polled.

    Parameters
    ----------
    funding, dvol, fear_greed, onchain, news
        The readers.
    limits : PollLimits
        For all of them.
    """

    funding: FundingSource | None = None
    dvol: DvolSource | None = None
    fear_greed: FearGreedSource | None = None
    onchain: OnchainSource | None = None
    news: tuple[NewsSource, ...] = ()
    limits: PollLimits = PollLimits()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _distinct("news", [one.series for one in self.news])
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The series that are polled, named as predictors name them; funding by instrument."""
        found: list[str] = []
        if self.funding is not None:
            found += [f"funding.{name}" for name in self.funding.instruments]
        if self.dvol is not None:
            found += [f"index.dvol.{name}" for name in self.dvol.currencies]
        if self.fear_greed is not None:
            found.append("index.fear_greed")
        if self.onchain is not None:
            assets, metrics = self.onchain.assets, self.onchain.metrics
            found += [f"onchain.coinmetrics.{one}.{name}" for one in assets for name in metrics]
        return (*found, *(f"news.{one.series}" for one in self.news))

    def for_predictor(self, series: tuple[str, ...], funding: tuple[str, ...]) -> Polling:
        """Return these settings with all that a predictor needs and nothing else.

        Readers that are not set are added with their defaults, except news, whose address nobody
        can guess.

        Parameters
        ----------
        series : tuple of str
            `PredictorSpec.series`.
        funding : tuple of str
            Instruments whose funding is needed: none, or those of the predictor.

        Raises
        ------
        ConfigError
            If a series is needed for which there is no reader.
        """
        wanted = [name.split(".") for name in series]
        dvol = tuple(one[2] for one in wanted if one[:2] == ["index", "dvol"] and len(one) == 3)
        chain = [one for one in wanted if one[:2] == ["onchain", "coinmetrics"] and len(one) == 4]
        content: dict[str, Any] = {
            "funding": _with(self.funding, FundingSource, instruments=funding),
            "dvol": _with(self.dvol, DvolSource, currencies=dvol),
            "fear_greed": (self.fear_greed or FearGreedSource())
            if "index.fear_greed" in series
            else None,
            "onchain": _with(
                self.onchain,
                OnchainSource,
                assets=tuple(dict.fromkeys(one[2] for one in chain)),
                metrics=tuple(dict.fromkeys(one[3] for one in chain)),
            ),
            "news": tuple(one for one in self.news if f"news.{one.series}" in series),
        }
        found = Polling(**content, limits=self.limits)
        missing = [name for name in series if name not in found.names]
        if missing:
            raise ConfigError(
                f"slow inputs must have a reader for each series that the predictor looks at, "
                f"lacked {', '.join(missing)}: news are named in the polling settings (news: "
                "[{series: …, url: …}]); of other vendors' series a live node knows nothing, so "
                "use a model without them"
            )
        return found


def _with[Settings: Source](
    given: Settings | None, kind: type[Settings], **wanted: tuple[str, ...]
) -> Settings | None:
    """Return settings for what is wanted, the rest as given or by default; None for nothing."""
    if not all(wanted.values()):
        return None
    content = {} if given is None else given.model_dump()
    return kind(**{**content, **wanted})


def _distinct(name: str, values: tuple[str, ...] | list[str]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name} must be distinct, were {', '.join(values)}")


def _lower_case(name: str, values: tuple[str, ...]) -> None:
    if not values or any(re.fullmatch(r"[a-z0-9]+", one) is None for one in values):
        raise ValueError(f"{name} must be in lower case, such as btc, were {', '.join(values)}")


def load_polling(path: Path) -> Polling:
    """Read the settings of the slow inputs from a YAML file.

    Raises
    ------
    ConfigError
        If it cannot be read, or naming every key that is unknown or wrong.
    """
    try:
        return Polling.model_validate(read_settings(path, "polling settings"))
    except ValidationError as error:
        faults = [explain(fault, Polling, "polling") for fault in error.errors()]
        listed = "\n".join(f"  {text}" for text in faults)
        raise ConfigError(
            f"polling settings {path.name} have {len(faults)} fault(s):\n{listed}"
        ) from None
