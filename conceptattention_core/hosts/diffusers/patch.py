"""All that touches diffusers while a pipeline samples. Nothing of it is copied or replaced.

For the length of a `with`, `record` hangs hooks on the modules of the transformer: around each of
its calls, and on each joint block, where the image's projections are heard as they come out and
its attended vectors as they go into the output projection. There the concepts take their step.
Modules and not attention processors, because all processors (IP-Adapter's, fused ones), attention
backends, adapters, quantized layers and off-loading call these modules, in every version.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from ...recording import Grid, Recorder, Recording, RecordSpec, board
from .families import find
from .family import Family, Ride

PROJECTIONS = ("to_q", "to_k", "to_v")
FUSED = "to_qkv"


@dataclass(frozen=True)
class Tour:
    """What rides, and where it is looked at. The same for every run of a recorded pipeline."""

    family: Family
    spec: RecordSpec
    blocks: range
    rows: Tensor  # t n
    mean: Tensor  # c t


@contextmanager
def record(
    pipe: DiffusionPipeline, spec: RecordSpec, *, max_sequence_length: int | None = None
) -> Iterator["Listener"]:
    """Record `spec` whenever `pipe` samples inside this `with`::

        with record(pipe, RecordSpec(parse("balloon, sky"))) as listener:
            image = pipe("a balloon in the sky").images[0]
        maps = reduce(listener.recording())

    Give `max_sequence_length` here where the pipeline is called with it. Adapters are loaded, and
    projections fused, before. CogVideoX 1.5 may sample padding in front of a video, and only its
    length tells: `recording().of_length(len(frames))`.
    """
    listener = Listener(pipe, plan(pipe, spec, max_sequence_length))
    with ExitStack() as hooks:
        hooks.callback(listener.rest)
        for handle in (*hang_on_calls(listener), *hang_on_blocks(listener)):
            hooks.callback(handle.remove)
        yield listener


def plan(pipe: DiffusionPipeline, spec: RecordSpec, length: int | None) -> Tour:
    transformer = getattr(pipe, "transformer", None)
    if _is_compiled(transformer):
        raise ConceptAttentionError(
            "This pipeline's transformer is compiled, and nobody can listen to compiled blocks. "
            "Record before torch.compile, or with a pipeline that was loaded without it."
        )
    family = find(pipe)
    length = length or family.text_length(pipe)
    blocks = select(spec.blocks, len(family.blocks(transformer)), "blocks")
    rows = family.embed(pipe, [concept.words for concept in spec.concepts.concepts], length)
    return Tour(family, spec, blocks, *board(spec, rows))


def _is_compiled(transformer: Any) -> bool:
    if not isinstance(transformer, nn.Module):
        return False
    return hasattr(transformer, "_orig_mod") or any(
        module._compiled_call_impl is not None for module in transformer.modules()
    )


def hang_on_calls(listener: "Listener") -> Iterator[RemovableHandle]:
    transformer = listener.pipe.transformer
    yield transformer.register_forward_pre_hook(listener.before_call, with_kwargs=True)
    yield transformer.register_forward_hook(listener.after_call)


def hang_on_blocks(ears: "Ears") -> Iterator[RemovableHandle]:
    transformer, tour = ears.pipe.transformer, ears.tour
    blocks: list[Any] = list(tour.family.blocks(transformer))
    for index, block in enumerate(blocks[: tour.blocks.stop]):
        arrive = partial(ears.before_block, index)
        yield block.register_forward_pre_hook(arrive, with_kwargs=True)
        attention = tour.family.attention(block)
        for name in (*PROJECTIONS, FUSED):
            if hasattr(attention, name):
                hear = partial(ears.after_projection, index, name)
                yield getattr(attention, name).register_forward_hook(hear)
        attended = partial(ears.before_output_projection, index)
        yield attention.to_out[0].register_forward_pre_hook(attended)


class Ears:
    """Tells the concepts of the current call what its blocks do."""

    def __init__(self, pipe: Any, tour: Tour):
        self.pipe, self.tour = pipe, tour
        self.forward: Forward | None = None

    def before_block(self, index: int, block: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.forward is not None:
            self.forward.arrive(index, _named(block, args, kwargs))

    def after_projection(
        self, index: int, name: str, layer: nn.Module, args: tuple, output: Tensor
    ) -> None:
        if self.forward is not None:
            self.forward.hear(index, name, output)

    def before_output_projection(self, index: int, layer: nn.Module, args: tuple) -> None:
        if self.forward is not None:
            self.forward.step(index, args[0])


class Listener(Ears):
    """Hears the runs of a pipeline and keeps the last one."""

    def __init__(self, pipe: Any, tour: Tour):
        super().__init__(pipe, tour)
        self.run: Run | None = None
        self._recording: Recording | None = None

    def recording(self) -> Recording:
        """What was heard in the last run, all pictures of its batch."""
        if self.run is None:
            raise ConceptAttentionError(
                "No picture was made while recording. Call the pipeline inside `with record(...)`."
            )
        if self._recording is None:
            self._recording = self.run.recorder.finish()
        return self._recording

    def rest(self) -> None:
        """Let go of everything but the scores."""
        self.forward = None
        if self.run is not None:
            self.run.before = None

    def before_call(self, transformer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        call = _named(transformer, args, kwargs)
        if self.run is None or self.pipe.scheduler.timesteps is not self.run.timesteps:
            self.run, self._recording = Run(self.tour, self.pipe, call), None
        if not self.run.is_positive(call):
            self.forward = None
            return
        self.forward = Forward(self.tour, self.run.grid, transformer, call, self.run.pictures)

    def after_call(self, transformer: nn.Module, args: tuple, output: Any) -> None:
        if self.run is not None and self.forward is not None:
            self.run.add(self.forward)
        self.forward = None


class Run:
    """One sampling run of a recorded pipeline, told from the next by the scheduler's timesteps."""

    def __init__(self, tour: Tour, pipe: DiffusionPipeline, call: Mapping[str, Any]):
        self.tour = tour
        self.timesteps = pipe.scheduler.timesteps
        # An image-to-image run is the last part of its schedule. A second-order scheduler lists
        # a timestep twice: as the end of a step and as the start of the next one.
        done = getattr(pipe, "num_timesteps", len(self.timesteps))
        self.schedule = self.timesteps[-done:].unique_consecutive()
        self.grid = tour.family.grid(pipe, call)
        self.recorder = Recorder(
            tour.spec, self.grid, tour.blocks, len(self.schedule), tour.family.name
        )
        self.pictures = len(call["hidden_states"])
        if tour.family.guided_at_once and getattr(pipe, "guidance_scale", 1) > 1:
            self.pictures //= 2
        self.before: tuple[Tensor, ...] | None = None  # timestep and latents of the last call

    def is_positive(self, call: Mapping[str, Any]) -> bool:
        """Whether this call is for the prompt and not for the negative prompt.

        With true CFG every pipeline calls the transformer for the prompt and then, on the same
        latents, for the negative prompt. That holds where others do not: only some pipelines name
        their calls (`cache_context`), and a callback may swap the prompt between steps.
        """
        now = (call["timestep"], call["hidden_states"])
        positive = self.before is None or not all(map(torch.equal, now, self.before))
        self.before = now
        return positive

    def add(self, forward: "Forward") -> None:
        """Keep a call in which the concepts got through every block."""
        if forward.done:
            timestep = forward.call["timestep"].flatten()[0]
            # rounded as the pipeline rounds: the same number comes out in every precision
            schedule = self.schedule.to(timestep) / self.tour.family.time_unit
            self.recorder.add(int((schedule - timestep).abs().argmin()), forward.scores)


