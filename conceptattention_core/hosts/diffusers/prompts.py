"""Which rows of a transformer's call are the prompt's: those that carry the prompt's own text.

Pipelines put passes into calls as they like: the negative prompt before or after, in one call or
in several, with perturbed copies. So the texts are heard as the pipeline encodes them, and rows
are compared with them. Where nothing tells, it is said; no row is taken for its place.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ... import ConceptAttentionError

Hook = Callable[[Callable[..., Any], tuple, dict[str, Any], Any], None]
"""Given a method, what it was called with, and what it gave."""

BATCHED = (
    "hidden_states",
    "timestep",
    "guidance",
    "pooled_projections",
    "encoder_hidden_states",
    "encoder_hidden_states_mask",
    "encoder_attention_mask",
)
"""Arguments of a transformer that have one row for each row of the call."""


@contextmanager
def hear_method(owner: Any, name: str, hook: Hook) -> Iterator[None]:
    """For the length of the `with` call `hook` after each call of a method of one object."""
    method = getattr(owner, name, None)
    if method is None:
        yield
        return
    own = vars(owner).get(name)  # another recording's, or somebody else's

    @wraps(method)
    def heard(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        hook(method, args, kwargs, result)
        return result

    setattr(owner, name, heard)
    try:
        yield
    finally:
        if vars(owner).get(name) is heard:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


@dataclass(frozen=True)
class Text:
    """One call of `encode_prompt`."""

    words: Any  # a text or several, or None
    given: Tensor | None  # encoded by the user
    rows: Tensor  # b n d, of what was asked for
    others: tuple[Tensor, ...]  # b n d, of a negative prompt encoded along with it

    def answers(self, words: Any, given: Any) -> bool:
        """Whether this is what a pipeline makes of a `prompt` or of `prompt_embeds`."""
        if words is None:
            return given is not None and self.given is given
        return as_list(self.words) == as_list(words)


def as_list(words: Any) -> Any:
    return [words] if isinstance(words, str) else list(words) if words is not None else None


class Prompts:
    """What a pipeline's prompts were encoded to."""

    def __init__(self) -> None:
        self.asked: Mapping[str, Any] | None = None  # the arguments of the pipeline's call
        self.fresh: list[Text] = []  # encoded since the last run began
        self.positive: Tensor | None = None  # b n d, one row for each picture of the run
        self.others: list[Tensor] = []  # b n d

    def hear_inputs(
        self, check: Callable[..., Any], args: tuple, kwargs: dict[str, Any], _: Any
    ) -> None:
        """A pipeline checks what it was called with before anything else."""
        self.asked = inspect.signature(check).bind(*args, **kwargs).arguments

    def hear_encoded(
        self, encode: Callable[..., Any], args: tuple, kwargs: dict[str, Any], encoded: Any
    ) -> None:
        """A text as `encode_prompt` gave it: its rows first."""
        named = inspect.signature(encode).bind(*args, **kwargs).arguments
        rows, *others = encoded if isinstance(encoded, (tuple, list)) else (encoded,)
        if isinstance(rows, Tensor) and rows.ndim == 3:
            like = [x for x in others if isinstance(x, Tensor) and x.ndim == 3]
            negative = tuple(x for x in like if x.shape[-1] == rows.shape[-1])
            text = Text(named.get("prompt"), named.get("prompt_embeds"), rows, negative)
            self.fresh.append(text)

    def begin_run(self) -> None:
        """Know the prompt among the texts that were encoded; without new ones, it is the last."""
        if not self.fresh:
            return
        chosen = self._choose()
        self.positive = None if chosen is None else chosen.rows
        self.others = [rows for text in self.fresh for rows in text.others]
        self.others += [text.rows for text in self.fresh if text is not chosen]
        self.fresh = []

    def _choose(self) -> Text | None:
        asked, heard = self.asked or {}, self.fresh
        words, given = asked.get("prompt"), asked.get("prompt_embeds")
        fitting = [text for text in heard if text.answers(words, given)]
        if not fitting:  # pipelines may rewrite the words, but hardly into the negative ones
            words, given = asked.get("negative_prompt"), asked.get("negative_prompt_embeds")
            fitting = [text for text in heard if not text.answers(words, given)]
            if any(not torch.equal(text.rows, fitting[0].rows) for text in fitting):
                return None
        return fitting[0] if fitting else None

    def forget(self) -> None:
        self.__init__()

    def find(self, texts: Tensor) -> list[bool | None]:
        """For each row of `b n d` whether it is the prompt's; None where its text is unknown."""
        positive = () if self.positive is None else self.positive.to(texts)
        others = [row for rows in self.others for row in rows.to(texts)]
        return [
            True
            if any(is_same(row, known) for known in positive)
            else (False if any(is_same(row, known) for known in others) else None)
            for row in texts
        ]


