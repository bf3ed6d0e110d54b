"""Lines of log: one each, whatever is in them."""

from __future__ import annotations

import io
import logging

import pytest

from modelfleet.observability.logging import KeyValueFormatter, say


@pytest.fixture
def lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("modelfleet.test")
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    yield logger, lambda: stream.getvalue().splitlines()
    logger.handlers.clear()


def test_fields_follow_the_message(lines):
    logger, read = lines
    say(logger, logging.INFO, "applied", kind="Deployment", namespace="a", name="b", absent=None, seconds=0.12345, ok=True)
    assert read()[0].endswith("level=info room=test msg=applied kind=Deployment namespace=a name=b seconds=0.123 ok=true")


def test_one_line_whatever_is_said(lines):
    logger, read = lines
    try:
        raise ValueError('a "b"\nc')
    except ValueError:
        logger.exception("bad\r\nthing %s", "x=1")
    say(logger, logging.INFO, 'two\nlines "quoted"', path="a b")
    assert len(read()) == 2
    assert r'msg="two\nlines \"quoted\"" path="a b"' in read()[1]


def test_below_the_level_nothing_is_said(lines):
    logger, read = lines
    say(logger, logging.DEBUG, "x")
    assert read() == []
