"""Prompts of every strategy: instructions in the system message, everything that users and models wrote in one user message; and their sizes in bytes.

What one role's answer may take up in another role's prompt is bounded by cutting it: that is what makes the bounds of ``Strategy.bound`` hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelfleet.core.teams.ir import RolePlan
from modelfleet.core.teams.strategies.protocol import InputSize, Message, Task
from modelfleet.core.teams.tokens import text_bytes

__all__ = [
    "CUT",
    "JOIN",
    "PARTIAL",
    "clip",
    "document_of",
    "input_of",
    "input_size",
    "messages",
    "output_bytes",
    "partial_text",
    "prompt_bytes",
    "question_bytes",
    "question_of",
]

OUTPUT_BYTES_PER_TOKEN = 8
"""What of an answer is passed on, per token it was allowed. European text and code have 3 to 5 bytes a token, Cyrillic and Chinese 4 to 7, Devanagari and Tamil
up to about 9: there the end of an answer that used up all its tokens is cut, with a mark. A proof for every vocabulary would be 128 and price teams out of the
budgets they fit."""

CUT = "\n[cut here]"
"""Ends a text that was longer than its room."""
JOIN = "\n\n"

PARTIAL = (
    "The budget of this run is used up, so this is its last call. Answer as well as the material at hand allows. "
    "Say plainly that the answer is partial, and do not make up what is missing."
)
"""Added to the instructions of a finalizing call."""

_GAP = "\n[...]\n"
_QUESTION_ROOM = 4096
"""Bytes of a question that is the document as well, in prompts that are not about the whole of it: its head and its tail, where people put what they want."""


def messages(role: RolePlan, text: str, more: str = "") -> tuple[Message, ...]:
    """The prompt of a call: the role's instructions and ``more`` of ours, then ``text``."""
    system = JOIN.join(part for part in (role.instructions.strip(), more) if part)
    user = Message("user", text)
    return (Message("system", system), user) if system else (user,)


def prompt_bytes(prompt: Iterable[Message]) -> int:
    """Bytes of a prompt's texts as UTF-8."""
    return sum(text_bytes(message.content) for message in prompt)


def output_bytes(role: RolePlan) -> int:
    """The most that one answer of a role takes up in another's prompt."""
    return role.max_tokens * OUTPUT_BYTES_PER_TOKEN


def clip(text: str, room: int) -> str:
    """A text of at most ``room`` bytes; one that was cut says so, if there is room to say it."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= room:
        return text
    mark = CUT if room >= len(CUT) else ""
    return _head(data, room - len(mark)) + mark


# --- the task ---


def document_of(task: Task) -> str:
    """What a mapReduce reads: the texts before the question, or the question if there are none."""
    return _before(task) or task.question


def input_of(task: Task) -> str:
    """What ``${input}`` stands for: the texts before the question, then the question."""
    return JOIN.join(text for text in (*task.context, task.question) if text)


def question_of(task: Task) -> str:
    """The question where the document is dealt with apart: whole, or its head and tail if it is the document as well."""
    data = task.question.encode("utf-8", "surrogatepass")
    if _before(task) or len(data) <= _QUESTION_ROOM:
        return task.question
    half = (_QUESTION_ROOM - text_bytes(_GAP)) // 2
    return _head(data, half) + _GAP + _tail(data, half)


def input_size(task: Task) -> InputSize:
    """The sizes that ``Strategy.bound`` wants: of the question, and of the texts before it as they are joined."""
    return InputSize(text_bytes(task.question), text_bytes(_before(task)))


def question_bytes(size: InputSize) -> tuple[int, int]:
    """The most and the fewest bytes of ``question_of``."""
    if size.context_bytes or size.question_bytes <= _QUESTION_ROOM:
        return size.question_bytes, size.question_bytes
    # head and tail may each lose a byte to halving and three to a character's border
    return _QUESTION_ROOM, _QUESTION_ROOM - 8


# --- a last call ---


def partial_text(question: str, at_hand: Sequence[tuple[str, str]], room: int) -> str:
    """What a finalizing call is told, in at most ``room`` bytes: the question, then what is at hand, (label, text) in order, whole while it fits."""
    text = f"Question:\n{clip(question, room // 2)}\n\nAt hand:"
    for position, (label, found) in enumerate(at_hand):
        entry = f"\n\n[{label}]\n{found}"
        note = f"\n\n[{len(at_hand) - position} more did not fit]"
        space = room - text_bytes(text) - len(note)
        if text_bytes(entry) <= space:
            text += entry
        elif position:
            text += note
            break
        else:
            # the first is cut rather than left out: half of something is more than nothing
            rest = len(at_hand) - 1
            text += clip(entry, space) + (f"\n\n[{rest} more did not fit]" if rest else "")
            break
    return clip(text, room)


def _before(task: Task) -> str:
    return JOIN.join(text for text in task.context if text)


def _head(data: bytes, room: int) -> str:
    end = max(room, 0)
    while end and end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return data[:end].decode("utf-8", "surrogatepass")


def _tail(data: bytes, room: int) -> str:
    start = len(data) - room
    while start < len(data) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:].decode("utf-8", "surrogatepass")
