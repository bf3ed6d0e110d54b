"""How a route finds its requests: by what was read of the body, and by headers."""

from __future__ import annotations

from collections.abc import Sequence

from .wire import REQUEST, Json

__all__ = ["model_match"]


def model_match(model: str, *, stream: bool = False, headers: Sequence[tuple[str, str]] = ()) -> Json:
    """Requests that name this model, stream if so told, and carry these exact headers."""
    asked: list[tuple[str, Json]] = [("model", {"string_match": {"exact": model}})]
    asked += [("stream", {"bool_match": True})] if stream else []
    named = [{"name": name, "string_match": {"exact": value}} for name, value in headers]
    found = [{"filter": REQUEST, "path": [{"key": key}], "value": value} for key, value in asked]
    return {"prefix": "/v1/", "dynamic_metadata": found} | ({"headers": named} if named else {})
