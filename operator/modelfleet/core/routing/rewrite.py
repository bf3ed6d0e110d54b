"""The Lua that runs in front of every upstream, once per attempt: the model's name there, the path there, and nobody's key.

Decided here: what an attempt sends. Request headers are shared by all attempts of a request, so each run starts from what the
client sent (kept in metadata) and removes what the attempt before it left: above all the key of another upstream, and the
length of another body. Not here: the key itself (``credential_injector`` runs after this, from SDS).
The model's value is found by the byte span that the decider or the guard read, else by a bounded walk over the top level, else by its exact text.

The script is one file beside the sockets, written by the router, and a cluster holds only its arguments: Envoy puts a refused cluster
before its reason and cuts the whole at 4,096 bytes, so that a cluster with the script in it would be refused without a word.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Final

__all__ = ["REWRITE_FILE", "REWRITE_SOURCE", "rewrite"]

REWRITE_SOURCE: Final = """local MODEL, PREFIX, HOST, REMOTE, REFUSED = ...
local MINE, READ, DECIDED, GUARDED = "modelfleet.upstream", "modelfleet.request", "envoy.filters.http.ext_authz", "modelfleet.guard"
local MOVES = HOST ~= nil or PREFIX ~= "/v1"

-- Where the value of a key of the top-level object stands: first and last byte. Gives up after 20,000 steps: a hostile body costs little.
local function find(text, wanted)
  local at, depth, key, steps = 1, 0, nil, 0
  while steps < 20000 do
    steps = steps + 1
    local s = text:find('[%[%]{}",]', at)
    if not s then return nil end
    local c = text:sub(s, s)
    at = s + 1
    if c == '"' then
      local e = s
      repeat
        steps = steps + 1
        e = text:find('["\\\\]', e + 1)
        if not e then return nil end
        local stop = text:byte(e) == 34
        if not stop then e = e + 1 end
      until stop or steps >= 20000
      if depth == 1 and key == wanted then return s, e end
      if depth == 1 and key == nil then key = text:sub(s + 1, e - 1) end
      at = e + 1
    elseif c == '{' or c == '[' then
      if depth == 1 and key == wanted then return s, s end
      depth = depth + 1
    elseif c == '}' or c == ']' then
      depth = depth - 1
      if depth < 1 then return nil end
    elseif c == ',' and depth == 1 then
      key = nil
    end
  end
  return nil
end

local function span(text, name, decided)
  local quoted = '"' .. name .. '"'
  local a, b = string.match(decided or "", "^(%d+),(%d+)$")
  if a and text:sub(a + 1, b) == quoted then return a + 1, b + 0 end
  local s, e = find(text, "model")
  if s and text:sub(s, e):gsub("\\\\/", "/") == quoted then return s, e end
  local from, to = text:find('"model":' .. quoted, 1, true)
  if from then return from + 8, to end
  return nil
end

local function with_usage(text)
  local s = find(text, "stream_options")
  if not s then
    return (text:gsub("{", '{"stream_options":{"include_usage":true},', 1))
  end
  if text:sub(s, s) ~= "{" then return text end
  local empty = text:find("^%s*}", s + 1)
  return text:sub(1, s) .. '"include_usage":true' .. (empty and "" or ",") .. text:sub(s + 1)
end

function envoy_on_request(handle)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  local mine = metadata:get(MINE)
  if mine == nil and MOVES then
    mine = { path = headers:get(":path"), host = headers:get(":authority") }
    metadata:set(MINE, "path", mine.path)
    metadata:set(MINE, "host", mine.host)
  end
  headers:remove("authorization")
  -- untouched so far, and meant to stay so: nothing to write
  if mine ~= nil then
    headers:replace(":path", (mine.path:gsub("^/v1", PREFIX, 1)))
    headers:replace(":authority", HOST or mine.host)
  end
  local read = metadata:get(READ) or {}
  if read.model == nil then return end
  local decided = metadata:get(DECIDED) or metadata:get(GUARDED) or {}
  local body = handle:body()
  if body == nil then return end
  local text = body:getBytes(0, body:length())
  local s, e = span(text, read.model, decided.span)
  if s then text = text:sub(1, s - 1) .. '"' .. MODEL .. '"' .. text:sub(e + 1) end
  if read.stream == true and read.usage == nil then text = with_usage(text) end
  body:setBytes(text)
end

-- Without this function Envoy starts no script for the answer.
if REMOTE then
  function envoy_on_response(handle)
    local headers = handle:headers()
    local status = headers:get(":status")
    if status ~= "401" and status ~= "403" then return end
    -- The key is ours: the client cannot mend it and must not read what is said about it.
    handle:streamInfo():dynamicMetadata():set(MINE, "key_refused", REMOTE)
    headers:replace(":status", "502")
    headers:replace("x-modelfleet-key-refused", "1")
    headers:replace("content-type", "application/json")
    headers:remove("www-authenticate")
    handle:body(true):setBytes(REFUSED)
  end
end
"""


REWRITE_FILE: Final = f"rewrite-{hashlib.sha256(REWRITE_SOURCE.encode()).hexdigest()[:12]}.lua"
"""Named by its content: a router of another version never changes the script under a running Envoy."""


@lru_cache(maxsize=4096)
def rewrite(folder: str, *, model: str, prefix: str, host: str | None, remote: str | None, refused: str) -> str:
    """Lua source for one cluster. ``prefix`` replaces ``/v1``; ``host`` None keeps the client's; ``remote`` names an endpoint whose 401 and 403 are hidden."""
    values = (json.dumps(model)[1:-1], prefix.replace("%", "%%"), host, remote, refused)
    arguments = ", ".join("nil" if value is None else _quoted(value) for value in values)
    return f"assert(loadfile({_quoted(f'{folder}/{REWRITE_FILE}')}))({arguments})"


def _quoted(text: str) -> str:
    """A Lua string that cannot be left: every byte that is not plain is written as its number."""
    return '"' + "".join(chr(b) if b < 128 and (chr(b).isalnum() or chr(b) in "-_./: ") else f"\\{b:03d}" for b in text.encode()) + '"'
