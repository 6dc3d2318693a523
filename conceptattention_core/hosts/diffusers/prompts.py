"""Which rows of a transformer's call are the prompt's: those that carry the prompt's own text.

Pipelines put passes into calls as they like: the negative prompt before or after, in one call or
in several, with perturbed copies. So the texts are kept as the pipeline encodes them, and rows are
compared with them. Where no text is known, that is said; no row is chosen by its place alone.
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
from .calls import ModelCall

Hook = Callable[[Callable[..., Any], tuple, dict[str, Any], Any], None]
"""Given a method, what it was called with, and what it gave."""


@contextmanager
def observe_method(owner: Any, name: str, hook: Hook) -> Iterator[None]:
    """For the length of the `with` call `hook` after each call of a method of one object."""
    method = getattr(owner, name, None)
    if method is None:
        yield
        return
    own = vars(owner).get(name)  # another recording's, or somebody else's

    @wraps(method)
    def observed(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        hook(method, args, kwargs, result)
        return result

    setattr(owner, name, observed)
    try:
        yield
    finally:
        if vars(owner).get(name) is observed:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


@dataclass(frozen=True)
class EncodedText:
    """One call of `encode_prompt`."""

    words: Any
    """A text or several, or None."""
    given: Tensor | None
    """What the user had encoded already, `b n d`."""
    rows: Tensor
    """`b n d`, of what was asked for."""
    others: tuple[Tensor, ...]
    """`b n d`, of a negative prompt encoded along with it."""

    def is_of(self, words: Any, given: Any) -> bool:
        """Whether this is what a pipeline makes of a `prompt` or of `prompt_embeds`."""
        if words is None:
            return given is not None and self.given is given
        return as_list(self.words) == as_list(words)


def as_list(words: Any) -> Any:
    return [words] if isinstance(words, str) else list(words) if words is not None else None


class Prompts:
    """What a pipeline's prompts were encoded to."""

    def __init__(self) -> None:
        self.inputs: Mapping[str, Any] | None = None
        """The arguments of the pipeline's call."""
        self.new: list[EncodedText] = []
        """Encoded since the last run began."""
        self.positive: Tensor | None = None
        """The prompt, `b n d`, one row for each image of the run."""
        self.others: list[Tensor] = []
        """All else that was encoded, `b n d`."""

    def keep_inputs(
        self, check: Callable[..., Any], args: tuple, kwargs: dict[str, Any], _: Any
    ) -> None:
        """A pipeline checks what it was called with before anything else."""
        self.inputs = inspect.signature(check).bind(*args, **kwargs).arguments

    def keep_encoded(
        self, encode: Callable[..., Any], args: tuple, kwargs: dict[str, Any], encoded: Any
    ) -> None:
        """A text as `encode_prompt` gave it: its rows first."""
        named = inspect.signature(encode).bind(*args, **kwargs).arguments
        rows, *others = encoded if isinstance(encoded, (tuple, list)) else (encoded,)
        if isinstance(rows, Tensor) and rows.ndim == 3:
            like = [x for x in others if isinstance(x, Tensor) and x.ndim == 3]
            negative = tuple(x for x in like if x.shape[-1] == rows.shape[-1])
            text = EncodedText(named.get("prompt"), named.get("prompt_embeds"), rows, negative)
            self.new.append(text)

    def begin_run(self) -> None:
        """Know the prompt among the texts that were encoded; without new ones, it is the last."""
        if not self.new:
            return
        chosen = self._choose()
        self.positive = None if chosen is None else chosen.rows
        self.others = [rows for text in self.new for rows in text.others]
        self.others += [text.rows for text in self.new if text is not chosen]
        self.new = []

    def _choose(self) -> EncodedText | None:
        inputs, texts = self.inputs or {}, self.new
        words, given = inputs.get("prompt"), inputs.get("prompt_embeds")
        fitting = [text for text in texts if text.is_of(words, given)]
        if not fitting:  # pipelines may rewrite the words, but hardly into the negative ones
            words, given = inputs.get("negative_prompt"), inputs.get("negative_prompt_embeds")
            fitting = [text for text in texts if not text.is_of(words, given)]
            if any(not torch.equal(text.rows, fitting[0].rows) for text in fitting):
                return None
        return fitting[0] if fitting else None

    def clear(self) -> None:
        self.__init__()

    def match(self, texts: Tensor) -> list[bool | None]:
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
        self.known = False
        """Whether a call had the prompt's text."""
        self.layout: dict[tuple[int, int], tuple[int, ...]] = {}
        """Rows of the prompt in the n-th call of a step that has so many."""
        self.now: tuple[Tensor, Tensor] | None = None
        """Timestep and latents of the step, one row."""
        self.number = 0
        """Of the call in its step."""
        self.recorded: Tensor | None = None
        """Latents with which the prompt's pass of this step was recorded."""

    def prompt_rows(self, call: ModelCall) -> tuple[int, ...]:
        """The rows of the prompt, one for each image; none where a call is for something else."""
        latents, texts = call.hidden_states, call.encoder_hidden_states
        self._count(call.timestep.flatten()[:1], latents[:1])
        found, key = self.prompts.match(texts), (self.number, len(latents))
        if True in found:
            if not self.known:  # what was taken before, for its place, was not it
                self.layout, self.recorded = dict.fromkeys(self.layout, ()), None
            self.known = True
            count = 0 if self.prompts.positive is None else len(self.prompts.positive)
            own = [i for i, known in enumerate(found) if known]
            rows = choose_rows(own, texts, latents, count)
        elif False in found and None not in found:
            rows = ()
        elif key in self.layout:  # a prompt that is swapped between steps stays where it was
            rows = self.layout[key]
        else:
            rows = () if self.number else rows_as_images(latents)
        self.layout[key] = rows
        chosen = latents[list(rows)]
        if rows and self.recorded is not None and same(self.recorded, chosen):
            return ()  # a copy, perturbed: the prompt's own pass was made
        return rows

    def _count(self, *now: Tensor) -> None:
        again = self.now is not None and all(map(same, now, self.now))
        self.number = self.number + 1 if again else 0
        if not again:
            self.recorded = None
        self.now = (now[0], now[1])

    def clear(self) -> None:
        """Let go of the run's tensors."""
        self.now = self.recorded = None


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and torch.equal(a, b)


