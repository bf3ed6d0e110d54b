"""The one look at a body on a route that needs no decider: may it hold what could change the answer? Then the decider is asked after all.

Decided here: nothing about models. A few searches for plain text, in Lua inside Envoy and the same in Python for explanations and tests. Unsure counts as
yes: a body that spells letters as escapes, says ``"model"`` more than once, or has its name written in another way than plainly. What passes has its
model's name where this file says, so the rewrite in front of the upstream needs no search of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final

from .ir import Watchwords

__all__ = ["GUARD", "GUARD_SOURCE", "may_need_decider", "watch"]

GUARD: Final = "modelfleet.guard"
"""The filter, and the namespace of what it is told (of the route) and tells (of the request: ``skip``, ``span``)."""

GUARD_SOURCE: Final = r"""local READ, MINE = "modelfleet.request", "modelfleet.guard"
local LIMITS = {'"max_tokens"', '"max_completion_tokens"'}

local function tokens(text)
  local most = math.ceil(#text / 4)
  for _, word in ipairs(LIMITS) do
    local at = 1
    while true do
      local from, to = text:find(word, at, true)
      if from == nil then break end
      local digits = text:match("^%s*:%s*(%d+)%s*[,}]", to + 1)
      if digits == nil then return math.huge end
      most, at = most + tonumber(digits), to + 1
    end
  end
  return most
end

local function has(text, word)
  return text:find(word, 1, true) ~= nil
end

local function plain(text, watch)
  if has(text, "\\u00") and text:find("\\u00[4-7]") then return false end
  if watch.tools and (has(text, '"tools"') or has(text, '"functions"')) then return false end
  if watch.json and has(text, '"response_format"') then return false end
  if watch.images and has(text, '"type"') and (text:find('"type"%s*:%s*"[^"\\]*image') or text:find('"type"%s*:%s*"[^"\\]*\\')) then return false end
  return not (watch.limit and watch.limit > 0 and tokens(text) > watch.limit)
end

function envoy_on_request(handle)
  local watch = handle:metadata():get("watch")
  if watch == nil then return end
  local body = handle:body()
  -- what was fetched before the body had to be waited for would be out of its scope
  local metadata = handle:streamInfo():dynamicMetadata()
  local read = metadata:get(READ)
  if read == nil or read.model == nil or body == nil then return end
  local text = body:getBytes(0, body:length())
  local from, to = text:find('"model"', 1, true)
  if from == nil or text:find('"model"', to, true) then return end
  local first, last = text:match('^%s*:%s*()"[^"\\]*"()', to + 1)
  if first == nil or text:sub(first, last - 1) ~= '"' .. read.model .. '"' then return end
  if not plain(text, watch) then return end
  metadata:set(MINE, "skip", true)
  metadata:set(MINE, "span", (first - 1) .. "," .. (last - 1))
end
"""

_NAME: Final = re.compile(rb'[ \t\n\r\v\f]*:[ \t\n\r\v\f]*("[^"\\]*")')
_LIMIT: Final = re.compile(rb"[ \t\n\r\v\f]*:[ \t\n\r\v\f]*([0-9]+)[ \t\n\r\v\f]*[,}]")
_IMAGE: Final = re.compile(rb'"type"[ \t\n\r\v\f]*:[ \t\n\r\v\f]*"[^"\\]*(image|\\)')
_ESCAPED: Final = re.compile(rb"\\u00[4-7]")
_LONGEST_NUMBER: Final = 15


def watch(words: Watchwords) -> dict[str, Any]:
    """What a route tells the filter."""
    return {"tools": words.tools, "json": words.json, "images": words.images, "limit": words.limit}


def may_need_decider(words: Watchwords, model: str, body: bytes) -> bool:
    """What the filter finds of a body: True where the decider is asked."""
    parts = body.split(b'"model"')
    name = _NAME.match(parts[1]) if len(parts) == 2 else None
    if name is None or name[1] != b'"' + model.encode() + b'"' or _ESCAPED.search(body):
        return True
    if words.tools and (b'"tools"' in body or b'"functions"' in body):
        return True
    if words.json and b'"response_format"' in body:
        return True
    if words.images and _IMAGE.search(body):
        return True
    return bool(words.limit) and _tokens(body) > words.limit


def _tokens(body: bytes) -> float:
    most: float = -(-len(body) // 4)
    for word in (b'"max_tokens"', b'"max_completion_tokens"'):
        for rest in body.split(word)[1:]:
            digits = _LIMIT.match(rest)
            if digits is None or len(digits[1]) > _LONGEST_NUMBER:
                return float("inf")
            most += int(digits[1])
    return most
