"""How a run ended -> what an OpenAI client is sent: a completion, chunks of a stream, or an error with its status.

Decided here: status, finish reason and error code of every terminal state, and the ``modelfleet`` block that says what was spent and why it stopped.
Pure: values in, JSON-able values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .records import RunResult

__all__ = ["Answer", "comment", "error_body", "event", "failure"]

_ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    404: "invalid_request_error",
    409: "conflict_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_DONE: Final = ("Succeeded", "PartiallySucceeded")
_CUT_OFF: Final = ("BudgetExhausted", "TimedOut")


@dataclass(frozen=True, slots=True)
class Answer:
    """The words of one run's answer. ``model`` as the client wrote it; ``created`` in Unix seconds."""

    run: str
    revision: str
    model: str
    created: int

    def completion(self, result: RunResult) -> dict[str, Any]:
        """The body of a whole answer. Only for results of which ``failure`` is None."""
        message = {"role": "assistant", "content": result.outcome.answer or "", "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _finish(result), "logprobs": None}
        return self._head("chat.completion") | {"choices": [choice], "usage": _usage(result), "modelfleet": self._block(result)}

    def piece(self, text: str, *, first: bool, usage: bool) -> dict[str, Any]:
        """One chunk of text. ``usage``: the client asked for it, so that every chunk has the field."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}], usage=usage)

    def last(self, result: RunResult, *, usage: bool) -> list[dict[str, Any]]:
        """The chunks that end a stream: the finish reason, then usage if asked for. The very last holds the ``modelfleet`` block."""
        chunks = [self._chunk([{"index": 0, "delta": {}, "finish_reason": _finish(result), "logprobs": None}], usage=usage)]
        if usage:
            chunks.append(self._chunk([], usage=False) | {"usage": _usage(result)})
        chunks[-1]["modelfleet"] = self._block(result)
        return chunks

    def error(self, failed: tuple[int, str, str], result: RunResult) -> dict[str, Any]:
        """An error after the run has started (status, code, sentence), with what was spent."""
        return error_body(*failed) | {"usage": _usage(result), "modelfleet": self._block(result)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.run}", "object": kind, "created": self.created, "model": self.model, "system_fingerprint": self.revision}

    def _chunk(self, choices: list[dict[str, Any]], *, usage: bool) -> dict[str, Any]:
        return self._head("chat.completion.chunk") | {"choices": choices} | ({"usage": None} if usage else {})

    def _block(self, result: RunResult) -> dict[str, Any]:
        outcome = result.outcome
        return {
            "run": self.run,
            "revision": self.revision,
            "state": outcome.state,
            "stopReason": outcome.stop_reason,
            "complete": outcome.state == "Succeeded" and outcome.complete,
            "cost_micro_usd": result.cost_micro_usd,
            "calls": result.calls,
            "usageAssumed": result.assumed,
            "byRole": [
                {
                    "role": used.role,
                    "calls": used.calls,
                    "prompt_tokens": used.prompt_tokens,
                    "completion_tokens": used.completion_tokens,
                    "cost_micro_usd": used.cost_micro_usd,
                }
                for used in result.by_role
            ],
            "budget_left_micro_usd": result.budget_left_micro_usd,
            "report": dict(outcome.report),
        }


def failure(result: RunResult) -> tuple[int, str, str] | None:
    """HTTP status, code and sentence of a run that has no answer to give; None when it has one."""
    outcome = result.outcome
    why = f"stopped as {outcome.state}/{outcome.stop_reason}"
    if outcome.state in _DONE or (outcome.state in _CUT_OFF and outcome.answer is not None):
        return None
    match outcome.state:
        case "BudgetExhausted":
            return 429, "insufficient_quota", f"the run has used up its budget before there was an answer ({why})"
        case "TimedOut":
            return 504, "timeout", f"the run's time was up before there was an answer ({why})"
        case "Cancelled":
            return 409, "run_cancelled", f"the run was cancelled ({why})"
        case _:
            return 503 if outcome.stop_reason == "RoleUnavailable" else 502, "team_failed", f"the team could not answer ({why})"


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI writes them."""
    kind = "insufficient_quota" if code == "insufficient_quota" else _ERROR_TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event of a stream."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + orjson.dumps(data) + b"\n\n"


def comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection from looking dead."""
    return f": {text}\n\n".encode()


def _finish(result: RunResult) -> str:
    return "stop" if result.outcome.state in _DONE else "length"


def _usage(result: RunResult) -> dict[str, Any]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "total_tokens": result.prompt_tokens + result.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
    }