def rows_as_images(latents: Tensor) -> tuple[int, ...]:
    """All rows of a call whose texts nobody knows, if each is an image of its own."""
    if len(set(first_equal(list(range(len(latents))), latents))) < len(latents):
        raise ConceptAttentionError(
            "This pipeline puts passes into one call that cannot be told apart: no row of it has "
            "the prompt's text. Record the pipeline that is called, which encodes the prompt."
        )
    return tuple(range(len(latents)))


def choose_rows(own: Sequence[int], texts: Tensor, latents: Tensor, images: int) -> tuple[int, ...]:
    """Of rows with the prompt's text one for each image.

    Of several with the same text and latents the first one counts: perturbed copies come after.
    """
    copies, rest = divmod(len(own), images)
    first = list(zip(first_equal(own, texts), first_equal(own, latents), strict=True))
    rows, seen = [], []
    for pair in first:
        seen.append(pair)
        if seen.count(pair) <= first.count(pair) // max(copies, 1):
            rows.append(own[first.index(pair)] if copies > 1 else own[len(seen) - 1])
    if rest or len(rows) != images:
        raise ConceptAttentionError(
            f"This pipeline puts passes into one call that cannot be told apart: {len(own)} rows "
            f"have the prompt's text, for {images} images."
        )
    return tuple(rows)


def first_equal(rows: Sequence[int], values: Tensor) -> list[int]:
    """For each of some rows the first of them whose values are equal."""
    return [next(i for i in rows if i == j or torch.equal(values[i], values[j])) for j in rows]
