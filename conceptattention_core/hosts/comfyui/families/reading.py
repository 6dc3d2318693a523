"""How concepts are read: the rows of a text encoder that belong to a concept's own words."""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from einops import rearrange
from torch import Tensor

from .... import ConceptAttentionError
from ....tokens import ConceptTokens
from ..encoder import expect_rows, misfit

T5 = "t5xxl"
T5_END = 1
CLIPS = ("l", "g", "h")

NOTHING = ("\ue000", "\uf8ff")
"""No letters of any language, and without a byte in common. An empty text may have another
template, or none."""

Tokens = list[tuple]  # (id or vector, weight, ...)


def tokenize(clip: Any, words: list[str], weighs: bool = True) -> list[dict[str, list[Tokens]]]:
    """The tokens of each concept, by encoder; `weighs` says whether it reads weights in a text."""
    return [clip.tokenize(_literal(text) if weighs else text) for text in words]


def expect(key: str, tokens: list[dict[str, list[Tokens]]], clip: Any, family: str) -> None:
    """Refuse a CLIP without the encoder `key` that the family reads with."""
    if key not in tokens[0]:
        raise misfit(family, clip, tokens[0], f"'{key}'", "has no such encoder")


def encode(clip: Any, tokens: list[dict[str, list[Tokens]]], key: str, family: str) -> list[Tensor]:
    """The rows `n d` of each concept, padding included: one for each token that `key` has.

    One call of the text encoder for all, where it reads with nothing but `key` and they have one
    length.
    """
    batch = [one[key][0] for one in tokens]
    if len({len(ids) for ids in batch}) == 1:
        encoded = encode_one(clip, {**tokens[0], key: batch})
        expect_rows(encoded, (len(tokens) * len(batch[0]),), key, clip, family)
        return list(rearrange(encoded, "(c n) d -> c n d", c=len(tokens)))
    encoded = [encode_one(clip, one) for one in tokens]
    for rows, ids in zip(encoded, batch, strict=True):
        expect_rows(rows, (len(ids),), key, clip, family)
    return encoded


def encode_one(clip: Any, tokens: dict[str, list[Tokens]]) -> Tensor:
    """The rows `n d` of a text."""
    return clip.encode_from_tokens(tokens, return_dict=True)["cond"][0]


@dataclass(frozen=True)
class T5Reader:
    """Reads a concept by T5 alone, padded as a prompt is: the rows of its own tokens."""

    key: str = T5
    """What the CLIP calls this encoder."""
    end: int = T5_END
    """The token that ends a text."""

    def read(self, clip: Any, words: list[str], family: str) -> list[ConceptTokens]:
        tokens = tokenize(clip, words)
        expect(self.key, tokens, clip, family)
        rows = encode(clip, tokens, self.key, family)
        return [
            ConceptTokens.of(own[: count_until(one[self.key][0], self.end)])
            for own, one in zip(rows, tokens, strict=True)
        ]


LANGUAGE_MODELS = frozenset(
    {
        *("gemma", "gemma2_2b", "gemma3_4b", "gpt_oss", "llama", "ministral3_3b", "mistral3_24b"),
        *("qwen25_3b", "qwen25_7b", "qwen3_2b", "qwen3_4b", "qwen3_8b"),
        *("qwen3vl_4b", "qwen3vl_8b"),
    }
)
"""ComfyUI's names of all language models that families read with; several have one width."""


@dataclass(frozen=True)
class TemplateReader:
    """Reads a concept by a language model, inside the template of a prompt.

    Language models read from left to right: a word means what it means after the template. Places
    count from the end of the text, because some encoders drop its beginning.
    """

    models: tuple[str, ...] = ()
    """ComfyUI's names of the language models that the family may have; empty: any. A name that no
    family has is let in: it may be of a later version of ComfyUI."""
    among: tuple[str, ...] = ()
    """What the language model is called in a CLIP that may have other encoders, too."""
    empty: tuple[str, ...] = NOTHING
    """Texts without a word: what a text has in common with all of them is the template."""
    weighs: bool = True
    """Whether the tokenizer reads weights in a text, as in `(word:1.2)`."""

    def read(self, clip: Any, words: list[str], family: str) -> list[ConceptTokens]:
        empty = tokenize(clip, list(self.empty), self.weighs)
        key = _language_model(tuple(empty[0]), self.among)
        if key is None:
            raise misfit(family, clip, empty[0], "a language model", "gives the rows of none")
        if self.models and key not in self.models and key in LANGUAGE_MODELS:
            own = " or ".join(f"'{name}'" for name in self.models)
            raise misfit(family, clip, empty[0], own, "is another language model")
        read = []
        for one in tokenize(clip, words, self.weighs):
            rows = encode_one(clip, one)
            ids = one[key][0]
            if len(rows) > len(ids):  # an encoder may drop the beginning of its template
                expect_rows(rows, (len(ids),), key, clip, family)
            own = _span(ids, [one[key][0] for one in empty])
            places = range(own.start - len(ids), own.stop - len(ids))
            if own and len(rows) + places.start < 0:
                raise ConceptAttentionError(
                    f"{family} reads concepts with '{key}', which gave {len(rows)} rows for "
                    f"{len(ids)} tokens: those of the concept itself are not among them. Connect "
                    "the CLIP that encodes the prompt."
                )
            own_rows = rows[[len(rows) + place for place in places]]
            read.append(ConceptTokens.of(own_rows, places))
        return read


def _language_model(found: tuple[str, ...], keys: tuple[str, ...]) -> str | None:
    """Which of the encoders of a CLIP is the language model that gives the rows, if one does."""
    for key in found:
        if key in keys:
            return key if T5 == key or T5 not in found else None  # which gives T5's rows
    only = found[0]
    return only if len(found) == 1 and "t5" not in only and only not in CLIPS else None


def count_until(tokens: Tokens, end: int, start: int = 0) -> int:
    """How many tokens from `start` on stand before `end`; an embedding's tokens are vectors."""
    return sum(1 for _ in takewhile(lambda token: not _is(token, end), tokens[start:]))


def _is(token: tuple, number: int) -> bool:
    return isinstance(token[0], int) and token[0] == number


def _span(tokens: Tokens, empty: list[Tokens]) -> range:
    """What stands between the beginning and the end that a text shares with all the empty ones."""
    spans = [_difference(tokens, template) for template in empty]
    return range(min(span.start for span in spans), max(span.stop for span in spans))


def _difference(tokens: Tokens, empty: Tokens) -> range:
    """What stands between the beginning and the end that a text shares with another."""
    ids, template = ([_known(token) for token in part] for part in (tokens, empty))
    ids_end, template_end = len(ids), len(template)
    if ids[-1] == template[-1]:  # padding fills up to one length, so that its share differs
        ids_end, template_end = ids_end - _run(ids), template_end - _run(template)
    start = _shared(ids, template, min(ids_end, template_end))
    room = min(ids_end, template_end) - start
    stop = ids_end - _shared(ids[:ids_end][::-1], template[:template_end][::-1], room)
    return range(start, stop)


def _known(token: tuple) -> int | None:
    return token[0] if isinstance(token[0], int) else None


def _run(ids: list) -> int:
    """How many equal ids a list ends with, less one."""
    return sum(1 for _ in takewhile(lambda other: other == ids[-1], reversed(ids))) - 1


def _shared(ids: list, others: list, most: int) -> int:
    pairs = zip(ids[:most], others[:most])
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _literal(words: str) -> str:
    """Keep the tokenizer from reading `(word:1.2)` in a concept as a weight."""
    return words.replace("(", r"\(").replace(")", r"\)")
