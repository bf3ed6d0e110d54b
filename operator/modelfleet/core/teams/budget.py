"""The ledger of one run: money, tokens and calls are reserved before a call leaves and settled after it.

Decided here: whether a call may leave now, later or never, from the run's caps, what was charged and what is open. Integers only; money is micro-dollars
and every call is rounded once, upwards. Who asks, in which order waiting calls are asked again, and what a run does when it is refused is not decided here.
Why it is like this: docs/adr/0011.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from modelfleet.core.teams.ir import BudgetPlan, PriceTable, TokenPrice

__all__ = ["DEFER", "GRANTED", "Amount", "Cap", "Caps", "Ledger", "Open", "Usage", "Verdict", "cost", "reservation", "settled", "unpriced"]

_MILLION = 1_000_000

Cap = Literal["RunCost", "RunTokens", "RunModelCalls", "ProviderOverran"]


def cost(prompt_tokens: int, completion_tokens: int, price: TokenPrice) -> int:
    """Micro-dollars of one call, rounded up. Raises ValueError for negative tokens."""
    if prompt_tokens < 0 or completion_tokens < 0:
        raise ValueError(f"tokens cannot be negative: {prompt_tokens} and {completion_tokens}")
    return -(-(prompt_tokens * price.input_per_million + completion_tokens * price.output_per_million) // _MILLION)


@dataclass(frozen=True, slots=True)
class Amount:
    """Something to reserve or to charge. Raises ValueError unless all three are integers of at least zero."""

    micro_usd: int = 0
    tokens: int = 0
    calls: int = 0

    def __post_init__(self) -> None:
        if not all(type(part) is int and part >= 0 for part in (self.micro_usd, self.tokens, self.calls)):
            raise ValueError(f"an amount is made of integers of at least zero: {self.micro_usd!r}, {self.tokens!r}, {self.calls!r}")

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.micro_usd + other.micro_usd, self.tokens + other.tokens, self.calls + other.calls)

    def less(self, other: Amount) -> Amount:
        """What is left of this without ``other``; never below zero."""
        return Amount(max(0, self.micro_usd - other.micro_usd), max(0, self.tokens - other.tokens), max(0, self.calls - other.calls))

    def within(self, other: Amount) -> Amount:
        """The smaller of both, part by part."""
        return Amount(min(self.micro_usd, other.micro_usd), min(self.tokens, other.tokens), min(self.calls, other.calls))


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a provider reports for one call."""

    prompt_tokens: int
    completion_tokens: int


def reservation(prompt_bound_tokens: int, max_tokens: int, prices: Iterable[TokenPrice]) -> Amount:
    """What one call may take at most: the greatest cost over everything it may reach. Raises ValueError without a price: such a call never leaves."""
    costs = [cost(prompt_bound_tokens, max_tokens, price) for price in prices]
    if not costs:
        raise ValueError("no candidate has a price, so the call cannot be reserved")
    return Amount(max(costs), prompt_bound_tokens + max_tokens, 1)


def settled(usage: Usage, price: TokenPrice) -> Amount:
    """What one call took."""
    return Amount(cost(usage.prompt_tokens, usage.completion_tokens, price), usage.prompt_tokens + usage.completion_tokens, 1)


def unpriced(flavors: Iterable[tuple[str, str]], prices: PriceTable) -> tuple[tuple[str, str], ...]:
    """(pool, flavor) of those without a price, sorted. A call that may reach one of them is refused as PriceUnknown."""
    return tuple(sorted({flavor for flavor in flavors if flavor not in prices}))


