"""How concepts are read: the rows of a text encoder that belong to a concept's own words."""

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .... import ConceptAttentionError


def own_rows(encoded: Tensor, tokenizer: Any, words: list[str], length: int) -> list[Tensor]:
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
    return [rows[: len(kept)][kept] for rows, kept in zip(encoded, own, strict=True)]


def read_template(pipe: Any, words: list[str], length: int, family: str) -> list[Tensor]:
    """For each concept the rows of its own tokens inside the prompt's template.

    A last column holds the place of each, see `places_of`.

    The pipeline makes the template's text itself; its tokens are heard on their way into the
    text encoder. Rows may lack the template's beginning.
    """
    if pipe.text_encoder is None:
        raise ConceptAttentionError(
            f"{family} reads concepts with its language model; this pipeline was loaded without "
            "it. Load it with text_encoder and tokenizer."
        )
    heard: dict[str, Tensor] = {}

    def hear(encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        heard.update(ids=kwargs["input_ids"], mask=kwargs["attention_mask"])

    handle = pipe.text_encoder.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        with torch.no_grad():
            encoded = pipe.encode_prompt(["", *words], max_sequence_length=length)[0]
    finally:
        handle.remove()
    shown = [mask.nonzero().flatten() for mask in heard["mask"]]  # what is no padding
    empty, *texts = (ids[at].tolist() for ids, at in zip(heard["ids"], shown, strict=True))
    end = heard["ids"].shape[1]
    read = []
    for rows, ids, at in zip(encoded[1:], texts, shown[1:], strict=True):
        own = own_span(ids, empty)
        places = at[own.start : own.stop] - end
        read.append(with_column(rows[len(rows) + places], places.tolist()))
    return read


def own_span(ids: list[int], empty: list[int]) -> range:
    """Which tokens of a text do not belong to the template, told from the `empty` text's.

    Neither is padded.
    """
    start = _shared(ids, empty)
    template_rest = len(empty) - start
    end = min(_shared(ids[::-1], empty[::-1]), template_rest, len(ids) - start)
    return range(start, len(ids) - end)


def _shared(ids: list[int], others: list[int]) -> int:
    pairs = zip(ids, others)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def with_column(rows: Tensor, numbers: Iterable[int]) -> Tensor:
    """Rows `t n` and one more column, in which each has a number.

    Rows of concepts are gathered and chosen as one tensor; so their numbers come along.
    """
    column = torch.tensor(list(numbers), dtype=torch.float32, device=rows.device)
    return torch.cat([rows.float(), column[:, None]], dim=1)


def places_of(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without their last column, and where each stands among texts of `lengths`, `b t`.

    The column counts from the end of a text: the last one is -1. A concept stands where it would
    stand as the prompt; in a text that is shorter than its template, at the start.
    """
    ends = rearrange(lengths, "b -> b 1")
    return rows[:, :-1], (ends + rows[:, -1].to(ends)).clamp_min(0)
