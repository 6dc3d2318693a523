"""All that touches diffusers while a pipeline samples. Nothing of it is copied or replaced.

For the length of a `with`, `record` hangs hooks around each call of the transformer; for the length
of such a call, on its joint blocks, where the image's projections are heard as they come out and
its attended vectors as they go into the output projection. There the concepts take their step.
Modules and not attention processors, because all processors (IP-Adapter's, fused ones), attention
backends, adapters, quantized layers and off-loading call these modules, in every version. Call by
call, because adapters and caches put others in their place.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ... import ConceptAttentionError
from ...attention import step
from ...locating import Enough
from ...ranges import select
from ...recording import Grid, Recording, RecordSpec, board
from .families import find
from .families.base import Ride
from .obstacles import describe, hint, refuse_compiled, refuse_demands
from .prompts import Prompts, hear_method, narrow
from .run import Run, Tour

PROJECTIONS = ("to_q", "to_k", "to_v")
FUSED = "to_qkv"


@contextmanager
def record(
    pipe: DiffusionPipeline,
    spec: RecordSpec,
    *,
    max_sequence_length: int | None = None,
    strict: bool = False,
) -> Iterator["Listener"]:
    """Record `spec` whenever `pipe` samples inside this `with`::

        with record(pipe, RecordSpec(parse("balloon, sky"))) as listener:
            image = pipe("a balloon in the sky").images[0]
        maps = read_maps(listener.recording())

    Give `max_sequence_length` here where the pipeline is called with it. CogVideoX 1.5 may sample
    padding in front of a video, and only its length tells: `recording().of_length(len(frames))`.

    What is known to be impossible is refused here, by `ConceptAttentionError`. Whatever goes wrong
    later does not reach the pipeline: the picture is painted, and `recording()` says why there are
    no maps. With `strict` it is raised where it happens.
    """
    listener = Listener(pipe, plan(pipe, spec, max_sequence_length), strict=strict)
    with ExitStack() as hooks:
        hooks.callback(listener.rest)
        for handle in hang_on_calls(listener):
            hooks.callback(handle.remove)
        for name, hook in (
            ("check_inputs", listener.prompts.hear_inputs),
            ("encode_prompt", listener.prompts.hear_encoded),
        ):
            hooks.enter_context(hear_method(pipe, name, listener.hook(hook, before_run=True)))
        yield listener


def plan(pipe: DiffusionPipeline, spec: RecordSpec, length: int | None) -> Tour:
    transformer = getattr(pipe, "transformer", None)
    refuse_compiled(transformer, ())
    family = find(pipe)
    every = list(family.blocks(transformer))
    refuse_compiled(transformer, every)
    refuse_demands(pipe, family.name)
    length = length or family.text_length(pipe)
    blocks = select(spec.blocks, len(every), "blocks")
    try:
        rows = family.embed(pipe, [concept.words for concept in spec.concepts.concepts], length)
    except ConceptAttentionError:
        raise
    except Exception as error:
        raise ConceptAttentionError(
            f"{family.name} could not read concepts with {type(pipe).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Tour(family, spec, blocks, *board(spec, rows))


def hang_on_calls(listener: "Listener") -> Iterator[RemovableHandle]:
    before, after = listener.hook(listener.before_call), listener.hook(listener.after_call)
    yield listener.transformer.register_forward_pre_hook(before, with_kwargs=True)
    yield listener.transformer.register_forward_hook(after)


def hang_on_blocks(ears: "Ears", blocks: Sequence[Any] | None = None) -> Iterator[RemovableHandle]:
    """Listen to the joint blocks of the pipeline, or to those given, up to the last of interest."""
    tour = ears.tour
    every: Sequence[Any] = blocks or list(tour.family.blocks(ears.pipe.transformer))
    for index, block in enumerate(every[: tour.blocks.stop]):
        arrive = ears.hook(partial(ears.before_block, index))
        yield block.register_forward_pre_hook(arrive, with_kwargs=True)
        attention = tour.family.attention(block)
        for name in (*PROJECTIONS, FUSED):
            if hasattr(attention, name):
                hear = ears.hook(partial(ears.after_projection, index, name))
                yield getattr(attention, name).register_forward_hook(hear)
        attended = ears.hook(partial(ears.before_output_projection, index))
        yield attention.to_out[0].register_forward_pre_hook(attended)


class Ears:
    """Tells the concepts of the current call what its blocks do."""

    def __init__(self, pipe: Any, tour: Tour):
        self.pipe, self.tour = pipe, tour
        self.forward: Forward | None = None

    def hook(self, function: Callable[..., None]) -> Callable[..., None]:
        """What is hung on a module: concepts step without gradients, whoever calls."""
        return torch.no_grad()(function)

    def before_block(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.forward is not None:
            self.forward.arrive(index, _named(block, args, kwargs))

    def after_projection(
        self, index: int, name: str, layer: nn.Module, args: tuple, output: Tensor
    ) -> None:
        if self.forward is not None:
            self.forward.check(index, name, layer)
            self.forward.hear(index, name, output)

    def before_output_projection(self, index: int, layer: nn.Module, args: tuple) -> None:
        if self.forward is not None:
            self.forward.check(index, "to_out", layer)
            self.forward.step(index, args[0])


class Listener(Ears):
    """Hears the runs of a pipeline and keeps the last one."""

    def __init__(self, pipe: Any, tour: Tour, *, strict: bool = False):
        super().__init__(pipe, tour)
        self.transformer = pipe.transformer
        self.strict = strict
        self.prompts = Prompts()
        self.run: Run | None = None
        self.trouble: str | None = None  # why the last run has no maps
        self._unread: str | None = None  # what went wrong since, before the next one
        self._timesteps: Any = None  # of the last run's schedule
        self._recording: Recording | None = None
        self._closed = False
        self._hung: list[RemovableHandle] = []  # on blocks, for the length of a call

    def recording(self) -> Recording:
        """What was heard in the last run, all pictures of its batch.

        A `ConceptAttentionError` says why nothing was, or not all.
        """
        if self.trouble is not None:
            raise ConceptAttentionError(self.trouble)
        if self.run is None:
            raise ConceptAttentionError(self._explain_silence())
        if self._recording is None:
            try:
                self._recording = self.run.recorder.finish()
            except ConceptAttentionError as nothing:
                cause = hint(self.transformer)
                raise ConceptAttentionError(f"{nothing}{cause and f' Note: {cause}.'}") from None
        return self._recording

    def _explain_silence(self) -> str:
        said = "No picture was made while recording. Call the pipeline inside `with record(...)`"
        if self.pipe.transformer is self.transformer:
            return f"{said}."
        now = type(self.pipe.transformer).__name__
        return f"{said}; its transformer was replaced meanwhile (now {now}): replace it before."

    def hook(
        self, function: Callable[..., None], *, before_run: bool = False
    ) -> Callable[..., None]:
        """What fails while listening costs no picture: it is told where the maps are asked for."""
        hear = super().hook(function)

        def guarded(*args: Any, **kwargs: Any) -> None:
            if self._closed:  # a copy that was made meanwhile has kept the hook
                return
            try:
                hear(*args, **kwargs)
            except Exception as error:
                if self.strict:
                    raise
                self.forward = None
                said = describe(error, self.tour.family.name, self.pipe)
                if before_run:
                    self._unread = self._unread or said
                else:
                    self.trouble = self.trouble or said

        return guarded

    def rest(self) -> None:
        """Let go of everything but the scores."""
        self._closed = True
        self._unhang()
        self.forward = None
        self.prompts.forget()
        if self.run is not None:
            self.run.passes.rest()

    def _unhang(self) -> None:
        for handle in self._hung:
            handle.remove()
        self._hung = []

    def before_call(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._unhang()  # where an exception ended the last call
        self.forward = None
        if self._is_over(transformer, args, kwargs):
            self.run = self._recording = None
            self.trouble, self._unread = self._unread, None
            self._timesteps = self.pipe.scheduler.timesteps
            self.run = self._begin(transformer, _named(transformer, args, kwargs))
        if self.run is None or self.trouble is not None:
            return
        call = _named(transformer, args, kwargs)
        if rows := self.run.rows(call):
            blocks = list(self.tour.family.blocks(transformer))
            self._hung += hang_on_blocks(self, blocks)
            self.forward = Forward(
                self.tour, self.run.grid, transformer, call, len(rows), rows=rows, blocks=blocks
            )

    def _is_over(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the last run is, so that a call begins the next one."""
        if self._timesteps is None or self.pipe.scheduler.timesteps is not self._timesteps:
            return True
        # one that could not begin lasts as long as its schedule
        return self.run is not None and self.run.is_over(_named(transformer, args, kwargs))

    def _begin(self, transformer: nn.Module, call: Mapping[str, Any]) -> Run:
        refuse_compiled(transformer, self.tour.family.blocks(transformer))  # meanwhile
        self.prompts.begin_run()
        return Run(self.tour, self.pipe, call, self.prompts)

    def after_call(self, transformer: nn.Module, args: tuple, output: Any) -> None:
        forward, self.forward = self.forward, None
        self._unhang()
        if self.run is not None and forward is not None and forward.done:
            self.run.add(forward.call, forward.rows, forward.scores)


