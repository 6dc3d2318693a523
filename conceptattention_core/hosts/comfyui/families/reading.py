"""How concepts are read: the rows of a text encoder that belong to a concept's own words."""

from itertools import takewhile
from typing import Any

from einops import rearrange
from torch import Tensor

from .... import ConceptAttentionError
from ..encoder import expect_rows, misfit
from .positions import with_column

T5 = "t5xxl"
T5_END = 1
CLIPS = ("l", "g", "h")

NOTHING = ("\ue000", "\uf8ff")
"""No letters of any language, and without a byte in common: what a text has in common with both is
the template. An empty text may have another one, or none."""

Tokens = list[tuple]  # (id or vector, weight, ...)

QWEN_VL_8B, QWEN_VL_4B = "qwen3vl_8b", "qwen3vl_4b"
LANGUAGE_MODELS: dict[str, tuple[str, ...]] = {
    "Boogu": (QWEN_VL_8B,),
    "ERNIE-Image": ("ministral3_3b",),
    "Flux.2": ("mistral3_24b", "qwen3_4b", "qwen3_8b"),
    "Hunyuan Video and Image": ("llama", "qwen25_7b"),
    "Ideogram 4": (QWEN_VL_8B,),
    "JoyImage": (QWEN_VL_8B,),
    "Krea 2": (QWEN_VL_4B,),
    "Lens": ("gpt_oss",),
    "LongCat and Ovis": ("qwen25_7b", "qwen3_2b"),
    "Lumina 2": ("gemma2_2b", "gemma3_4b", "gemma"),
    "Mage-Flow": (QWEN_VL_4B,),
    "OmniGen2": ("qwen25_3b",),
    "PixelDiT": ("gemma2_2b",),
    "Qwen-Image": ("qwen25_7b",),
    "Z-Image": ("qwen3_4b",),
}
"""ComfyUI's names of the language models of each family; several have rows of one width."""


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


def read_t5(
    clip: Any, words: list[str], family: str, key: str = T5, end: int = T5_END
) -> list[Tensor]:
    """For each concept the rows of its own tokens, by T5 alone, padded as a prompt is."""
    tokens = tokenize(clip, words)
    expect(key, tokens, clip, family)
    rows = encode(clip, tokens, key, family)
    return [own[: count_until(one[key][0], end)] for own, one in zip(rows, tokens, strict=True)]


def read_template(
    clip: Any,
    words: list[str],
    family: str,
    keys: tuple[str, ...] = (),
    nothing: tuple[str, ...] = NOTHING,
    weighs: bool = True,
) -> list[Tensor]:
    """For each concept the rows of its own tokens inside the prompt's template.

    A last column holds the place of each, see `positions.turns_of`.

    The template is that of the encoder named in `keys`, or of the only one; it is what a text has
    in common with all of `nothing`.

    Language models read from left to right: a word means what it means after the template. Places
    count from the end of the text (the last is -1), because some encoders drop the beginning.
    """
    empty = tokenize(clip, list(nothing), weighs)
    key = _language_model(tuple(empty[0]), keys)
    if key is None:
        raise misfit(family, clip, empty[0], "a language model", "gives the rows of none")
    if _is_of_others(key, family):
        own = " or ".join(f"'{name}'" for name in LANGUAGE_MODELS[family])
        raise misfit(family, clip, empty[0], own, "is another language model")
    read = []
    for one in tokenize(clip, words, weighs):
        rows = encode_one(clip, one)
        ids = one[key][0]
        if len(rows) > len(ids):  # an encoder may drop the beginning of its template
            expect_rows(rows, (len(ids),), key, clip, family)
        own = _span(ids, [one[key][0] for one in empty])
        places = range(own.start - len(ids), own.stop - len(ids))
        if own and len(rows) + places.start < 0:
            raise ConceptAttentionError(
                f"{family} reads concepts with '{key}', which gave {len(rows)} rows for "
                f"{len(ids)} tokens: those of the concept itself are not among them. Connect the "
                "CLIP that encodes the prompt."
            )
        read.append(with_column(rows[[len(rows) + place for place in places]], places))
    return read


def _language_model(found: tuple[str, ...], keys: tuple[str, ...]) -> str | None:
    """Which of the encoders of a CLIP is the language model that gives the rows, if one does."""
    for key in found:
        if key in keys:
            return key if T5 == key or T5 not in found else None  # which gives T5's rows
    only = found[0]
    return only if len(found) == 1 and "t5" not in only and only not in CLIPS else None


def _is_of_others(key: str, family: str) -> bool:
    """Whether other families read with a language model, and this one does not.

    A name that no family has is let in: it may be of a later version of ComfyUI.
    """
    own = LANGUAGE_MODELS.get(family)
    every = {name for names in LANGUAGE_MODELS.values() for name in names}
    return own is not None and key not in own and key in every


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
