"""Text from outside, made fit for names, files, layers and messages."""

import re

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
