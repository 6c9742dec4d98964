"""What an engine may count of its account's money: who pays in, who takes out, who else trades.

An engine with a part of its own (``--equity``) counts with that part and its results, whatever the
account does. One without counts with all of the account, so its books follow what the owner pays in
and takes out. The exchange lists such transfers; each is booked once, and is neither gain nor loss
to daily loss and drawdown. What no transfer explains is taken the smaller way: less in the account
than in the books is a loss, more is told and left alone.

An account that holds less than all engines on it count with is short. Whose books begin or are
given another part is refused then; who goes on says so and opens nothing new. Exits are not asked.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.accounts import AccountReader, AccountState, Transfer
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY
from live.account_claim import AccountClaim, Share
from live.book_owner import commit_books, move_books
from live.engine_parts import EngineParts
from strategies.guard_orders import EntryGate, OrderIntent, Refused
from strategies.risk_policy import RiskPolicy

ACCOUNT_SHORT = "account_short"
TRANSFERS = "transfers"
"""Section of the engine's database with the transfers that its books know."""
DUST_FRAC, DUST_USDT = 0.001, 0.01
"""Less than this part of the account, or than this amount, is no difference: settlements that are
told late, rounding."""
LASTING_SECS = 30.0
"""How long a difference must last before it counts, seconds: what is paid is told within a few."""
ASK_SECS = 60.0
"""At least so long between two questions for transfers, which weigh 30 each, seconds."""
_LOOK_BACK_NS = 7 * NS_PER_DAY


@dataclass(frozen=True, slots=True)
class _Known:
    """The transfers that the books know.

    `ids` are their names with their times, UTC nanoseconds. `amount` is about to be booked, USDT,
    while `before` was what the books said was transferred; None where nothing is.
    """

    ids: dict[str, int] = field(default_factory=dict)
    amount: float = 0.0
    before: float | None = None


def dust_of(balance: float) -> float:
    """Return by how much books and account may differ, USDT."""
    return max(DUST_FRAC * balance, DUST_USDT)


