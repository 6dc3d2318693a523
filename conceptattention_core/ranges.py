"""Which steps or blocks: `all`, `3`, `2-5`, `10-`, `first 4`, `last 10`, `last half`."""

import re

from . import ConceptAttentionError
from .texts import clean_text

ACCEPTED = "'all', '3', '2-5', '10-', 'first 4', 'last 10' or 'last half'"
MOST_TOLD = 60
"""Characters of a text that a message repeats."""
ANY_NUMBER = 10**6
"""More steps or blocks than any run or model has."""
DEEP = "last half"
"""The blocks that are read unless others are asked for: of Flux's 19 the last nine, as in the
authors' demo. Deep blocks know more (arXiv 2502.04320, figure 7); on the demo model's scenes, too.
"""


def select(text: str, available: int, what: str) -> range:
    """The part of `range(available)` that `text` names; numbers count from 0, ends included.

    `what` is the plural noun for messages ('blocks', 'steps'). `first n` and `last n` take what
    there is when there are fewer than n, `last half` rounds down but takes at least one; every
    other range must lie within what there is.
    """
    asked = " ".join(clean_text(text).lower().split())
    text = text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}..."
    if asked in ("", "all"):
        return range(available)
    if asked == "last half":
        return range(available - max(1, available // 2), available)
    if match := re.fullmatch(r"(first|last) (\d+)", asked):
        count = min(_number(match[2]), available)
        chosen = range(count) if match[1] == "first" else range(available - count, available)
    elif match := re.fullmatch(r"(\d+) ?(?:(-) ?(\d+)?)?", asked):
        start = _number(match[1])
        if match[3]:
            stop = _number(match[3]) + 1
        else:
            stop = available if match[2] else start + 1
        chosen = range(start, stop)
        if stop > available:
            raise ConceptAttentionError(
                f"Asked for {what} '{text}', but there are {available}: 0 to {available - 1}."
            )
    else:
        raise ConceptAttentionError(
            f"Could not read '{text}' as a range of {what}. Accepted: {ACCEPTED}."
        )
    if not chosen:
        raise ConceptAttentionError(
            f"The range '{text}' contains no {what}; there are {available}: 0 to {available - 1}. "
            f"Accepted: {ACCEPTED}."
        )
    return chosen


def check_range(text: str, what: str) -> None:
    """An error unless `select` reads a text, however many there will be to choose from."""
    try:
        select(text, ANY_NUMBER, what)
    except ConceptAttentionError:
        asked = clean_text(text)[:MOST_TOLD]
        raise ConceptAttentionError(
            f"Could not read '{asked}' as a range of {what}. Accepted: {ACCEPTED}."
        ) from None


def _number(digits: str) -> int:
    """A number of any length: beyond nine digits all are more than there can be."""
    return 10**9 if digits[:-9].strip("0") else int(digits[-9:])


def name_span(span: tuple[int, int]) -> str:
    """The first and the last of something, as `select` reads it."""
    first, last = span
    return str(first) if first == last else f"{first}-{last}"


def share_out(count: int, parts: int) -> list[range]:
    """`range(count)` in at most so many parts, in order, at least one and none of them empty."""
    parts = max(1, min(count, parts))
    return [range(i * count // parts, (i + 1) * count // parts) for i in range(parts)]
