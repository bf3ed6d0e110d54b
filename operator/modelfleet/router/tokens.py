"""Tokens of one answer, as Envoy's AI Protocol Manager reports them in an access log.

Decided here: how ``envoy.data.ai.v3.TokenUsage`` is read; the Python protos lack it, so its few fields are declared here. Envoy writes the record
only when a response ended cleanly; what an absent record means is for the reader of the log to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["NAMESPACE", "TokenCounts", "token_counts"]

NAMESPACE: Final = "envoy.ai.token_usage"
"""Key of ``common_properties.metadata.typed_filter_metadata`` under which Envoy puts the record."""

_COMPLETE: Final = 1


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """``cached_input`` is part of ``input``. ``complete`` False: Envoy saw only a part of the answer."""

    input: int
    output: int
    cached_input: int
    complete: bool


def token_counts(record: bytes) -> TokenCounts | None:
    """Read the value of the Any; None where the model server reported no tokens."""
    usage: Any = _TokenUsage.FromString(record)
    if not (usage.HasField("input_tokens") or usage.HasField("output_tokens")):
        return None
    cached = usage.input_token_details.cached_tokens.value
    return TokenCounts(usage.input_tokens.value, usage.output_tokens.value, cached, usage.extraction_status == _COMPLETE)


def _declare() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="modelfleet/token_usage.proto", package="modelfleet.envoy", syntax="proto3")
    number = file.message_type.add(name="Number")
    number.field.add(name="value", number=1, type="TYPE_UINT64", label="LABEL_OPTIONAL")
    details = file.message_type.add(name="Details")
    details.field.add(name="cached_tokens", number=1, type="TYPE_MESSAGE", type_name=".modelfleet.envoy.Number", label="LABEL_OPTIONAL")
    usage = file.message_type.add(name="TokenUsage")
    for name, at, kind in (("input_tokens", 3, "Number"), ("output_tokens", 4, "Number"), ("input_token_details", 6, "Details")):
        usage.field.add(name=name, number=at, type="TYPE_MESSAGE", type_name=f".modelfleet.envoy.{kind}", label="LABEL_OPTIONAL")
    usage.field.add(name="extraction_status", number=9, type="TYPE_INT32", label="LABEL_OPTIONAL")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("modelfleet.envoy.TokenUsage"))


_TokenUsage: Final = _declare()