class Forward:
    """One call of the transformer: the concepts on their way through its blocks.

    They ride with the last `pictures` of its batch; before these may come the same ones for the
    negative prompt. A forward that `stops` raises `Enough` at their end.
    """

    def __init__(
        self,
        tour: Tour,
        grid: Grid,
        transformer: nn.Module,
        call: Mapping[str, Any],
        pictures: int,
        stops: bool = False,
    ):
        self.tour, self.grid, self.transformer, self.call = tour, grid, transformer, call
        self.pictures, self.stops = pictures, stops
        self.patches = slice(0)
        self.ride: Ride | None = None
        self.concepts: Tensor | None = None
        self.mean = tour.mean
        self.at = 0  # the next block
        self.heard: dict[str, Tensor] = {}  # b n (head d), of the block the concepts are at
        self.scores: list[Tensor] = []  # b c p for each scored block

    @property
    def done(self) -> bool:
        """Whether the concepts got through every block."""
        return len(self.scores) == len(self.tour.blocks)

    def arrive(self, index: int, args: Mapping[str, Any]) -> None:
        """The concepts enter with the first block."""
        if index == 0 and self.ride is None:
            family = self.tour.family
            self.ride = family.enter(self.transformer, self.tour.rows, self.call, args)
            self.concepts = self.ride.concepts.expand(self.pictures, -1, -1)
            self.mean = self.mean.to(self.concepts)
            start = family.before_patches(self.call, args)  # references come after
            self.patches = slice(start, start + self.grid.patches)

    def hear(self, index: int, name: str, projected: Tensor) -> None:
        if index == self.at:
            names = PROJECTIONS if name == FUSED else (name,)
            self.heard.update(zip(names, projected.chunk(len(names), dim=-1), strict=True))

    def step(self, index: int, attended: Tensor) -> None:
        """Take one block, given what the image attended, `b n (head d)`."""
        ride, concepts = self.ride, self.concepts
        due = index == self.at and len(self.heard) == len(PROJECTIONS)
        if not due or ride is None or concepts is None:
            return
        heard = [*(self.heard[name] for name in PROJECTIONS), attended]
        q, k, v, outputs = (x[-self.pictures :, self.patches] for x in heard)
        image = ride.image(index, q, k, v, outputs)
        method = self.tour.spec.method
        self.concepts, scores = step(ride.block(index), concepts, image, self.mean, method)
        if index in self.tour.blocks:
            self.scores.append(scores)
        self.heard.clear()
        self.at += 1
        if self.stops and self.done:
            raise Enough


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Mapping[str, Any]:
    return inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
