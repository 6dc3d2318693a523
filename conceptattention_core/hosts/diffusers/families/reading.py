"""How concepts are read: the rows of a text encoder that belong to a concept's own words."""

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ....tokens import ConceptTokens


def own_tokens(
    encoded: Tensor, tokenizer: Any, words: list[str], length: int
) -> list[ConceptTokens]:
    """Of rows `c n d` those of each text's own tokens: no padding, no start, no end."""
    tokens = tokenizer(
        words,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    own = tokens["special_tokens_mask"].to(encoded.device) == 0
    return [
        ConceptTokens.of(rows[: len(kept)][kept]) for rows, kept in zip(encoded, own, strict=True)
    ]


def read_template(pipe: Any, words: list[str], length: int) -> list[ConceptTokens]:
    """For each concept its own tokens inside the prompt's template, with their places.

    The pipeline makes the template's text itself; the ids of its tokens are taken on their way into
    the text encoder. Rows may lack the template's beginning.
    """
    inputs: dict[str, Tensor] = {}

    def keep_inputs(encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs.update(ids=kwargs["input_ids"], mask=kwargs["attention_mask"])

    handle = pipe.text_encoder.register_forward_pre_hook(keep_inputs, with_kwargs=True)
    try:
        with torch.no_grad():
            encoded = pipe.encode_prompt(["", *words], max_sequence_length=length)[0]
    finally:
        handle.remove()
    unpadded = [mask.nonzero().flatten() for mask in inputs["mask"]]
    empty, *texts = (ids[at].tolist() for ids, at in zip(inputs["ids"], unpadded, strict=True))
    end = inputs["ids"].shape[1]
    read = []
    for rows, ids, at in zip(encoded[1:], texts, unpadded[1:], strict=True):
        own = own_span(ids, empty)
        places = at[own.start : own.stop] - end
        read.append(ConceptTokens.of(rows[len(rows) + places], places.tolist()))
    return read


def own_span(ids: list[int], empty: list[int]) -> range:
    """Which tokens of a text do not belong to the template, as the `empty` text's show.

    Neither is padded.
    """
    start = _count_equal(ids, empty)
    template_rest = len(empty) - start
    end = min(_count_equal(ids[::-1], empty[::-1]), template_rest, len(ids) - start)
    return range(start, len(ids) - end)


def _count_equal(ids: list[int], others: list[int]) -> int:
    """How many tokens two texts have in common at their start."""
    pairs = zip(ids, others)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
