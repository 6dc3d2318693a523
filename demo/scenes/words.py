"""The words that scenes show, other names for them, and the colours that captions may name."""

from __future__ import annotations

from types import MappingProxyType

SKIES = ("day", "sunset", "night")
GROUNDS = ("grass", "water", "sand", "snow")
SKY_THINGS = ("sun", "moon", "clouds", "balloon", "mountains")
GROUND_THINGS = ("house", "tree", "boat", "flowers")
WORDS = ("sky", *GROUNDS, *SKY_THINGS, *GROUND_THINGS)
COLOURS = MappingProxyType(
    {
        "red": (216, 58, 52),
        "blue": (58, 104, 214),
        "yellow": (247, 206, 62),
        "green": (66, 166, 90),
        "purple": (142, 84, 192),
        "orange": (243, 142, 50),
        "pink": (243, 138, 180),
        "white": (246, 244, 238),
    }
)
ALIASES = MappingProxyType(
    {
        "grass": ("grass", "meadow"),
        "water": ("water", "lake"),
        "sand": ("sand", "beach"),
        "balloon": ("balloon", "hot-air balloon"),
    }
)
