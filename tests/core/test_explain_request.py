"""Every code of a decision has one sentence."""

from __future__ import annotations

import pytest

from modelfleet.api.conditions import DecisionReason
from modelfleet.core.explain import DECISION_SENTENCES, sentence_of
from modelfleet.core.routing.decide import Step

TOLD = {
    DecisionReason.RULE_MATCHED: "rule s: matches",
    DecisionReason.RULE_NOT_MATCHED: "rule s: does not match: d",
    DecisionReason.RULE_PINNED: "rule s: pinned by the entrypoint, so no match is asked for",
    DecisionReason.DEFAULT_CHAIN: "no rule matches: the default chain serves",
    DecisionReason.WEIGHTED: "s: drawn by the session's hash from the weights of rule d, share 5 %",
    DecisionReason.IN_LISTED_ORDER: "rule s: its candidates are tried in the order listed",
    DecisionReason.CONTEXT_TOO_SMALL: "s: dropped, the request needs about 9 tokens of context and it has 5",
    DecisionReason.NO_TOOLS: "s: dropped, the request brings tools and it takes none",
    DecisionReason.NO_JSON: "s: dropped, the request asks for JSON and it has no JSON mode",
    DecisionReason.NO_VISION: "s: dropped, the request holds an image and it reads none",
    DecisionReason.NOT_PROGRAMMED: "s: not programmed in this gateway: d",
    DecisionReason.NO_CAPABLE_CANDIDATE: "refused: no candidate can serve this request",
    DecisionReason.MALFORMED_BODY: "refused: d",
    DecisionReason.MODEL_MISMATCH: "refused: d",
    DecisionReason.BODY_CUT: "only the head of the body was seen: rules are left out and the default chain serves",
    DecisionReason.DECIDER_LOST: "the decider gave no answer in time: the entrypoint's static chain served",
    DecisionReason.CUT_BY_MAX_ATTEMPTS: "s: 5 of its 9 groups fit into the policy's attempts",
    DecisionReason.GRANTED: "the grant is good: this call may cost at most 5 micro-dollars",
    DecisionReason.GRANT_INVALID: "refused: d",
    DecisionReason.ABOVE_GRANT: "s: not for this grant: d",
    DecisionReason.COMPILED: "Envoy answers by itself, without a decision, by the order compiled from these facts: d",
}


@pytest.mark.parametrize("code", list(DecisionReason))
def test_each_code_has_its_sentence(code: DecisionReason) -> None:
    assert sentence_of(Step(code, "s", need=9, have=5, detail="d")) == TOLD[code]


def test_no_sentence_has_lost_its_code() -> None:
    assert set(DECISION_SENTENCES) == set(DecisionReason)
    assert len(set(DECISION_SENTENCES.values())) == len(DECISION_SENTENCES) - 2  # MalformedBody, ModelMismatch and GrantInvalid only say what was found
