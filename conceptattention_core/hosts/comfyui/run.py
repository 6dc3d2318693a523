"""A sampling run that is listened to: born when it starts, gone when it ends."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from threading import Lock
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...attention import ImageVectors, step
from ...locating import Enough
from ...recording import Recorder, Recording, RecordSpec
from .families.base import Family, Layout, Ride
from .foreign import ALTERED, find_pack
from .guard import Guard, own_copy
from .shown import Film, Shown, look
from .store import Silence

POSITIVE = 0  # in transformer_options["cond_or_uncond"]
PARTS = (
    "Nothing was captured while {model} sampled: it was shown only parts of the picture or of the "
    "batch, as by tiled sampling, context windows or prompts for areas. Concepts are heard where "
    "it sees the whole: sample without these, or let one prompt be for the whole picture."
)
REPLACED = (
    "Nothing was captured while {model} sampled: {pack} runs it, or its blocks, with code of its "
    "own. " + ALTERED
)
MISSED = (
    "%s was recorded in %d of its %d calls: in the others not every block was seen. A cache of "
    "blocks leaves some out, and a compiled graph runs them unseen."
)
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tour:
    """What rides, and where it is looked at. The same for every run of a recorded model."""

    family: Family
    spec: RecordSpec
    blocks: range
    rows: Tensor  # t n
    mean: Tensor  # c t
    stops: bool  # whether a call of the model ends with the last of `blocks`


class Run:
    """One sampling run of a recorded model."""

    def __init__(
        self,
        tour: Tour,
        network: nn.Module,
        latent_shape: torch.Size,
        sigmas: Tensor,
        prompts: list[Any],
        guard: Guard,
    ):
        self.tour, self.latent_shape, self.guard = tour, latent_shape, guard
        self.prompts = prompts  # the names of the positive ones
        self.sigmas = sigmas
        _, _, *latents, h, w = latent_shape
        self.grid = tour.family.grid(network, h, w, *latents)
        self.recorder = Recorder(
            tour.spec, self.grid, tour.blocks, max(len(sigmas) - 1, 1), tour.family.name
        )
        self.depth = len(tour.family.blocks(network))
        self.film: Film | None = None
        self.saw_whole = self.saw_part = False
        self.calls = self.missed = 0  # forwards of the whole, and those that missed blocks
        self.pack: str | None = None  # whose code was seen in the place of ComfyUI's
        self.lock = Lock()  # on several devices, prompts are in threads of their own

    def find_positive(self, kinds: list[int], prompts: list[Any]) -> list[int]:
        """Which prompts of a call are positive ones.

        Guiders of several prompts or models number them as they like; so they are told by their
        names, if the guider has prompts that it calls positive.
        """
        if self.prompts and len(prompts) == len(kinds):
            return [i for i, prompt in enumerate(prompts) if prompt in self.prompts]
        return [i for i, kind in enumerate(kinds) if kind == POSITIVE]

    def look(self, x: Tensor, chunks: int, window: Any) -> Shown | None:
        """What a call of the model shows; None: a part from which nothing can be recorded."""
        shown = look(x, self.latent_shape, chunks, self.grid, window)
        self.saw_part |= shown is None
        return shown

    def knows(self, network: nn.Module) -> bool:
        """Whether all blocks are there: packs that cache the first put one module for them all."""
        try:
            known = len(self.tour.family.blocks(network)) == self.depth
        except AttributeError:
            known = False
        if not known:
            self.look_for_packs(network)
        return known

    def look_for_packs(self, network: nn.Module) -> None:
        """Note whose code runs a model in which blocks were missed."""
        if self.pack is None:
            with suppress(AttributeError):
                self.pack = find_pack(network, self.tour.family.blocks(network))

    def add(self, forward: "Forward", sigma: Tensor) -> None:
        """Keep a forward in which the concepts got through every block."""
        self.saw_whole = True
        self.calls += 1
        if len(forward.scores) != len(self.tour.blocks):
            self.missed += 1
            self.look_for_packs(forward.network)
            return
        with self.lock:
            self._keep(forward, sigma)

    def _keep(self, forward: "Forward", sigma: Tensor) -> None:
        # by the run's own sigmas: samplers may tell the model of a longer schedule
        now = (self.sigmas - sigma.flatten()[0].to(self.sigmas)).abs().argmin().item()
        step = min(int(now), self.recorder.steps - 1)
        if forward.shown.frames is None:
            self.recorder.add(step, forward.scores)
            return
        if self.film is None or self.film.step != step:
            self.develop()
            self.film = Film(step, self.grid)
        self.film.add(forward.shown.frames, forward.scores)

    def develop(self) -> None:
        """Keep a step that was seen window by window, if every frame of the video was seen."""
        if self.film is not None and self.film.complete:
            self.recorder.add(self.film.step, self.film.scores())
        self.film = None

    def heard(self) -> "Recording | Silence":
        """What was recorded so far, or why nothing was."""
        if self.guard.reason is not None:
            return Silence(self.tour.spec, self.guard.reason)
        self.develop()
        try:
            return self.recorder.finish()
        except ConceptAttentionError as nothing:  # the picture is fine: say it where maps are read
            return Silence(self.tour.spec, self._why(str(nothing)))

    def end(self) -> "Recording | Silence":
        """The same at the end of the run, which tells of the calls that were missed."""
        heard = self.heard()
        if self.missed and isinstance(heard, Recording):
            LOG.warning(MISSED, self.tour.family.name, self.calls - self.missed, self.calls)
        return heard

    def _why(self, nothing: str) -> str:
        model = self.tour.family.name
        if self.saw_part and not self.saw_whole:
            return PARTS.format(model=model)
        return nothing if self.pack is None else REPLACED.format(model=model, pack=self.pack)


@dataclass(frozen=True)
class Arrival:
    """The concepts before a block."""

    index: int
    layout: Layout
    told: Any


@dataclass(frozen=True)
class Call:
    """A call of the model."""

    function: Callable[..., Tensor]
    given: dict[str, Any]
    """What it was called with: `x`, `t`, `c_concat`, `c_crossattn`, ..."""
    options: dict[str, Any]
    """Its `transformer_options`, before blocks were patched for the concepts."""


class Forward:
    """One call of the model: the concepts on their way through its blocks.

    What it does is done in `run.guard`.

    Nothing in it leads back to it, so that its tensors are gone as soon as the call is over.
    """

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        shown: Shown,
        chunks: list[int],
        call: Call,
        timesteps: Tensor,
    ):
        self.run, self.network, self.shown = run, network, shown
        self.chunks, self.call, self.timesteps = chunks, call, timesteps
        self.batch, self.size = len(call.given["x"]), run.latent_shape[0]
        self.ride: Ride | None = None
        self.concepts: Tensor | None = None
        self.mean = run.tour.mean
        self.at = 0  # the next block
        self.scores: list[Tensor] = []  # b c p for each scored block

    def arrives(self, index: int, args: dict[str, Any]) -> Arrival | None:
        """The concepts before a block called with `args`, if they are due; block 0 lets them in."""
        if self.run.guard.reason is not None:
            return None
        family = self.run.tour.family
        if index == 0 and self.ride is None:
            own = {name: own_copy(self.positive(value)) for name, value in args.items()}
            timesteps = self.positive(self.timesteps)
            conds = {**self.given(), "timesteps": timesteps, "again": self.again}
            self.ride = family.enter(self.network, self.run.tour.rows, own, conds)
            self.concepts = self.ride.concepts
            self.mean = self.mean.to(self.concepts)
        if self.ride is not None and index == self.at:
            layout = family.layout(self.network, args, self.shown.grid, self.ride)
            return Arrival(index, layout, self.positive(family.told(args)))
        return None

    def step(self, arrived: Arrival, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """Take one block, given its joint attention `b head n d`, and what it gave `b n d`."""
        patches = arrived.layout.patches
        self._step(
            arrived,
            lambda ride: ImageVectors(
                keys=self.positive(k)[:, :, patches],
                values=self.positive(v)[:, :, patches],
                outputs=self.positive(out)[:, patches],
                queries_before_rope=lambda: ride.unplaced(self.positive(q)[:, :, patches], patches),
                queries=lambda: self.positive(q)[:, :, patches],
            ),
        )

    def step_by_projections(
        self, arrived: Arrival, q: Tensor, k: Tensor, v: Tensor, out: Tensor
    ) -> None:
        """The same, given what its attention projected and gave, all `b n (head d)`."""
        patches = arrived.layout.patches
        heard = [self.positive(x)[:, patches] for x in (q, k, v, out)]
        self._step(arrived, lambda ride: ride.image(arrived.index, *heard, patches))

    def _step(self, arrived: Arrival, image: Callable[[Any], ImageVectors]) -> None:
        ride, concepts = self.ride, self.concepts
        if arrived.index != self.at or ride is None or concepts is None:
            return
        tour = self.run.tour
        block = ride.block(arrived.index, arrived.told)
        self.concepts, scores = step(block, concepts, image(ride), self.mean, tour.spec.method)
        if arrived.index in tour.blocks:
            self.scores.append(
                rearrange(scores, "(chunk b) c p -> chunk b c p", b=self.size).mean(0)
            )
        self.at += 1
        if tour.stops and self.at == tour.blocks.stop:
            raise Enough

    def given(self) -> dict[str, Any]:
        """What the model was called with for the positive prompt."""
        return {name: self.positive(value) for name, value in self.call.given.items()}

    def again(self, text: Tensor, blocks: dict[tuple[str, int], Callable]) -> None:
        """Call the model with `text` (b t n) in place of the positive prompt, and zeros for its
        pooled vector; `blocks` are all that is patched, and may end the call by `Enough`.
        """
        given = self.given()
        given.pop("attention_mask", None)  # it hides the prompt's padding
        if given.get("y") is not None:
            given["y"] = torch.zeros_like(given["y"])
        options = {
            **self.call.options,
            "patches": {},
            "patches_replace": {"dit": blocks},
            "cond_or_uncond": [POSITIVE] * len(self.chunks),
        }
        with suppress(Enough):
            given = {**given, "c_crossattn": text, "control": None}
            self.call.function(**given, transformer_options=options)

    def positive(self, value: Any) -> Any:
        """The rows of the positive prompt; what has no row per picture is returned as it is."""
        if isinstance(value, tuple):
            return tuple(self.positive(part) for part in value)
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != self.batch:
                return value
            rows = [value[i * self.size : (i + 1) * self.size] for i in self.chunks]
            return rows[0] if len(rows) == 1 else torch.cat(rows)
        if is_dataclass(value) and not isinstance(value, type):  # the modulation of a block
            parts = {part.name: self.positive(getattr(value, part.name)) for part in fields(value)}
            return replace(value, **parts)
        return value
