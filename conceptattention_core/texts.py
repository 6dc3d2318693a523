"""Text from outside, made fit for names, files, layers and messages."""

import re
import unicodedata

UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters but tab and line feed, unpaired surrogates, byte order marks, non-characters.

XML has no place for them, nor has UTF-8 for surrogates; a terminal obeys control characters.
"""
LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def clean_text(text: str) -> str:
    """Text that can be encoded, drawn and put into any file.

    Line ends of all kinds become line feeds, tabs become spaces. The halves of an emoji that came
    as two characters are joined; a half alone is dropped, as control characters are.
    """
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return UNFIT.sub("", LINE_ENDS.sub("\n", joined).replace("\t", " "))


def escape_text(text: str) -> str:
    r"""Text for a message: what `clean_text` drops is shown by its number, as \ud83d."""
    return UNFIT.sub(lambda one: one[0].encode("unicode_escape").decode("ascii"), text)


def name_files(names: list[str]) -> list[str]:
    """A safe, distinct file name for each concept, letters of any alphabet kept.

    Symbols such as emoji are called what Unicode calls them.
    """
    taken: set[str] = set()
    safe = []
    for i, name in enumerate(names):
        spelt = "".join(map(_spell, unicodedata.normalize("NFKC", name)))
        plain = re.sub(r"[^\w-]+", "_", spelt).strip("_")
        plain = plain[:60] or f"concept_{i}"  # with its ending at most 255 bytes
        if re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", plain):  # Windows keeps these
            plain = f"{plain}_"
        unique, n = plain, 2
        while unique.casefold() in taken:
            unique, n = f"{plain}_{n}", n + 1
        taken.add(unique.casefold())
        safe.append(unique)
    return safe


def _spell(one: str) -> str:
    is_symbol = unicodedata.category(one) == "So"
    return f" {unicodedata.name(one, '').lower()} " if is_symbol else one
