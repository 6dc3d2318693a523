"""Labels in any script: a font is chosen for each part of a text by the characters it has."""

from functools import lru_cache
from itertools import groupby
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

from ..texts import clean_text

Face: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONTS = (
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "NotoSans-Regular.ttf",
    "DejaVuSans.ttf", "segoeui.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "seguiemj.ttf",
    "NotoEmoji-Regular.ttf", "Symbola.ttf",
)  # fmt: skip
"""Fonts of Linux, Windows and macOS, those that write most first. Bitmaps have one size: none."""
INVISIBLE = " \ufe0e\ufe0f"
INK = (32, 33, 36)


def draw_text(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, anchor: str
) -> None:
    """Draw a label of any scripts; `anchor` is Pillow's, of a line."""
    x, y = at
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * text_width(text, size)
    for part, face in _parts(text, size):
        pen.text((x, y), part, INK, face, anchor=f"l{anchor[1]}")
        x += face.getlength(part)


def text_width(text: str, size: int) -> float:
    """How wide a label is, in pixels."""
    return sum(face.getlength(part) for part, face in _parts(text, size))


@lru_cache(maxsize=256)
def _parts(text: str, size: int) -> list[tuple[str, Face]]:
    """A label cut where its font has to change, each part with its font.

    One that has most of the label writes what it can; some have no letters but those of a script.
    """
    text = clean_text(text).replace("\n", " ")
    names: list[str] = []
    usual = _best(text)
    for one in text:
        if one in INVISIBLE or not one.isprintable():
            names.append(names[-1] if names else usual)
        else:
            names.append(usual if _has(usual, one) else _best(one))
    runs = groupby(zip(names, text, strict=True), key=lambda pair: pair[0])
    return [("".join(one for _, one in run), _open(name, size)) for name, run in runs]


def find_font(text: str, size: int) -> Face:
    """The font that has most of the characters of `text`: Pillow's own or one of FONTS."""
    return _open(_best(text), size)


def _best(text: str) -> str:
    letters = {one for one in text if one.isprintable() and one not in INVISIBLE}
    return max(_found(), key=lambda name: sum(_has(name, letter) for letter in letters))


@lru_cache(maxsize=1)
def _found() -> tuple[str, ...]:
    """Where the fonts are that this system has, before them "" for Pillow's own."""
    found = [""]
    for name in FONTS:
        try:
            found.append(str(ImageFont.truetype(name).path))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=64)
def _open(name: str, size: int) -> Face:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    """Whether a font has a character: those it lacks look like one that nobody has."""
    face = _open(name, 16)
    drawn, box = (
        bytes(face.getmask(one))  # pyright: ignore[reportArgumentType]
        for one in (letter, "\U0010ffff")
    )
    return drawn != box