@dataclass(frozen=True, slots=True)
class Caps:
    """The most of a run. None: no cap of that kind."""

    micro_usd: int | None
    tokens: int | None
    calls: int | None

    @classmethod
    def of(cls, budget: BudgetPlan) -> Caps:
        """The caps of a plan."""
        return cls(budget.cost_micro_usd, budget.tokens, budget.model_calls)

    def broken_by(self, total: Amount) -> Cap | None:
        """The first cap that a total exceeds."""
        if self.micro_usd is not None and total.micro_usd > self.micro_usd:
            return "RunCost"
        if self.tokens is not None and total.tokens > self.tokens:
            return "RunTokens"
        return "RunModelCalls" if self.calls is not None and total.calls > self.calls else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Granted: the call may leave. Defer: ask again when an open call ended. Refused: it will never fit; ``cap`` says why."""

    kind: Literal["Granted", "Defer", "Refused"]
    cap: Cap | None = None

    @property
    def granted(self) -> bool:
        """Whether the call may leave."""
        return self.kind == "Granted"


GRANTED = Verdict("Granted")
DEFER = Verdict("Defer")


@dataclass(frozen=True, slots=True)
class Open:
    """An open reservation, and how much of it came out of the holdback."""

    amount: Amount
    held: Amount = NOTHING


@dataclass(frozen=True, slots=True)
class Ledger:
    """One run's account; every operation returns the next one. While usage stays within reservations, ``charged + reserved + holdback`` never exceeds a cap.

    Call ids name attempts: a retry is a reservation with an id of its own. ``assumed``: charges that nobody reported. ``overran``: a provider reported more
    than was reserved; from then on only final calls are granted.
    """

    caps: Caps
    holdback: Amount = NOTHING
    charged: Amount = NOTHING
    reserved: Amount = NOTHING
    open_calls: Mapping[str, Open] = field(default_factory=dict)
    assumed: int = 0
    overran: bool = False

    @classmethod
    def open(cls, caps: Caps, holdback: Amount = NOTHING) -> tuple[Ledger, Verdict]:
        """An account with ``holdback`` set aside for the finalizing call (nothing: none is wanted). Refused: the run must not start."""
        broken = caps.broken_by(holdback)
        return cls(caps, holdback), Verdict("Refused", broken) if broken else GRANTED

    def reserve(self, call_id: str, amount: Amount, *, final: bool = False) -> tuple[Ledger, Verdict]:
        """Set ``amount`` aside for one attempt. ``final``: it may use the holdback. Anything but Granted changes nothing. Raises ValueError for an open id."""
        if call_id in self.open_calls:
            raise ValueError(f"call {call_id} is open already")
        if self.overran and not final:
            return self, Verdict("Refused", "ProviderOverran")
        held = self.holdback.within(amount) if final else NOTHING
        kept = self.holdback.less(held)
        if broken := self.caps.broken_by(self.charged + amount + kept):
            return self, Verdict("Refused", broken)
        reserved = self.reserved + amount
        if self.caps.broken_by(self.charged + reserved + kept):
            return self, DEFER
        return replace(self, holdback=kept, reserved=reserved, open_calls={**self.open_calls, call_id: Open(amount, held)}), GRANTED

    def settle(self, call_id: str, actual: Amount | None = None, *, assumed: bool = False) -> Ledger:
        """Charge what an attempt took and free the rest. An id that is not open changes nothing, so settling twice is safe.

        ``assumed``: nobody reported it; ``actual`` is our own estimate, cut to the reservation, or None for all of it. Raises ValueError for None otherwise.
        """
        entry = self.open_calls.get(call_id)
        if entry is None:
            return self
        if actual is None and not assumed:
            raise ValueError(f"call {call_id}: only an assumed charge may be left to the reservation")
        took = entry.amount if actual is None else actual.within(entry.amount) if assumed else actual
        charge = replace(took, calls=entry.amount.calls)
        over = charge.micro_usd > entry.amount.micro_usd or charge.tokens > entry.amount.tokens
        return replace(
            self,
            charged=self.charged + charge,
            reserved=self.reserved.less(entry.amount),
            open_calls=_without(self.open_calls, call_id),
            assumed=self.assumed + assumed,
            overran=self.overran or over,
        )

    def release(self, call_id: str) -> Ledger:
        """Free the reservation of an attempt that cannot have been billed; the holdback gets back what it gave. An id that is not open changes nothing."""
        entry = self.open_calls.get(call_id)
        if entry is None:
            return self
        return replace(self, holdback=self.holdback + entry.held, reserved=self.reserved.less(entry.amount), open_calls=_without(self.open_calls, call_id))

    @property
    def left(self) -> Caps:
        """What ordinary calls may still reserve now, never below zero."""
        spoken_for = self.charged + self.reserved + self.holdback
        return Caps(_left(self.caps.micro_usd, spoken_for.micro_usd), _left(self.caps.tokens, spoken_for.tokens), _left(self.caps.calls, spoken_for.calls))


def _left(cap: int | None, spoken_for: int) -> int | None:
    return None if cap is None else max(0, cap - spoken_for)


def _without(calls: Mapping[str, Open], call_id: str) -> Mapping[str, Open]:
    rest = dict(calls)
    del rest[call_id]
    return rest