def is_same(row: Tensor, known: Tensor) -> bool:
    """Whether `n d` is a known text, but for zeros that either was padded with."""
    short = min(len(row), len(known))
    if row.shape[1] != known.shape[1] or not torch.equal(row[:short], known[:short]):
        return False
    return not row[short:].any() and not known[short:].any()


class Passes:
    """The passes of a run: which rows of each of its calls are the prompt's."""

    def __init__(self, prompts: Prompts):
        self.prompts = prompts
        self.known = False  # whether a call had the prompt's text
        self.layout: dict[tuple[int, int], tuple[int, ...]] = {}
        """Rows of the prompt in the n-th call of a step that has so many."""
        self.at: tuple[Tensor, Tensor] | None = None  # timestep and latents of the step, one row
        self.number = 0  # of the call in its step
        self.done: Tensor | None = None  # latents with which the prompt's pass was made

    def rows(self, call: Mapping[str, Any]) -> tuple[int, ...]:
        """The rows of the prompt, one for each picture; none where a call is for something else."""
        latents, texts = call["hidden_states"], call["encoder_hidden_states"]
        self._count(call["timestep"].flatten()[:1], latents[:1])
        found, key = self.prompts.find(texts), (self.number, len(latents))
        if True in found:
            if not self.known:  # what was taken before, for its place, was not it
                self.layout, self.done = dict.fromkeys(self.layout, ()), None
            self.known = True
            count = 0 if self.prompts.positive is None else len(self.prompts.positive)
            own = [i for i, known in enumerate(found) if known]
            rows = one_each(own, texts, latents, count)
        elif False in found and None not in found:
            rows = ()
        elif key in self.layout:  # a prompt that is swapped between steps stays where it was
            rows = self.layout[key]
        else:
            rows = () if self.number else by_picture(latents)
        self.layout[key] = rows
        chosen = latents[list(rows)]
        if rows and self.done is not None and same(self.done, chosen):
            return ()  # a copy, perturbed: the prompt's own pass was made
        return rows

    def _count(self, *now: Tensor) -> None:
        again = self.at is not None and all(map(same, now, self.at))
        self.number = self.number + 1 if again else 0
        if not again:
            self.done = None
        self.at = (now[0], now[1])

    def rest(self) -> None:
        """Let go of the run's tensors."""
        self.at = self.done = None


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)


def by_picture(latents: Tensor) -> tuple[int, ...]:
    """All rows of a call whose texts nobody knows, if each is a picture of its own."""
    if len(set(first_equal(list(range(len(latents))), latents))) < len(latents):
        raise ConceptAttentionError(
            "This pipeline puts passes into one call that cannot be told apart: no row of it has "
            "the prompt's text. Record the pipeline that is called, which encodes the prompt."
        )
    return tuple(range(len(latents)))


def one_each(own: Sequence[int], texts: Tensor, latents: Tensor, pictures: int) -> tuple[int, ...]:
    """Of rows with the prompt's text one for each picture.

    Of several with the same text and latents the first one counts: perturbed copies come after.
    """
    copies, rest = divmod(len(own), pictures)
    first = list(zip(first_equal(own, texts), first_equal(own, latents), strict=True))
    rows, seen = [], []
    for pair in first:
        seen.append(pair)
        if seen.count(pair) <= first.count(pair) // max(copies, 1):
            rows.append(own[first.index(pair)] if copies > 1 else own[len(seen) - 1])
    if rest or len(rows) != pictures:
        raise ConceptAttentionError(
            f"This pipeline puts passes into one call that cannot be told apart: {len(own)} rows "
            f"have the prompt's text, for {pictures} pictures."
        )
    return tuple(rows)


def first_equal(rows: Sequence[int], values: Tensor) -> list[int]:
    """For each of some rows the first of them whose values are equal."""
    return [next(i for i in rows if i == j or torch.equal(values[i], values[j])) for j in rows]


def narrow(call: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """What a transformer was called with, of some rows alone."""
    many = len(call["hidden_states"])
    if list(rows) == list(range(many)):
        return dict(call)
    return {
        name: value[list(rows)]
        if name in BATCHED and isinstance(value, Tensor) and value.ndim and len(value) == many
        else value
        for name, value in call.items()
    }
