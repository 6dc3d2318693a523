"""One sampling run: its steps, and what is kept of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...forward import RecordPlan
from ...recording import Recorder
from .calls import ModelCall
from .families.base import Family
from .prompts import Passes, Prompts

UNKNOWN_STEPS = 100
"""Steps of a run whose schedule is not the recorded pipeline's; later ones share the last place."""


class Run:
    """One sampling run of a recorded transformer."""

    def __init__(
        self, family: Family, plan: RecordPlan, pipe: Any, call: ModelCall, prompts: Prompts
    ):
        self.family, self.plan = family, plan
        self.grid = family.grid(pipe, call)
        self.timestep = first_timestep(call)
        """Of the last call."""
        self.schedule = find_schedule(pipe, self.timestep, family.time_unit)
        self.changes = 0
        """How often the timestep changed."""
        self.passes = Passes(prompts)
        self.recorder = self._make_recorder()
        self._by_place = False  # whether rows were recorded before the prompt's text was met

    def _make_recorder(self) -> Recorder:
        steps = UNKNOWN_STEPS if self.schedule is None else len(self.schedule)
        plan = self.plan
        return Recorder(plan.spec, self.grid, plan.blocks, steps, plan.model)

    def is_over(self, call: ModelCall) -> bool:
        """Whether a call belongs to another run of the same schedule: the noise rises."""
        return bool(first_timestep(call).to(self.timestep) > self.timestep)

    def prompt_rows(self, call: ModelCall) -> tuple[int, ...]:
        """The rows of a call that are the prompt's, one for each image."""
        timestep = first_timestep(call)
        self.changes += int(not torch.equal(timestep, self.timestep))
        self.timestep = timestep
        rows = self.passes.prompt_rows(call)
        if self.passes.known and self._by_place:
            self.recorder, self._by_place = self._make_recorder(), False
        return rows

    def add(self, call: ModelCall, rows: Sequence[int], scores: Sequence[Tensor]) -> None:
        """Keep a call in which the concepts got through every block."""
        self.recorder.add(self._step(), scores)
        self._by_place |= not self.passes.known
        self.passes.recorded = call.hidden_states[list(rows)]

    def _step(self) -> int:
        if self.schedule is None:
            return min(self.changes, UNKNOWN_STEPS - 1)
        # rounded as the pipeline rounds: the same number comes out in every precision
        schedule = self.schedule.to(self.timestep) / self.family.time_unit
        return int((schedule - self.timestep).abs().argmin())


def first_timestep(call: ModelCall) -> Tensor:
    return call.timestep.flatten()[0]


def find_schedule(pipe: Any, timestep: Tensor, unit: int) -> Tensor | None:
    """The timesteps of the run that begins at one of them; None where it has another schedule.

    An image-to-image run is the last part of its schedule. A second-order scheduler lists a
    timestep twice: as the end of a step and as the start of the next one.
    """
    scheduler = pipe.scheduler
    untouched = getattr(scheduler, "num_inference_steps", 1) is None
    if untouched or getattr(scheduler, "step_index", None) is not None:
        return None  # another scheduler's run: this one is at rest, or at its end
    timesteps = scheduler.timesteps
    starts = (timesteps.to(timestep) / unit == timestep).nonzero().flatten().tolist()
    if not starts:
        return None
    # in half precision neighbours may be equal; the pipeline knows how many are left
    expected = len(timesteps) - getattr(pipe, "num_timesteps", len(timesteps))
    start = min(starts, key=lambda i: abs(i - expected))
    return timesteps[start:].unique_consecutive()
