"""Templates of chain steps."""

from __future__ import annotations

import pytest

from modelfleet.core.teams.template import Placeholder, TemplateError, parse_template, placeholders, render, text_of


def test_the_three_placeholders() -> None:
    assert parse_template("a ${input} b ${steps.draft.output}${steps.to-check.output.is_ok}") == (
        "a ",
        Placeholder(),
        " b ",
        Placeholder("draft"),
        Placeholder("to-check", "is_ok"),
    )
    assert placeholders("${input} and ${steps.x.output}") == (Placeholder(), Placeholder("x"))


@pytest.mark.parametrize("text", ["", "plain", "$", "$input", "{input}", "costs $5 {really}"])
def test_other_text_is_itself(text: str) -> None:
    assert render(parse_template(text), lambda _: "never") == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${Input}", "${Input} is not known: write ${input}"),
        ("${ input }", "is not known"),
        ("${steps.x}", "is not known"),
        ("${steps.x.output.a.b}", "is not known"),
        ("${steps.X.output}", "is not known"),
        ("${steps.x.output.1}", "is not known"),
        ("${}", "is not known"),
        ("a ${input", "has no closing brace"),
    ],
)
def test_what_cannot_be_read_is_quoted(text: str, said: str) -> None:
    with pytest.raises(TemplateError) as refused:
        parse_template(text)
    assert said in str(refused.value)


def test_what_is_put_in_is_not_read_as_a_template() -> None:
    assert render(parse_template("<${input}>"), lambda _: "${steps.secret.output}") == "<${steps.secret.output}>"


def test_values_as_text() -> None:
    assert [text_of(v) for v in (None, "a\n", True, 1.0, 0.5, ["é", 1], {"b": 1, "a": None})] == ["", "a\n", "true", "1", "0.5", '["é",1]', '{"a":null,"b":1}']
