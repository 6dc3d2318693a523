"""Stand-ins for text encoders: one token a word, its vector told by its letters alone.

Only ComfyUI's weight syntax is its own; a word means the same wherever it stands.
"""

import re
from typing import ClassVar

import comfy.sd1_clip
import torch
from torch import Tensor

TEXT_WIDTH = 40
Ids = list[tuple[int, float]]


def number(word: str) -> int:
    return 200 + sum(map(ord, word))


def read(text: str) -> Ids:
    """Tokens and weights of a text, words alone."""
    escaped = comfy.sd1_clip.escape_important(text)
    return [
        (number(word), weight)
        for part, weight in comfy.sd1_clip.token_weights(escaped, 1.0)
        for word in re.findall(r"\w+", comfy.sd1_clip.unescape_important(part))
    ]


def pad(tokens: Ids, length: int, with_: int = 0) -> Ids:
    return [*tokens, *[(with_, 1.0)] * (length - len(tokens))]


def vectors(ids: Ids, width: int = TEXT_WIDTH) -> Tensor:
    """Rows `n d` of tokens."""
    numbers, weights = (torch.tensor(column) for column in zip(*ids))
    waves = torch.arange(1.0, width + 1)
    return torch.sin(numbers[:, None] * waves) * weights[:, None]


class T5Reader:
    """T5 as Flux has it: a text, the end, pads up to a least length."""

    least = 16
    others: ClassVar = {"l": [[(3, 1.0)] * 77]}  # what else it reads, of no concern to concepts

    def tokenize(self, text: str) -> dict[str, list[Ids]]:
        return {**self.others, "t5xxl": [pad([*read(text), (1, 1.0)], self.least)]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        assert return_dict
        return {"cond": vectors([piece for batch in tokens["t5xxl"] for piece in batch])[None]}

    def row(self, word: str) -> Tensor:
        """What a word becomes, `1 d`."""
        return vectors([(number(word), 1.0)])
