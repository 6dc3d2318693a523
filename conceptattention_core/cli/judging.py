"""What `evaluate` does with a sample: a job that any process can take up, and its data sets."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import ConceptAttentionError
from ..evaluation.datasets import Dataset, Sample, open_imagenet_segmentation, open_voc
from ..evaluation.metrics import IGNORE
from ..evaluation.protocols import PROTOCOLS
from ..evaluation.run import Plan, Variant, evaluate
from ..images import stack_images
from ..locating import LocateSpec
from ..maps import ReadSpec
from ..pixels import ImageArray
from ..recording import Recording, RecordSpec
from . import models

SCENE_PIXELS = 256


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to judge samples."""

    protocol: str
    data: Path | None
    names: Path | None
    size: int | None
    count: int
    changes: dict[str, Any]
    variants: tuple[Variant, ...]
    tokens: str
    reading: ReadSpec
    seed: int
    curves: bool
    model: str
    device: str
    dtype: str

    @property
    def plan(self) -> Plan:
        protocol = PROTOCOLS[self.protocol].changed(**self.changes)
        return Plan(protocol, self.variants, self.tokens, self.reading, self.seed, self.curves)

    @property
    def settings(self) -> dict[str, Any]:
        """What evaluate.json has of it: results of other settings are never mixed in."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["variants"] = [asdict(variant) for variant in self.variants]
        at = list(own).index("reading")
        reading = {"order": self.reading.order, "scale": self.reading.scale}
        entries = list(own.items())
        return dict([*entries[:at], *reading.items(), *entries[at + 1 :]])

    def open(self) -> Dataset:
        if self.protocol == "scenes":
            return open_scenes(self.count, self.size or SCENE_PIXELS)
        if self.data is None:
            raise ConceptAttentionError(f"{self.protocol} needs --data PATH.")
        if self.protocol == "imagenet-segmentation":
            return open_imagenet_segmentation(self.data, self.names)
        data = open_voc(self.data)
        return only_single_class(data) if self.protocol == "voc-single" else data


def open_scenes(count: int, size: int) -> Dataset:
    """The demo's drawn landscapes with exact masks, none of which was trained on."""
    try:
        from demo.scenes import HELD_OUT_SEED, WORDS, scene
    except ModuleNotFoundError:
        raise ConceptAttentionError(
            "The scenes are drawn by the folder 'demo' of this repository: run from its root."
        ) from None
    import numpy as np

    def read(key: str) -> Sample:
        drawn = scene(int(key), size)
        labels = np.zeros(drawn.image.shape[:2], np.uint8)
        for word, mask in drawn.masks.items():
            labels[mask] = WORDS.index(word) + 1
        return Sample(
            key, drawn.image, labels, {WORDS.index(word) + 1: word for word in drawn.masks}
        )

    return Dataset(tuple(str(HELD_OUT_SEED + i) for i in range(count)), read)


def only_single_class(data: Dataset) -> Dataset:
    """The images that show one class at the protocol's label size, as foreground 1."""
    import numpy as np

    protocol = PROTOCOLS["voc-single"]

    def classes_of(sample: Sample) -> list[int]:
        return sorted({*np.unique(protocol.truth(sample)).tolist()} - {0, IGNORE})

    def read(key: str) -> Sample:
        sample = data.read(key)
        (label,) = classes_of(sample)
        judged = np.where(sample.labels == IGNORE, IGNORE, 0)
        labels = np.where(sample.labels == label, 1, judged).astype(np.uint8)
        return Sample(key, sample.image, labels, {1: sample.classes[label]})

    single = (key for key in data.keys if len(classes_of(data.read(key))) == 1)
    return Dataset(tuple(single), read)


class Judge:
    """A loaded model and a data set: from the key of a sample to its scores."""

    def __init__(self, job: Job, data: Dataset):
        with models.needs_diffusers():
            from ..hosts.diffusers.families import family_of

        self.data, self.plan = data, job.plan
        self.pipe = models.load(job.model, *models.choose_place(job.device, job.dtype))
        family_of(self.pipe)  # says so before it takes time

    def record(self, image: ImageArray, spec: RecordSpec, how: LocateSpec) -> Recording:
        from ..hosts.diffusers.locate import locate

        unlimited = replace(how, megapixels=float("inf"))  # the protocol says how large
        return locate(self.pipe, stack_images([image]), spec, unlimited)

    def scores(self, key: str) -> dict[str, Any]:
        return evaluate(self.data.read(key), self.plan, self.record)


class Actor:
    """A process of a cluster that judges its share of the samples."""

    def __init__(self, job: Job):
        self.judge = Judge(job, job.open())

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        keys = rows["key"].tolist()
        scores = [self.judge.scores(key) for key in keys]
        counts = [{name: score.counts() for name, score in one.items()} for one in scores]
        return {"key": keys, "scores": [json.dumps(one) for one in counts]}
