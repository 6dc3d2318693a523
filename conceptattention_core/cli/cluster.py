"""The same work spread over a Ray cluster: one model per actor, the results of a single process.

Ray Data hands out the work, starts a dead actor again and gives what it had to another one. Work
done twice has to be the same work: results appear whole or not at all.
"""

from collections.abc import Iterator
from typing import Any

from .. import ConceptAttentionError

HERE = "auto"


def spread(
    address: str, rows: list[dict[str, str]], actor: type, arguments: tuple, batch: int = 1
) -> Iterator[dict[str, Any]]:
    """Call `actor(*arguments)` on all rows, `batch` at a time, on the cluster at `address`.

    An actor takes columns of strings and gives columns. "auto" finds a cluster or starts one
    here. Paths in rows and arguments have to mean the same on every machine.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayTaskError
    except ModuleNotFoundError:
        raise ConceptAttentionError(
            "Spreading work needs Ray: pip install 'conceptattention[cluster]'"
        ) from None
    if not ray.is_initialized():
        _connect(ray, address)
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch))
    done = data.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=batch,
        concurrency=min(gpus or cpus, len(rows)),
        num_gpus=1 if gpus else 0,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    try:
        yield from done.iter_rows()
    except RayTaskError as error:
        cause: Any = error
        while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = inner
        if isinstance(cause, ConceptAttentionError | OSError):
            raise cause from None
        raise


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
