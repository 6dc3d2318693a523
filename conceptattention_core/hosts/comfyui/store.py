"""Recordings of this process, found again by the latent they belong to.

ComfyUI caches a sampler's latent but may drop the MODEL that recorded it, and it copies and casts
latents on the way. So a recording is filed under a sketch of each latent it made: sums of its
values, every one in one sum with a random sign, so that a detail that was regenerated shows. They
are compared with the tolerance of a cast to bfloat16.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ConceptAttentionError
from ...recording import Recording, RecordSpec

CAPACITY = 512 * 2**20  # bytes
SKETCH = 1024  # sums kept of each latent
TOLERANCE = 2**-7  # of the largest sum: one rounding to bfloat16 and a little more


@dataclass(frozen=True)
class Silence:
    """A run from which nothing could be recorded, and why."""

    spec: RecordSpec
    reason: str
    nbytes: int = 0


@dataclass(frozen=True)
class Sketch:
    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, latent: Tensor) -> "Sketch":
        """Sketch one latent without its batch axis."""
        flat = latent.detach().flatten().float()
        share = -(-flat.numel() // SKETCH)
        signed = F.pad(flat * _signs(flat.numel()).to(flat), (0, -flat.numel() % share))
        return cls(tuple(latent.shape), signed.view(-1, share).sum(1).cpu())

    def distance(self, other: "Sketch") -> float:
        """Largest difference in units of the largest sum; infinite for another shape."""
        if self.shape != other.shape:
            return float("inf")
        scale = max(self.values.abs().max().item(), 1e-12)
        distance = (self.values - other.values).abs().max().item() / scale
        # A run that failed to NaN, a black picture, is like no other.
        return float("inf") if math.isnan(distance) else distance


@lru_cache(maxsize=2)
def _signs(count: int) -> Tensor:
    """The same random -1 and 1 every time."""
    return torch.randint(2, (count,), generator=torch.Generator().manual_seed(0)).char() * 2 - 1


@dataclass(frozen=True)
class _Entry:
    sketch: Sketch
    index: int  # of the picture in its batch
    heard: Recording | Silence


class Store:
    def __init__(self, capacity: int = CAPACITY):
        self.capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # oldest first
        self._next = 0

    def file(self, latents: list[Tensor], heard: Recording | Silence) -> None:
        """File a run under every latent `b ...` that came out of it."""
        entries = [
            _Entry(Sketch.of(item), index, heard)
            for latent in latents
            for index, item in enumerate(latent)
        ]
        with self._lock:
            for entry in entries:
                self._forget_earlier(entry)
                self._entries[self._next] = entry
                self._next += 1
            # The newest stays, however large: it is the one that will be asked for.
            while self._nbytes() > self.capacity and self._oldest().heard is not heard:
                self._entries.popitem(last=False)

    def find(self, latent: Tensor, spec: RecordSpec | None = None) -> Recording:
        """The recording of every picture in a latent `b ...`, in the latent's order.

        `spec` tells recordings of one and the same picture apart; without it the newest counts.
        """
        scores, recordings = [], []
        for item in latent:
            entry = self._match(Sketch.of(item), spec)
            if isinstance(entry.heard, Silence):
                raise ConceptAttentionError(entry.heard.reason)
            frames = entry.heard.grid.time.frames
            scores.append(entry.heard.scores[entry.index * frames : (entry.index + 1) * frames])
            recordings.append(entry.heard)
        first = recordings[0]
        if any(_kind(one) != _kind(first) for one in recordings):
            raise ConceptAttentionError(
                "The pictures of this latent were recorded with different concepts or settings. "
                "Read the maps of each sampler by itself."
            )
        return replace(first, scores=torch.cat(scores))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _match(self, sketch: Sketch, spec: RecordSpec | None) -> _Entry:
        with self._lock:
            newest_first = list(reversed(self._entries.values()))
        candidates = [e for e in newest_first if spec is None or e.heard.spec == spec]
        best = min(candidates, key=lambda e: sketch.distance(e.sketch), default=None)
        if best is None or sketch.distance(best.sketch) > TOLERANCE:
            raise ConceptAttentionError(
                "No concepts were recorded for this latent. Connect the LATENT that comes straight "
                "from a sampler whose MODEL went through Record Concepts; if it did, its recording "
                "was dropped to save memory: run the sampler again, with another seed if it is "
                "cached."
            )
        return best

    def _forget_earlier(self, entry: _Entry) -> None:
        """The same picture recorded in the same way again takes the place of the old one."""
        for key, other in list(self._entries.items()):
            if other.heard.spec == entry.heard.spec and other.sketch.distance(entry.sketch) == 0:
                del self._entries[key]

    def _oldest(self) -> _Entry:
        return next(iter(self._entries.values()))

    def _nbytes(self) -> int:
        recordings = {id(e.heard): e.heard.nbytes for e in self._entries.values()}
        sketches = sum(e.sketch.values.nbytes for e in self._entries.values())
        return sum(recordings.values()) + sketches


def _kind(recording: Recording) -> tuple:
    return recording.spec, recording.grid, recording.steps, recording.blocks


STORE = Store()
