"""How people write words for other tools, read as concepts: separators, weights, embeddings."""

import re
from collections.abc import Callable

from .texts import clean_text

SEPARATORS = ",，、،;；؛|｜。\r\n"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"

_OPEN, _CLOSE = "([{（", ")]}）"
_PLAIN = rf"[^{re.escape(_OPEN + _CLOSE)}\n]"
_STRONG = re.compile(rf"[{SEPARATORS}]|(?:^|\s)\.(?=\s|$)")
# Full stops that are glued to their word end it, as in GroundingDINO's "a cat. a dog.", unless ...
_STOP = re.compile(r"(\w+)\.(?:\s+|$)")
_ABBREVIATION = re.compile("[mdsj]r|mrs|ms|ste?|[mf]t|no|vs|prof|gen|capt|etc|approx")

_WEIGHT = re.compile(rf"(?<!\\)[(（]((?:[^()（）]|\([^()]*\))*?)[:：]\s*{NUMBER}\s*[)）]")
# a time of day is none: digits stand before its colon, and a label before those
_COUNT = re.compile(rf"(.*[^\s\d:：]|[^:：]*[^\s:：])\s*[:：]\s*{NUMBER}[)）]*")
_BRACKETS = re.compile(
    rf"(^|[{SEPARATORS}])[ ]*[{re.escape(_OPEN)}]+(?=[^\w{re.escape(_OPEN + _CLOSE)}]*\w)"
    rf"({_PLAIN}+)[{re.escape(_CLOSE)}]+[ ]*(?=$|[{SEPARATORS}])",
    re.MULTILINE,
)
_EMBEDDING = re.compile(r"\bembedding:([^\s,;|)]+)", re.IGNORECASE)
_NETWORK = re.compile(r"<\w+:[^<>\n]*>")
_LIST_MARK = re.compile(r"^[ ]*(?:[-*•–]|\d+[.)])[ ]+", re.MULTILINE)
_QUOTED = re.compile(r'["“„«]([^"“”„«»]*)["”“»]')


def split(text: str) -> list[str]:
    """What stands between commas, semicolons, bars, full stops and line ends, in order.

    A full stop separates where space is around it, or behind it in an entry without a label, but
    not after a single letter, a number or a usual abbreviation ("St. Bernard").
    """
    entries = []
    for entry in _STRONG.split(clean_text(text)):
        entries += [entry] if re.search("[:：]", entry) else _split_at_stops(entry)
    return list(filter(None, map(str.strip, entries)))


def _split_at_stops(entry: str) -> list[str]:
    parts, start = [], 0
    for stop in _STOP.finditer(entry):
        word = stop[1]
        if len(word) > 1 and not word.isdigit() and not _ABBREVIATION.fullmatch(word.casefold()):
            parts.append(entry[start : stop.end(1)])
            start = stop.end()
    return [*parts, entry[start:]]


def read_entries(text: str) -> tuple[list[str], list[str]]:
    """The entries of a text without what is meant for prompts, and notices of what was left out."""
    text = _LIST_MARK.sub("", text)
    text, networks = _replace(_NETWORK, text, lambda found: "")
    text, embeddings = _replace(_EMBEDDING, text, lambda found: found[1])
    text, weights = _replace(_WEIGHT, text, lambda found: found[1])
    text, brackets = _replace(_BRACKETS, text, lambda found: found[1] + found[2])
    entries = [_unquote(entry) for entry in split(text)]
    for i, entry in enumerate(entries):
        if found := _COUNT.fullmatch(entry):
            entries[i] = found[1]
            weights.append((entry, found[1]))
        entries[i] = re.sub(r"\\([()\[\]{}])", r"\1", entries[i])
    notices = [
        f"{kind} are for prompts and left out: {_name(found)}."
        for kind, found in (
            ("Tags in angle brackets", networks),
            ("Embeddings", embeddings),
            ("Weights and counts", weights),
            ("Brackets around words", brackets),
        )
        if found
    ]
    halves = [entry for entry in entries if not _is_balanced(entry)]
    if halves:
        quoted = ", ".join(f"'{entry}'" for entry in halves)
        notices.append(f"A bracket lacks its other half and is read as it is written: {quoted}.")
    return [entry for entry in entries if entry], notices


def _unquote(entry: str) -> str:
    found = _QUOTED.fullmatch(entry)
    return found[1].strip() if found else entry


def _replace(
    pattern: re.Pattern[str], text: str, by: Callable[[re.Match[str]], str]
) -> tuple[str, list[tuple[str, str]]]:
    """The text with all that matches replaced, inside of one another, too, and what was how."""
    done: list[tuple[str, str]] = []

    def once(found: re.Match[str]) -> str:
        done.append((found[0].strip(SEPARATORS + " "), by(found).strip(SEPARATORS + " ")))
        return by(found)

    while True:
        text, count = pattern.subn(once, text)
        if not count:
            return text, done


def _name(found: list[tuple[str, str]]) -> str:
    shown = [f"'{was}' is read as '{now}'" if now else f"'{was}'" for was, now in found[:4]]
    return ", ".join(shown) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def _is_balanced(entry: str) -> bool:
    return all(entry.count(left) == entry.count(right) for left, right in zip(_OPEN, _CLOSE))
