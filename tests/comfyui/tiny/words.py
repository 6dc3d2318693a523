"""Stand-ins for text encoders: one token a word, its vector told by its letters alone.

Only ComfyUI's weight syntax is its own; a word means the same wherever it stands.
"""

import re
from typing import ClassVar

import comfy.sd1_clip
import torch
from torch import Tensor

TEXT_WIDTH, POOLED_WIDTH = 40, 24
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


class Reader:
    """What all of them do."""

    def tokenize(self, text: str) -> dict[str, list[Ids]]:
        raise NotImplementedError

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict) -> list:
        rows = self.encode_from_tokens(tokens, return_dict=True)["cond"]
        return [[rows, {"pooled_output": torch.ones(1, POOLED_WIDTH), **add_dict}]]

    def row(self, word: str) -> Tensor:
        """What a word becomes, `1 d`."""
        return vectors([(number(word), 1.0)])


class T5Reader(Reader):
    """T5 as Flux has it: a text, the end, pads up to a least length."""

    least = 16
    others: ClassVar = {"l": [[(3, 1.0)] * 77]}  # what else it reads, of no concern to concepts

    def tokenize(self, text: str) -> dict[str, list[Ids]]:
        return {**self.others, "t5xxl": [pad([*read(text), (1, 1.0)], self.least)]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        assert return_dict
        return {"cond": vectors([piece for batch in tokens["t5xxl"] for piece in batch])[None]}


class TemplateReader(Reader):
    """A language model: a text inside a template, padded to the left or to the right."""

    before: ClassVar[Ids] = [(101, 1.0), (102, 1.0), (103, 1.0)]
    after: ClassVar[Ids] = [(104, 1.0), (105, 1.0)]
    dropped = 0  # rows of the template's beginning that the encoder keeps to itself
    least = 0

    def tokenize(self, text: str) -> dict[str, list[Ids]]:
        words = [(token, 1.0) for token, _ in read(text)]  # such encoders weigh nothing
        return {"llm": [pad([*self.before, *words, *self.after], self.least, 99)]}

    def encode_from_tokens(self, tokens: dict, return_dict: bool = False) -> dict[str, Tensor]:
        assert return_dict
        return {"cond": vectors(tokens["llm"][0])[None, self.dropped :]}


PLACES = (-3, -4, -3, -3)
"""Where the tokens of `common.CONCEPTS` stand in this template, from the end."""


def in_template(positions: Tensor, concepts: int, text: int, patches: int) -> Tensor:
    """Positions `b 1 n d/2 2 2` of a text of concepts, each in the template, and of the picture."""
    assert concepts == len(PLACES)
    places = [text + place for place in PLACES]
    return torch.cat([positions[:, :, places], positions[:, :, text : text + patches]], dim=2)
