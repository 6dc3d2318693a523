"""Whether a change leaves every map as it was: raw scores of fixed runs, kept and compared.

    COMFYUI_PATH=... python -m bench.same_maps record FOLDER     # before the change
    COMFYUI_PATH=... python -m bench.same_maps compare FOLDER    # after it

The models are those of the law tests, all with fixed random weights. `compare` prints every run
whose scores are not the same bit for bit, with the largest difference, and ends with status 1 if
one differs by more than `--tolerance`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .sampling import import_comfy

GENERIC = "generic path (Flux.1's model)"
Runs = Iterator[tuple[str, Tensor]]
"""Names of runs and their raw scores, `b step block c y x`."""


def run_comfyui() -> Runs:
    """Every family that this ComfyUI has, in every score space, and what else a family may meet."""
    import tests.conftest  # noqa: F401  (before ComfyUI, which has tests, too)

    import_comfy("cpu")
    from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
    from conceptattention.conceptattention_core.hosts.comfyui import families
    from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

    from tests.comfyui.tiny import HERE, TINY, Tiny

    def scores(tiny: Tiny, positive=None, size=(2, 5, 7), cfg=3.0, **spec) -> Tensor:
        STORE.clear()
        latent = tiny.sample(tiny.recorded(**spec), size, cfg=cfg, positive=positive)
        return STORE.find(latent).scores

    def every(name: str, tiny: Tiny) -> Runs:
        for space in SPACES:
            yield f"{name}, {space}", scores(tiny, method=Method(space=space))
        for attend in ATTEND:
            yield f"{name}, attends to {attend}", scores(tiny, method=Method(attend))
        yield f"{name}, bounces", scores(tiny, method=Method(bounces=1))
        yield f"{name}, first token", scores(tiny, tokens="first", size=(1, 8, 6), cfg=1.0)
        yield f"{name}, short prompt", scores(tiny, tiny.prompt(3, tokens=2))
        if tiny.references:
            others = [tiny.latent(1, *tiny.reference, seed=5)]
            yield f"{name}, reference", scores(tiny, tiny.prompt(1, reference_latents=others))

    for name, tiny in HERE.items():
        yield from every(name, tiny)
    families.FAMILIES.clear()  # so that the model of one takes the generic path
    tiny = TINY["Flux.1"]
    for attend in ATTEND:
        yield f"{GENERIC}, attends to {attend}", scores(tiny, method=Method(attend))
    yield f"{GENERIC}, value", scores(tiny, method=Method(space="value"))


HOSTS: dict[str, Callable[[], Runs]] = {"comfyui": run_comfyui}


def compare(found: Tensor | None, expected: Tensor) -> float:
    """The largest difference, as a part of the largest score; infinite for another shape."""
    if found is None or found.shape != expected.shape:
        return float("inf")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", choices=tuple(HOSTS), default="comfyui")
    parser.add_argument("--tolerance", type=float, default=0.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = asked.folder / f"{asked.host}.pt"
    found = dict(HOSTS[asked.host]())
    if asked.action == "record":
        asked.folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
        print(f"{len(found)} runs recorded in {file}")
        return
    expected = torch.load(file)
    apart = {name: compare(found.get(name), scores) for name, scores in expected.items()}
    for name, difference in apart.items():
        if difference:
            print(f"{name}: differs by {difference:.2g} of the largest score")
    same = sum(not difference for difference in apart.values())
    print(f"{same} of {len(expected)} runs the same bit for bit")
    sys.exit(any(difference > asked.tolerance for difference in apart.values()))


if __name__ == "__main__":
    main()
