"""What a Python program calls: recording a pipeline, and every command as a function."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import ConceptAttentionError
from .concepts import ConceptSet
from .files import read_json, to_json, write_text
from .maps import ConceptMaps, ReadSpec, describe_presence, read_maps
from .masks import MaskSpec
from .recording import Recording, RecordSpec
from .specs import FindFields, ReadFields, RecordFields, change, locate_specs, record_spec

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from typing_extensions import Unpack

    from .cli.calls import EvaluateOptions, GenerateOptions, SegmentOptions
    from .hosts.diffusers.patch import RecordingSession

PROCESSORS = (("image_processor", "postprocess"), ("video_processor", "postprocess_video"))
"""Of a pipeline: what makes images of its latents, and how."""


@dataclass(frozen=True, eq=False)
class Results:
    """What was written to a folder."""

    folder: Path
    report: Mapping[str, Any] = field(repr=False)
    """As in the folder's report.json, or summary.json of `segment`."""
    text: str = field(default="", repr=False)
    """What the shell shows of it."""


class RecordedRun:
    """The last run of a pipeline inside `record`. It may be read inside and after the `with`."""

    def __init__(self, pipe: Any, session: "RecordingSession", made: list[Any]):
        self._pipe, self._session, self._made = pipe, session, made

    def __repr__(self) -> str:
        concepts = ", ".join(self._session.plan.spec.concepts.names)
        return f"RecordedRun({type(self._pipe).__name__}, concepts={concepts!r})"

    @property
    def images(self) -> Any:
        """What the pipeline returned: images, or videos as lists of frames; of any output type."""
        if not self._made:
            raise ConceptAttentionError(
                "The pipeline gave no images in its last run. Give them: run.save(folder, images)."
            )
        return self._made[0]

    def recording(self) -> Recording:
        """The scores of the run, kept apart by step and block.

        A ConceptAttentionError says why there are none.
        """
        recording = self._session.recording()
        if recording.grid.time.pictures > 1 and self._made:
            recording = recording.of_length(len(self.images[0]))
        return recording

    def maps(self, **reading: "Unpack[ReadFields]") -> ConceptMaps:
        """The maps of all images of the run, or of all frames of its videos.

        Fields of ReadSpec may be given as keywords: `run.maps(steps="5-10", temperature=0.5)`.
        """
        return read_maps(self.recording(), change(ReadSpec(), reading))

    def save(
        self,
        folder: str | Path,
        images: Any = None,
        *,
        masks: MaskSpec | None = None,
        **reading: "Unpack[ReadFields]",
    ) -> Results:
        """Write masks, heat maps, overlay, sheet, label map and a report, as `generate` does.

        Several images or videos get a folder each, 0, 1 and so on. `images` are those of the run,
        where the pipeline gave others or none (output_type="latent"). What an earlier call wrote
        to `folder` is replaced.
        """
        from .cli.generate import REPORT, remove_earlier
        from .pixels import read_images, to_bytes

        folder, recording = Path(folder), self.recording()
        spec, masks = change(ReadSpec(), reading), masks or MaskSpec()
        images = self.images if images is None else images
        time = recording.grid.time
        is_video = time.pictures > 1
        if is_video:
            items = [read_images(video) for video in images]
        else:
            items = [[image] for image in read_images(images)]
        count = len(recording.scores) // time.frames
        if len(items) != count:
            raise ConceptAttentionError(
                f"The run made {count} {'videos' if is_video else 'images'}, got {len(items)}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        remove_earlier(folder)
        entries, lines = [], []
        for i, frames in enumerate(items):
            pixels = [to_bytes(frame) for frame in frames]
            own = recording.scores[i * time.frames : (i + 1) * time.frames]
            maps = read_maps(replace(recording, scores=own), spec)
            name = "." if count == 1 else str(i)
            found = self._save_one(folder / name, pixels, maps, masks)
            entries.append({"folder": name, **found})
            lines.append(describe_presence(maps))
        report = {"videos" if is_video else "pictures": entries}
        write_text(folder / REPORT, to_json(report))
        return Results(folder, report, "\n".join(lines))

    def _save_one(self, folder: Path, pixels: Any, maps: ConceptMaps, masks: MaskSpec) -> dict:
        from PIL import Image

        from .hosts.diffusers.families import family_of
        from .hosts.diffusers.families.base import VideoFamily
        from .output.export import file_path, save_image, save_image_files, save_video_files

        family = family_of(self._pipe)
        if isinstance(family, VideoFamily) and maps.grid.time.pictures > 1:
            return save_video_files(folder, pixels, maps, masks, family.fps(self._pipe))
        found = save_image_files(folder, pixels[0], maps, masks)
        save_image(Image.fromarray(pixels[0]), folder / file_path("image"))
        return found


@contextmanager
def record(
    pipe: "DiffusionPipeline",
    concepts: str | ConceptSet | RecordSpec,
    *,
    background: bool = False,
    max_sequence_length: int | None = None,
    strict: bool = False,
    **fields: "Unpack[RecordFields]",
) -> Iterator[RecordedRun]:
    """Record concepts whenever a diffusers pipeline runs inside this `with`::

        with ca.record(pipe, "dragon, rock, sky, sun") as run:
            image = pipe("a dragon on a rock").images[0]
        maps = run.maps()

    `concepts` is a text as `parse` takes it, a ConceptSet or a RecordSpec; fields of RecordSpec may
    be given as keywords, and `background` adds a hidden concept to a text. The images stay the same
    bit for bit.

    Give `max_sequence_length` here, too, where the pipeline is called with it. What cannot work is
    refused at once by ConceptAttentionError; what fails later is raised where maps are asked for,
    or with `strict` where it happens.
    """
    record_pipeline = _import_host().record
    spec = _warn_of_notices(record_spec(concepts, background, fields))
    with (
        record_pipeline(
            pipe, spec, max_sequence_length=max_sequence_length, strict=strict
        ) as session,
        _keep_images(pipe) as made,
    ):
        yield RecordedRun(pipe, session, made)


def locate(
    pipe: "DiffusionPipeline",
    images: Any,
    concepts: str | ConceptSet | RecordSpec,
    *,
    background: bool = False,
    **fields: "Unpack[FindFields]",
) -> ConceptMaps:
    """The maps of concepts in images that exist already: the model looks at them, slightly noised.

    `images` are one or several of one size: Pillow's, arrays or tensors. Fields of RecordSpec and
    of LocateSpec may be given as keywords: `ca.locate(pipe, image, "cat, sofa", samples=4)`.
    `ca.read_maps(maps.recording, ...)` reads the same recording in another way.
    """
    _import_host()
    from .hosts.diffusers.locate import locate as locate_in_tensor
    from .pixels import read_images

    spec, how = locate_specs(concepts, background, fields)
    _warn_of_notices(spec)
    pixels = read_images(images)
    if len({one.shape for one in pixels}) != 1:
        raise ConceptAttentionError(f"Images of one size are located together; got {len(pixels)}.")
    stacked = torch.stack(pixels).movedim(3, 1)  # b rgb h w
    recording = locate_in_tensor(pipe, stacked, spec, how)
    return read_maps(recording, ReadSpec(blocks="all"))


def generate(
    model: str | Path,
    prompt: str,
    concepts: str,
    out: str | Path,
    **options: "Unpack[GenerateOptions]",
) -> Results:
    """Generate images or a video and write the files of each: the command `generate`.

    `model` is a model folder of diffusers or a name on the Hugging Face Hub. Options are those of
    the shell with `_` for `-`: `ca.generate("demo/model", "a lake", "lake, sky", "out", seed=3)`.
    """
    given = {"model": model, "prompt": prompt, "concepts": concepts, "out": out, **options}
    return _call("generate", given, "report.json")


def segment(
    paths: str | Path | Iterable[str | Path],
    concepts: str,
    model: str | Path,
    out: str | Path,
    **options: "Unpack[SegmentOptions]",
) -> Results:
    """Find concepts in image files and folders of them, and write their files: `segment`.

    Images that are done already are left alone. Files that could not be read are no error: they
    are listed under "failed" and "skipped" of the report.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    given = {"concepts": concepts, "model": model, "out": out, **options}
    return _call("segment", given, "summary.json", paths)


def evaluate(
    protocol: str, model: str | Path, out: str | Path, **options: "Unpack[EvaluateOptions]"
) -> Results:
    """Measure how right the maps are on images with known masks: the command `evaluate`.

    `protocol` is one of `evaluation.protocols.PROTOCOLS`; all but "scenes" need `data`.
    """
    return _call("evaluate", {"model": model, "out": out, **options}, "report.json", [protocol])


def _call(
    command: str, given: Mapping[str, Any], report: str, positional: Iterable[Any] = ()
) -> Results:
    from .cli.calls import call

    lines = call(command, given, positional)
    folder = Path(given["out"])
    return Results(folder, read_json(folder / report), "\n".join(lines))


def _import_host() -> Any:
    """The diffusers host, or an error that says what to install."""
    from .cli.models import needs_diffusers

    with needs_diffusers():
        from .hosts.diffusers import patch
    return patch


def _warn_of_notices(spec: RecordSpec) -> RecordSpec:
    for notice in spec.concepts.notices:
        warnings.warn(notice, stacklevel=4)
    return spec


@contextmanager
def _keep_images(pipe: Any) -> Iterator[list[Any]]:
    """What the pipeline's last run made, as the only item of a list, or an empty list."""
    from .hosts.diffusers.prompts import observe_method

    made: list[Any] = []

    def begin(*_: Any) -> None:
        made.clear()

    def keep(method: Any, args: tuple, kwargs: dict[str, Any], images: Any) -> None:
        made[:] = [images]

    with ExitStack() as hooks:
        hooks.enter_context(observe_method(pipe, "check_inputs", begin))
        for name, method in PROCESSORS:
            hooks.enter_context(observe_method(getattr(pipe, name, None), method, keep))
        yield made