class Forward:
    """One call of the transformer: the concepts on their way through its blocks.

    They ride with the first `pictures` of its batch, or with those in the given `rows`. A forward
    that `stops` raises `Enough` at their end.
    """

    def __init__(
        self,
        tour: Tour,
        grid: Grid,
        transformer: nn.Module,
        call: Mapping[str, Any],
        pictures: int,
        stops: bool = False,
        *,
        rows: Sequence[int] | None = None,
        blocks: Sequence[Any] | None = None,
    ):
        self.tour, self.grid, self.transformer, self.call = tour, grid, transformer, call
        self.pictures, self.stops = pictures, stops
        self.rows = range(pictures) if rows is None else rows
        self.blocks = blocks  # that are listened to; where None, the transformer's
        self.patches = slice(0)
        self.ride: Ride | None = None
        self.concepts: Tensor | None = None
        self.mean = tour.mean
        self.at = 0  # the next block
        self.heard: dict[str, dict[tuple[int, ...], Tensor]] = {}
        """Of the block the concepts are at, by rows and tokens: attention may go in parts."""
        self.others: dict[str, dict[tuple[int, ...], Tensor]] = {}
        """The same of the last block, since the concepts have left it."""
        self.scores: list[Tensor] = []  # b c p for each scored block

    @property
    def done(self) -> bool:
        """Whether the concepts got through every block."""
        return len(self.scores) == len(self.tour.blocks)

    def arrive(self, index: int, args: Mapping[str, Any]) -> None:
        """The concepts enter with the first block."""
        if index == 0 and self.ride is None:
            family, call = self.tour.family, narrow(self.call, self.rows)
            ride = family.enter(self.transformer, self.tour.rows, call, args)
            self.ride = ride if self.blocks is None else replace(ride, blocks=self.blocks)
            self.concepts = self.ride.concepts.expand(self.pictures, -1, -1)
            self.mean = self.mean.to(self.concepts)
            start = family.before_patches(self.call, args)  # references come after
            self.patches = slice(start, start + self.grid.patches)

    def check(self, index: int, name: str, layer: nn.Module) -> None:
        """Raise where a layer that is heard has been replaced since it was hung on."""
        if self.blocks is None:
            return
        now: Any = getattr(self.tour.family.attention(self.blocks[index]), name, None)
        if layer is not (now[0] if isinstance(now, nn.ModuleList) else now):
            raise ConceptAttentionError(
                f"{name} of block {index} was replaced while the transformer ran. Load adapters "
                "and change layers between its calls."
            )

    def hear(self, index: int, name: str, projected: Tensor) -> None:
        """Keep what a projection gave, `b n (head d)`, of the block that is due."""
        kept = {self.at: self.heard, self.at - 1: self.others}.get(index)
        if kept is not None:
            names = PROJECTIONS if name == FUSED else (name,)
            for one, part in zip(names, projected.chunk(len(names), dim=-1), strict=True):
                kept.setdefault(one, {})[part.shape[:2]] = part

    def step(self, index: int, attended: Tensor) -> None:
        """Take one block, given what the image attended, `b n (head d)`."""
        ride, concepts = self.ride, self.concepts
        if ride is None or concepts is None or index not in (self.at, self.at - 1):
            return
        among = self.heard if index == self.at else self.others
        parts = [among.get(name, {}).get(attended.shape[:2]) for name in PROJECTIONS]
        heard = [part for part in (*parts, attended) if part is not None]
        if len(heard) <= len(PROJECTIONS):
            return
        if index < self.at:
            self._refuse_another_part(index, attended)
            return
        q, k, v, outputs = (self._select(x) for x in heard)
        image = ride.image(index, q, k, v, outputs)
        method = self.tour.spec.method
        self.concepts, scores = step(ride.block(index), concepts, image, self.mean, method)
        if index in self.tour.blocks:
            self.scores.append(scores)
        self.heard.clear()
        self.others.clear()
        self.at += 1
        if self.stops and self.done:
            raise Enough

    def _refuse_another_part(self, index: int, attended: Tensor) -> None:
        """Raise if the pictures may be in a further part of a block's attention as well."""
        is_part = max(self.rows) < len(attended) < len(self.call["hidden_states"])
        if is_part and not self._has_own_processor(index):
            raise ConceptAttentionError(
                "Attention is computed in parts that cannot be told apart: more than one of "
                "them may be the prompt's, as where a perturbed pass is computed beside it."
            )

    def _has_own_processor(self, index: int) -> bool:
        """Whether diffusers' code attends in a block: it computes the perturbed pass last."""
        blocks = self.tour.family.blocks(self.transformer) if self.blocks is None else self.blocks
        processor: Any = getattr(self.tour.family.attention(blocks[index]), "processor", None)
        return type(processor).__module__.startswith("diffusers.")

    def _select(self, heard: Tensor) -> Tensor:
        """The patches of the pictures, `b p (head d)`, of what was heard of the whole call."""
        if max(self.rows) >= len(heard) or heard.shape[1] < self.patches.stop:
            raise ConceptAttentionError(
                f"Attention is computed in parts ({len(heard)} rows of "
                f"{len(self.call['hidden_states'])}), among which the prompt's cannot be found."
            )
        first, *_, last = (*self.rows, self.rows[-1])
        if last - first + 1 == len(self.rows) and list(self.rows) == sorted(self.rows):
            return heard[first : last + 1, self.patches]
        return heard[list(self.rows), self.patches]


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Mapping[str, Any]:
    return inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
