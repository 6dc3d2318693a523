"""One sampling run of a recorded model: made when it starts, gone when it ends."""

import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ... import ConceptAttentionError
from ...forward import RecordPlan
from ...recording import Recorder, Recording
from .call import POSITIVE, CallForward
from .families.base import Family
from .foreign import ALTERED, find_pack
from .guard import Guard, own_copy
from .store import NotRecorded
from .windows import VisiblePart, WindowedStep, visible_part

PARTS = (
    "Nothing was captured while {model} sampled: it was shown only parts of the picture or of the "
    "batch, as by tiled sampling, context windows or prompts for areas. Concepts are recorded "
    "where it sees the whole: sample without these, or let one prompt be for the whole picture."
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


class Run:
    """One sampling run of a recorded model."""

    def __init__(
        self,
        family: Family,
        plan: RecordPlan,
        network: nn.Module,
        latent_shape: torch.Size,
        sigmas: Tensor,
        prompts: list[Any],
        guard: Guard,
    ):
        self.family, self.plan, self.guard = family, plan, guard
        self.latent_shape, self.sigmas = latent_shape, sigmas
        self.prompts = prompts  # the names of the positive ones
        _, _, *latents, h, w = latent_shape
        self.grid = family.grid(network, h, w, *latents)
        steps = max(len(sigmas) - 1, 1)
        self.recorder = Recorder(plan.spec, self.grid, plan.blocks, steps, plan.model)
        self.depth = len(family.blocks(network))
        self.windowed: WindowedStep | None = None
        self._made: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # see `once`
        self.saw_whole = self.saw_part = False
        self.calls = self.missed = 0  # calls with the whole latent, and those that missed blocks
        self.pack: str | None = None  # whose code was seen in the place of ComfyUI's
        self.lock = Lock()  # on several devices, prompts are in threads of their own

    def find_positive(self, kinds: list[int], prompts: list[Any]) -> list[int]:
        """Which prompts of a call are positive ones.

        Guiders of several prompts or models number them as they like; so they are known by their
        names, if the guider has prompts that it calls positive.
        """
        if self.prompts and len(prompts) == len(kinds):
            return [i for i, prompt in enumerate(prompts) if prompt in self.prompts]
        return [i for i, kind in enumerate(kinds) if kind == POSITIVE]

    def visible_part(self, x: Tensor, chunks: int, window: Any) -> VisiblePart | None:
        """What a call of the model covers; None: a part from which nothing can be recorded."""
        part = visible_part(x, self.latent_shape, chunks, self.grid, window)
        self.saw_part |= part is None
        return part

    def knows(self, network: nn.Module) -> bool:
        """Whether all blocks are there: packs that cache the first put one module for them all."""
        try:
            known = len(self.family.blocks(network)) == self.depth
        except AttributeError:
            known = False
        if not known:
            self.look_for_packs(network)
        return known

    def look_for_packs(self, network: nn.Module) -> None:
        """Note whose code runs a model in which blocks were missed."""
        if self.pack is None:
            with suppress(AttributeError):
                self.pack = find_pack(network, self.family.blocks(network))

    def once(self, network: nn.Module, key: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made anew only for another `key`; for one network after another."""
        kept = self._made.get(network)
        if kept is not None and torch.equal(kept[0], key):
            return kept[1]
        made = make()
        self._made[network] = own_copy((key, made))
        return made

    def add(self, forward: CallForward, sigma: Tensor) -> None:
        """Keep a call in which the concepts got through every block."""
        self.saw_whole = True
        self.calls += 1
        if not forward.done:
            self.missed += 1
            self.look_for_packs(forward.network)
            return
        with self.lock:
            self._keep(forward, sigma)

    def _keep(self, forward: CallForward, sigma: Tensor) -> None:
        # by the run's own sigmas: samplers may give the model a longer schedule
        now = (self.sigmas - sigma.flatten()[0].to(self.sigmas)).abs().argmin().item()
        step = min(int(now), self.recorder.steps - 1)
        scores, frames = forward.mean_scores(), forward.part.frames
        if frames is None:
            self.recorder.add(step, scores)
            return
        if self.windowed is None or self.windowed.step != step:
            self.flush()
            self.windowed = WindowedStep(step, self.grid)
        self.windowed.add(frames, scores)

    def flush(self) -> None:
        """Keep a step that went window by window, if every frame of the video was in one."""
        if self.windowed is not None and self.windowed.complete:
            self.recorder.add(self.windowed.step, self.windowed.scores())
        self.windowed = None

    def recorded(self) -> Recording | NotRecorded:
        """What was recorded so far, or why nothing was."""
        if self.guard.reason is not None:
            return NotRecorded(self.plan.spec, self.guard.reason)
        self.flush()
        try:
            return self.recorder.finish()
        except ConceptAttentionError as nothing:  # the image is fine: say it where maps are read
            return NotRecorded(self.plan.spec, self._why(str(nothing)))

    def end(self) -> Recording | NotRecorded:
        """The same at the end of the run; calls that were missed are logged."""
        recorded = self.recorded()
        if self.missed and isinstance(recorded, Recording):
            LOG.warning(MISSED, self.plan.model, self.calls - self.missed, self.calls)
        return recorded

    def _why(self, nothing: str) -> str:
        model = self.plan.model
        if self.saw_part and not self.saw_whole:
            return PARTS.format(model=model)
        return nothing if self.pack is None else REPLACED.format(model=model, pack=self.pack)
