"""The same work spread over a Ray cluster: one model per actor, the files of a single process.

Ray Data hands out the pictures, starts a dead actor again and gives its pictures to another one.
Since a picture's folder appears whole or not at all, a picture done twice is the same picture.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import ConceptAttentionError
from ..pictures import PictureFile
from ..segmenting import Outcome
from ..segmenting import segment as segment_pictures

if TYPE_CHECKING:
    from .segment import Job

HERE = "auto"


class Actor:
    """A process with a model that does its share of the pictures."""

    def __init__(self, job: "Job", out: Path, settings: Mapping[str, Any]):
        from .segment import Locator

        self.locate, self.out, self.settings = Locator(job), out, settings

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        pictures = [
            PictureFile(Path(path), name)
            for path, name in zip(rows["path"].tolist(), rows["name"].tolist(), strict=True)
        ]
        outcomes = list(
            segment_pictures(pictures, self.locate, self.out, self.settings, len(pictures))
        )
        return {
            "path": [str(outcome.picture.path) for outcome in outcomes],
            "name": [outcome.picture.name for outcome in outcomes],
            "error": [outcome.error for outcome in outcomes],
        }


def segment_on_ray(
    address: str,
    pictures: list[PictureFile],
    job: "Job",
    out: Path,
    settings: Mapping[str, Any],
    batch: int,
) -> Iterator[Outcome]:
    """Do all pictures on the cluster at `address`; "auto" finds or starts one.

    Pictures and `out` have to be reachable under the same paths from every machine.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ConceptAttentionError(
            "Spreading work needs Ray: pip install 'conceptattention[cluster]'"
        ) from None
    if not ray.is_initialized():
        _connect(ray, address)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
    rows = [{"path": str(picture.path.resolve()), "name": picture.name} for picture in pictures]
    data = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // batch))
    done = data.map_batches(
        Actor,
        fn_constructor_args=(job, out.resolve(), settings),
        batch_size=batch,
        concurrency=min(actors, len(rows)),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    named = {picture.name: picture for picture in pictures}
    for row in done.iter_rows():
        yield Outcome(named[row["name"]], row["error"])


def _connect(ray: Any, address: str) -> None:
    try:
        if address != HERE:
            ray.init(address)
            return
        try:
            ray.init("auto", log_to_driver=False)
        except ConnectionError:
            ray.init(log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise ConceptAttentionError(f"No Ray cluster answers at {address}: {error}") from None