class AccountMoney:
    """The money of one engine on its account.

    Parameters
    ----------
    parts : EngineParts
        Restored; touched on the node's thread only.
    account : AccountReader
        Asked for transfers, from a thread of its own.
    claim : AccountClaim
        Says to other engines what this one counts with.
    now : callable
        The time of the data, UTC nanoseconds.
    teller : Teller
        Told what changes.

    Attributes
    ----------
    short : str
        Why nothing may be opened; "" where there is enough.
    """

    def __init__(
        self,
        parts: EngineParts,
        account: AccountReader,
        claim: AccountClaim,
        now: Callable[[], int],
        teller: Any,
    ) -> None:
        self.short = ""
        self.is_steady: Callable[[], bool] = lambda: True
        self._parts = parts
        self._account = account
        self._claim = claim
        self._now = now
        self._teller = teller
        self._takes_all = parts.request.equity is None
        self._shorts = 0
        self._since: float | None = None
        self._asked_at = -ASK_SECS
        self._answered = -1.0
        self._asking = False
        self._found: tuple[Transfer, ...] | None = None
        self._left_alone = 0.0

    # ---- before the node

    def repair(self) -> None:
        """Book the transfers that an earlier process had noted and not booked."""
        known = self._read()
        if known is None or known.before is None:
            return
        if self._parts.recorder.ledger.transferred == known.before:
            move_books(self._parts, known.amount)
        self._write(_Known(known.ids))

    def begin(self, balance: float, *, fresh: bool) -> None:
        """Book what was transferred since the last process, and take the engine's share.

        Parameters
        ----------
        balance : float
            Of the account's wallet, USDT.
        fresh : bool
            Whether the books begin, or were given another part: they fit the account as it is.

        Raises
        ------
        AdapterError
            If the exchange cannot be asked.
        ConfigError
            If fresh books count with what is not there, or two engines with all of the account.
        """
        if self._takes_all:
            found = self._account.transfers(self._now() - _LOOK_BACK_NS)
            if fresh or self._read() is None:
                self._write(_Known({one.identity: one.ts_ns for one in found}))
            else:
                self._book(found)
        cash = self._parts.recorder.ledger.cash
        with self._claim.alone():
            others = self._claim.others()
            self._require_one_owner(others)
            why = self._why_short(balance, others)
            if why and fresh:
                raise ConfigError(
                    f"--equity of engine {self._parts.request.name} must fit into the account: "
                    f"{why}; give less, or stop others"
                )
            self._claim.share(cash)
        self._say_short(why)

    def _require_one_owner(self, others: Mapping[str, Share]) -> None:
        all_ = sorted(name for name, one in others.items() if one.takes_all)
        if self._takes_all:
            all_ = [self._parts.request.name] if others else []
        if all_:
            raise ConfigError(
                f"engines on one account must share it by --equity, {', '.join(all_)} would count "
                f"with all of it beside {', '.join(sorted({*others, self._parts.request.name}))}: "
                "give each its part"
            )

    # ---- while it runs, on the node's thread

    def look(self, wall_ns: int) -> None:
        """Say what the engine counts with now, and book what was transferred."""
        self._claim.share(self._parts.recorder.ledger.cash)
        found, self._found = self._found, None
        if found is not None:
            self._asking, self._answered = False, self._asked_at
            self._book(found)

    def refused(self) -> Refused | None:
        """Return why nothing may be opened, or None."""
        return Refused(ACCOUNT_SHORT, self.short) if self.short else None

    def judge(self, state: AccountState, settled: bool) -> None:
        """Compare the books with what the account says.

        Parameters
        ----------
        state : AccountState
            Its answer.
        settled : bool
            Whether the books stood still meanwhile.
        """
        if not settled or not self.is_steady():
            return
        if self._takes_all:
            self._follow(state.balance)
        else:
            why = self._why_short(state.balance, self._claim.others())
            self._shorts = self._shorts + 1 if why else 0
            # One answer may be of the time between another engine's fill and its booking.
            if not why or self._shorts > 1:
                self._say_short(why)

    def _follow(self, balance: float) -> None:
        """Bring the books of who counts with all of the account to it."""
        ledger, clock = self._parts.recorder.ledger, time.monotonic()
        gone = balance - ledger.cash
        if abs(gone) <= dust_of(balance):
            self._since, self._left_alone = None, 0.0
            self._say_short("")
            return
        if gone > 0.0:
            self._say_short("")
            if abs(gone - self._left_alone) <= dust_of(balance):
                return
        else:
            self._say_short(
                f"the account holds {balance:,.2f} USDT, the books of "
                f"{self._parts.request.name} say {ledger.cash:,.2f}"
            )
        self._since = since = clock if self._since is None else self._since
        if self._answered - since >= LASTING_SECS:
            self._unexplained(balance, gone)
        elif clock - self._asked_at >= ASK_SECS and not self._asking:
            # At once, and once more before it counts: an exchange may list a transfer late.
            self._ask(clock)

    def _unexplained(self, balance: float, gone: float) -> None:
        """Take the smaller way with what no transfer explains."""
        self._since = None
        ledger = self._parts.recorder.ledger
        text = f"our books say {ledger.cash:,.2f} USDT of cash, the account holds {balance:,.2f}, "
        if gone > 0.0:
            self._left_alone = gone
            text += "and no transfer explains it: the rest is left alone"
        else:
            text += "and no transfer explains it: what is missing is a loss"
            ledger.cash = round(balance, 8)
            commit_books(self._parts)
            self._say_short("")
        self._teller.event("reconcile", text, difference="cash", what="USDT")

    def _why_short(self, balance: float, others: Mapping[str, Share]) -> str:
        own = self._parts.recorder.ledger.cash
        wanted = own + sum(one.cash for one in others.values())
        if wanted <= balance + dust_of(balance):
            return ""
        parts = {**{name: one.cash for name, one in others.items()}, self._parts.request.name: own}
        listed = ", ".join(f"{name} {cash:,.2f}" for name, cash in sorted(parts.items()))
        return (
            f"the account holds {balance:,.2f} USDT and its engines count with {wanted:,.2f} in "
            f"all ({listed})"
        )

    def _say_short(self, why: str) -> None:
        if bool(why) != bool(self.short):
            text = f"{why}: nothing new is opened until it does" if why else "it holds enough again"
            self._teller.event("account", text, level="warning" if why else "info")
        self.short = why

    # ---- transfers

    def _ask(self, clock: float) -> None:
        self._asked_at, self._asking = clock, True
        since = self._now() - _LOOK_BACK_NS
        threading.Thread(target=self._fetch, args=(since,), name="transfers", daemon=True).start()

    def _fetch(self, since: int) -> None:
        try:
            self._found = self._account.transfers(since)
        except Exception as error:
            # Whatever it was: it is asked again, and before that nothing is taken for a loss.
            self._asking = False
            self._teller.event("account", f"the account did not answer: {error}")

    def _book(self, found: tuple[Transfer, ...]) -> None:
        """Book those that the books do not know yet."""
        known = self._read() or _Known()
        fresh = [one for one in found if one.identity not in known.ids]
        if not fresh:
            return
        amount = round(sum(one.amount for one in fresh), 8)
        oldest = self._now() - 2 * _LOOK_BACK_NS
        ids = {name: ts for name, ts in known.ids.items() if ts >= oldest}
        ids |= {one.identity: one.ts_ns for one in fresh}
        ledger = self._parts.recorder.ledger
        # An end of the process from here on: the next one sees by `before` what is still to do.
        self._write(_Known(ids, amount, ledger.transferred))
        move_books(self._parts, amount)
        self._write(_Known(ids))
        self._since = None
        done = "paid in" if amount > 0.0 else "taken out"
        self._teller.event(
            "equity",
            f"{abs(amount):,.2f} USDT were {done}, the books count with {ledger.cash:,.2f} from "
            "now on: no gain and no loss",
        )

    def _read(self) -> _Known | None:
        text = self._parts.store.read(TRANSFERS)
        return None if text is None else _Known(**json.loads(text))

    def _write(self, known: _Known) -> None:
        self._parts.store.write(TRANSFERS, asdict(known), durable=True)


class AccountGate:
    """An `EntryGate` in front of another: nothing new while something ails the account.

    Parameters
    ----------
    checks : tuple of callable
        Each returns why nothing may be opened, or None.
    then : EntryGate or None
        Asked where nothing does.
    """

    def __init__(
        self, checks: tuple[Callable[[], Refused | None], ...], then: EntryGate | None = None
    ) -> None:
        self._checks = checks
        self._then = then

    def why(self) -> str:
        """Return in words why nothing may be opened; "" if nothing ails the account."""
        return "; ".join(one.detail for one in (check() for check in self._checks) if one)

    def admit(self, policy: RiskPolicy, intent: OrderIntent) -> Refused | None:
        """Return why an order that adds risk may not leave, or None."""
        for check in self._checks:
            refused = check()
            if refused is not None:
                return refused
        return None if self._then is None else self._then.admit(policy, intent)

    def hold(self, occupied: Mapping[str, tuple[bool, bool]]) -> None:
        """Pass on what is held and under way."""
        if self._then is not None:
            self._then.hold(occupied)
