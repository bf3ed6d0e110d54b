"""Trails of reasons -> sentences for a person. Nothing is decided here: a sentence only says what the data path found.

Each code of ``DecisionReason`` has one sentence; a test keeps the two complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelfleet.api.conditions import DecisionReason

from .routing.answer import Decision, Step

__all__ = ["DECISION_SENTENCES", "compiled_sentence", "explain_request", "sentence_of"]

DECISION_SENTENCES: Mapping[DecisionReason, str] = {
    DecisionReason.RULE_MATCHED: "rule {subject}: matches",
    DecisionReason.RULE_NOT_MATCHED: "rule {subject}: does not match: {detail}",
    DecisionReason.RULE_PINNED: "rule {subject}: pinned by the entrypoint, so no match is asked for",
    DecisionReason.DEFAULT_CHAIN: "no rule matches: the default chain serves",
    DecisionReason.WEIGHTED: "{subject}: drawn by the session's hash from the weights of rule {detail}, share {have} %",
    DecisionReason.IN_LISTED_ORDER: "rule {subject}: its candidates are tried in the order listed",
    DecisionReason.CONTEXT_TOO_SMALL: "{subject}: dropped, the request needs about {need} tokens of context and it has {have}",
    DecisionReason.NO_TOOLS: "{subject}: dropped, the request brings tools and it takes none",
    DecisionReason.NO_JSON: "{subject}: dropped, the request asks for JSON and it has no JSON mode",
    DecisionReason.NO_VISION: "{subject}: dropped, the request holds an image and it reads none",
    DecisionReason.NOT_PROGRAMMED: "{subject}: not programmed in this gateway: {detail}",
    DecisionReason.NO_CAPABLE_CANDIDATE: "refused: no candidate can serve this request",
    DecisionReason.MALFORMED_BODY: "refused: {detail}",
    DecisionReason.MODEL_MISMATCH: "refused: {detail}",
    DecisionReason.BODY_CUT: "only the head of the body was seen: rules are left out and the default chain serves",
    DecisionReason.DECIDER_LOST: "the decider gave no answer in time: the entrypoint's static chain served",
    DecisionReason.CUT_BY_MAX_ATTEMPTS: "{subject}: {have} of its {need} groups fit into the policy's attempts",
    DecisionReason.GRANTED: "the grant is good: this call may cost at most {have} micro-dollars",
    DecisionReason.GRANT_INVALID: "refused: {detail}",
    DecisionReason.ABOVE_GRANT: "{subject}: not for this grant: {detail}",
    DecisionReason.COMPILED: "Envoy answers by itself, without a decision, by the order compiled from these facts: {detail}",
}
"""One sentence per code."""


def sentence_of(step: Step) -> str:
    """The sentence of one step of a trail."""
    detail = step.detail or ("no route of its name" if step.code is DecisionReason.NOT_PROGRAMMED else "")
    return DECISION_SENTENCES[step.code].format(subject=step.subject or "every candidate", detail=detail, need=step.need, have=step.have)


def explain_request(decision: Decision) -> list[str]:
    """What happened to one request, step by step, and how it ended."""
    lines = [f"model {decision.entrypoint}: policy {decision.policy or '-'}, generation {decision.generation}"]
    lines += [sentence_of(step) for step in decision.trail]
    if decision.refusal is not None:
        lines.append(f"answer: HTTP {decision.refusal.status}, {decision.refusal.message}")
    elif decision.undecided:
        lines.append("answer: as without a decider, the route's own static chain serves, or refuses if its policy says so")
    else:
        lines.append(f"answer: {' then '.join(decision.chain)} (groups {', '.join(dict.fromkeys(decision.groups))}), because {decision.why}")
    return lines


def compiled_sentence(facts: Sequence[str]) -> str:
    """What is said of a request that Envoy answers without asking."""
    return sentence_of(Step(DecisionReason.COMPILED, detail="; ".join(facts)))
