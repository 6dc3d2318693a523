"""Recordings of this process, found again by the latent they belong to.

ComfyUI caches a sampler's latent but may drop the MODEL that recorded it, and it copies, casts and
cuts latents on the way. So a recording is filed under a sketch (`sketch.py`) of each cell of its
latents: a picture, or one place along time.

The picture does not depend on the concepts: recordings of different words have equal latents. Which
one is meant follows from the very tensor (or a view of it), else from the Record Concepts that lie
before the latent in the graph, else from what was recorded in this prompt. Where none of these
decides, that is said and nothing is guessed.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ... import ConceptAttentionError
from ...recording import Grid, Recording, RecordSpec
from .sketch import TOLERANCE, Sketch

CAPACITY = 512 * 2**20  # bytes
DROPPED_SHARE = 1 / 16  # of the capacity: sketches of recordings that are no longer held

NOT_FINITE = (
    "This latent holds values that are not numbers (its picture is black): nothing can be found in "
    "it. Sample again in another precision or with other settings."
)
DROPPED = (
    "The recording of this latent was dropped to save memory: run its sampler again, with another "
    "seed if it is cached."
)
NEVER = (
    "No concepts were recorded for this latent. Connect the LATENT that comes straight from a "
    "sampler whose MODEL went through Record Concepts."
)


class NeverRecordedError(ConceptAttentionError):
    """No recording, neither held nor dropped, belongs to a latent."""


@dataclass(frozen=True)
class NotRecorded:
    """A run from which nothing could be recorded, and why."""

    spec: RecordSpec
    reason: str
    nbytes: int = 0


@dataclass(frozen=True)
class _Entry:
    sketch: Sketch
    index: int  # of the picture in its batch
    recording: Recording | NotRecorded
    prompt: str | None  # the prompt that was executed when it was filed


@dataclass(frozen=True)
class _Match:
    """An entry that holds all cells of a latent."""

    entry: _Entry
    cells: tuple[int, ...]
    distance: float

    @property
    def spec(self) -> RecordSpec:
        return self.entry.recording.spec

    @property
    def whole(self) -> bool:
        return self.cells == tuple(range(len(self.entry.sketch.sums)))


class Store:
    def __init__(
        self, capacity: int = CAPACITY, current_prompt: Callable[[], str | None] = lambda: None
    ):
        self.capacity, self.current_prompt = capacity, current_prompt
        self._lock = threading.RLock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # oldest first
        self._dropped: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0
        self._tensors: list[tuple[weakref.ref[Tensor], Recording | NotRecorded]] = []

    def file(self, latents: list[Tensor], recording: Recording | NotRecorded) -> None:
        """File a run under every latent `b ...` that came out of it."""
        prompt = self.current_prompt()
        entries = [
            _Entry(Sketch.of(item), index, recording, prompt)
            for latent in latents
            for index, item in enumerate(latent)
        ]
        with self._lock:
            for entry in entries:
                self._forget_earlier(entry)
                self._entries[self._next] = entry
                self._next += 1
            for latent in latents:
                self._remember(latent, recording)
            # The newest stays, however large: it is the one that will be asked for.
            while self._nbytes() > self.capacity and self._oldest().recording is not recording:
                self._drop_oldest()
            self._forget_tensors()

    def find(
        self,
        latent: Tensor,
        spec: RecordSpec | None = None,
        among: Sequence[RecordSpec] = (),
        *,
        foreign: bool = False,
    ) -> Recording:
        """The recording of every picture in a latent `b ...`, in the latent's order.

        The latent may be cast, put together from several, taken apart along its batch, and along
        time, too. `spec` is the one that must have been recorded, `among` those that may have been.
        A `foreign` latent, whose graph records nothing, is known as the very tensor that a run
        made or by a run of this prompt, but not by values that an earlier prompt's picture shares.
        """
        if not bool(latent.isfinite().all()):
            raise ConceptAttentionError(NOT_FINITE)
        with self._lock:
            found = [self._match(Sketch.of(item), latent, spec, among, foreign) for item in latent]
            first = found[0][0]
            for match in (match for matches in found for match in matches):
                if isinstance(match.entry.recording, NotRecorded):
                    raise ConceptAttentionError(match.entry.recording.reason)
                if _kind(match) != _kind(first):
                    raise ConceptAttentionError(
                        "The pictures of this latent were recorded with different concepts or "
                        "settings. Read the maps of each sampler by itself."
                    )
                self._remember(latent, match.entry.recording)
        recording = first.entry.recording
        assert isinstance(recording, Recording)
        if all(len(matches) == 1 and matches[0].whole for matches in found):
            return replace(recording, scores=torch.cat([_scores(matches[0]) for matches in found]))
        return replace(
            recording,
            scores=torch.cat([_scores_of_cells(matches) for matches in found]),
            grid=_cut(recording.grid, sum(len(match.cells) for match in found[0])),
        )

    def recorded(self, specs: Sequence[RecordSpec]) -> bool:
        """Whether any of these was ever recorded, also where nothing could be read."""
        with self._lock:
            filed = [*self._entries.values(), *self._dropped.values()]
        return any(entry.recording.spec in specs for entry in filed)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._dropped.clear()
            self._tensors.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _match(
        self,
        sketch: Sketch,
        latent: Tensor,
        spec: RecordSpec | None,
        among: Sequence[RecordSpec],
        foreign: bool,
    ) -> list[_Match]:
        """Where all cells of a picture were recorded: in one entry, or each in one of its own."""
        parts = [sketch] if self._fitting(sketch, spec) else sketch.cells
        return [self._choose(self._fitting(part, spec), latent, among, foreign) for part in parts]

    def _fitting(self, sketch: Sketch, spec: RecordSpec | None) -> list[_Match]:
        """The entries that hold all cells of a sketch, the newest first; dropped ones last."""
        for entries in (self._entries, self._dropped):
            matches = [
                match
                for entry in reversed(entries.values())
                if (spec is None or entry.recording.spec == spec)
                and (match := _compare(sketch, entry)).distance <= TOLERANCE
            ]
            if matches:
                return matches
        return []

    def _choose(
        self, matches: list[_Match], latent: Tensor, among: Sequence[RecordSpec], foreign: bool
    ) -> _Match:
        known = self._known(latent)
        prompt = self.current_prompt()

        def is_known(match: _Match) -> bool:
            return any(match.entry.recording is recording for recording in known)

        def is_of_this_prompt(match: _Match) -> bool:
            return prompt is not None and match.entry.prompt == prompt

        if foreign:
            matches = [match for match in matches if is_known(match) or is_of_this_prompt(match)]
        if not matches:
            raise NeverRecordedError(NEVER)
        nearest = min(match.distance for match in matches)
        matches = [match for match in matches if match.distance <= nearest]
        for fits in (is_known, lambda match: match.spec in among, is_of_this_prompt):
            matches = [match for match in matches if fits(match)] or matches
        others = [match for match in matches if match.spec != matches[0].spec]
        if others:
            raise ConceptAttentionError(_ambiguous(matches[0].spec, others[0].spec))
        return matches[0]

    def _remember(self, latent: Tensor, recording: Recording | NotRecorded) -> None:
        """The very tensor is the best name of a run: its values may be those of others, too."""
        if not any(recording is other for other in self._known(latent)):
            self._tensors.append((weakref.ref(latent), recording))

    def _known(self, latent: Tensor) -> list[Recording | NotRecorded]:
        """The runs that this tensor, or what it is a view of, is known to belong to."""
        self._forget_tensors()
        place = _storage(latent)
        return [
            recording
            for tensor, recording in self._tensors
            if (kept := tensor()) is not None and _storage(kept) == place
        ]

    def _forget_tensors(self) -> None:
        """Those that are gone, and those whose recordings are."""
        held = {id(entry.recording) for entry in self._entries.values()}
        self._tensors = [
            (tensor, recording)
            for tensor, recording in self._tensors
            if tensor() is not None and id(recording) in held
        ]

    def _forget_earlier(self, entry: _Entry) -> None:
        """The same picture recorded in the same way again takes the place of the old one."""
        for entries in (self._entries, self._dropped):
            for key, other in list(entries.items()):
                if other.recording.spec == entry.recording.spec and _same(
                    other.sketch, entry.sketch
                ):
                    del entries[key]

    def _drop_oldest(self) -> None:
        """Let go of the oldest picture; that it was there stays known for a while."""
        key, entry = self._entries.popitem(last=False)
        self._dropped[key] = replace(entry, recording=NotRecorded(entry.recording.spec, DROPPED))
        most = self.capacity * DROPPED_SHARE
        while sum(kept.sketch.sums.nbytes for kept in self._dropped.values()) > most:
            self._dropped.popitem(last=False)

    def _oldest(self) -> _Entry:
        return next(iter(self._entries.values()))

    def _nbytes(self) -> int:
        recordings = {id(e.recording): e.recording.nbytes for e in self._entries.values()}
        filed = (*self._entries.values(), *self._dropped.values())
        return sum(recordings.values()) + sum(e.sketch.sums.nbytes for e in filed)


def _compare(sketch: Sketch, entry: _Entry) -> _Match:
    """How far the cells of a sketch are from those of an entry that are nearest to them."""
    distances = sketch.distances(entry.sketch)
    if len(sketch.sums) == len(entry.sketch.sums):  # still pictures in a video are alike: in order
        in_order = distances.diagonal().max().item()
        if in_order <= TOLERANCE:
            return _Match(entry, tuple(range(len(sketch.sums))), in_order)
    nearest = distances.min(dim=1)
    return _Match(entry, tuple(nearest.indices.tolist()), nearest.values.max().item())


def _same(one: Sketch, other: Sketch) -> bool:
    return one.shape == other.shape and torch.equal(one.sums, other.sums)


def _storage(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _scores(match: _Match) -> Tensor:
    """All frames of a picture, `frame step block c y x`."""
    recording, index = match.entry.recording, match.entry.index
    assert isinstance(recording, Recording)
    frames = recording.grid.time.frames
    return recording.scores[index * frames : (index + 1) * frames]


def _scores_of_cells(matches: list[_Match]) -> Tensor:
    """Those frames in which cells lie, `frame step block c y x`; of each patch its first cell."""
    recording = matches[0].entry.recording
    assert isinstance(recording, Recording)
    patch = recording.grid.time.patch
    frames = [_scores(match)[cell // patch] for match in matches for cell in match.cells]
    return torch.stack(frames[::patch])


def _cut(grid: Grid, cells: int) -> Grid:
    """The grid of a video of so many cells."""
    return replace(grid, time=replace(grid.time, latents=cells, lead_padding=0))


def _kind(match: _Match) -> tuple:
    recording = match.entry.recording
    assert isinstance(recording, Recording)
    still = replace(recording.grid, time=replace(recording.grid.time, latents=1, lead_padding=0))
    return recording.spec, still, recording.steps, recording.blocks


def _ambiguous(one: RecordSpec, other: RecordSpec) -> str:
    """Two recordings fit, and what they differ in."""
    advice = "Connect the recorded MODEL that you mean to Concept Maps."
    if one.concepts.names != other.concepts.names:
        words = " and of ".join(f"'{', '.join(spec.concepts.names)}'" for spec in (one, other))
        return f"This latent fits recordings of {words}, and nothing tells which is meant. {advice}"
    differ = [
        field.name
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    ]
    return f"This latent fits two recordings that differ in {', '.join(differ)}. {advice}"


def executed_prompt() -> str | None:
    """The id of the prompt that ComfyUI executes now."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return None if context is None else context.prompt_id


STORE = Store(current_prompt=executed_prompt)
