"""What a decision is made of: the steps that led to it, a refusal, the answer itself. Nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from modelfleet.api.conditions import DecisionReason

__all__ = ["Decision", "Refusal", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the trail: what was found about ``subject`` (a candidate or a rule). ``need`` and ``have`` are tokens or attempts."""

    code: DecisionReason
    subject: str = ""
    need: int = 0
    have: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The client is told no: HTTP status and an OpenAI error body."""

    status: int
    code: DecisionReason
    message: str

    def body(self) -> bytes:
        """The body as OpenAI clients expect it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return msgspec.json.encode({"error": {"message": self.message, "type": kind, "param": None, "code": str(self.code)}})


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one request. ``chain``: candidates in the order tried; ``groups``: their groups, padded to the policy's attempts.

    No groups and no refusal (``undecided``): there is nothing to say, and the route does what it does without a decider.
    """

    id: str
    entrypoint: str
    policy: str
    generation: int
    rule: str
    why: DecisionReason
    chain: tuple[str, ...]
    groups: tuple[str, ...]
    trail: tuple[Step, ...]
    refusal: Refusal | None = None

    @property
    def undecided(self) -> bool:
        """True when the plan does not hold the route that Envoy picked."""
        return not self.groups and self.refusal is None

    @property
    def header(self) -> str:
        """The value of x-modelfleet-decision."""
        policy = f"{self.policy}/{self.generation}" if self.policy else "-"
        return f"id={self.id};policy={policy};rule={self.rule or '-'};chain={','.join(self.chain)};why={self.why}"
