"""Whether a change leaves every map as it was: raw scores of fixed runs, kept and compared.

    COMFYUI_PATH=... python -m bench.same_maps record FOLDER     # before the change
    COMFYUI_PATH=... python -m bench.same_maps compare FOLDER    # after it
    python -m bench.same_maps record FOLDER --host diffusers

The models are those of the law tests, all with fixed random weights. `compare` prints every run
whose scores are not the same bit for bit, with the largest difference, and ends with status 1 if
one differs by more than `--tolerance`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def run_diffusers() -> Runs:
    """Every family, and other versions of some, in every space; what is located in images, too."""
    from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
    from conceptattention.conceptattention_core.concepts import parse
    from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
    from conceptattention.conceptattention_core.hosts.diffusers.patch import record
    from conceptattention.conceptattention_core.locating import LocateSpec
    from conceptattention.conceptattention_core.recording import RecordSpec

    import tests.conftest  # noqa: F401
    from tests.hosts.diffusers.tiny import LENGTH, TINY, Tiny
    from tests.hosts.diffusers.tiny.cogvideox import tiny_cogvideox
    from tests.hosts.diffusers.tiny.flux import tiny_flux
    from tests.hosts.diffusers.tiny.flux2 import tiny_flux2
    from tests.hosts.diffusers.tiny.sd3 import tiny_sd3

    concepts = parse("red balloon, sky, sea: the green sea")
    images = torch.rand(2, 3, 50, 77, generator=torch.Generator().manual_seed(3))
    others = {
        "Flux.1 dev": (lambda: tiny_flux(guidance=True), "Flux.1"),
        "Flux.2 dev": (lambda: tiny_flux2(klein=False), "Flux.2"),
        "SD3.0": (lambda: tiny_sd3(newer=False), "SD3"),
        "CogVideoX 2b": (lambda: tiny_cogvideox(rotary=False), "CogVideoX"),
        "CogVideoX 1.5": (lambda: tiny_cogvideox(version="1.5"), "CogVideoX"),
    }

    def scores(pipe: Any, tiny: Tiny, spec: RecordSpec, **changed: Any) -> Tensor:
        usual = {"height": 48, "width": 80, "num_inference_steps": 2, "output_type": "latent"}
        prompt = {"prompt": "a red balloon over the sea", "max_sequence_length": LENGTH}
        with record(pipe, spec) as session:
            noise = torch.Generator().manual_seed(0)
            pipe(**{**usual, **prompt, **tiny.call, **changed}, generator=noise)
        return session.recording().scores

    def every(name: str, make: Callable[[], Any], tiny: Tiny) -> Runs:
        pipe = make()
        for space in SPACES:
            spec = RecordSpec(concepts, method=Method(space=space))
            yield f"{name}, {space}", scores(pipe, tiny, spec)
        for attend in ATTEND:
            spec = RecordSpec(concepts, method=Method(attend))
            yield f"{name}, attends to {attend}", scores(pipe, tiny, spec)
        bounces = RecordSpec(concepts, "first", Method(bounces=1), blocks="1-2")
        yield f"{name}, first token, bounces, guided", scores(pipe, tiny, bounces, **tiny.guided)
        how = LocateSpec("a red balloon", noise=(0.3, 0.6), samples=2)
        yield f"{name}, located", locate(pipe, images, RecordSpec(concepts), how).scores
        yield f"{name}, bfloat16", scores(pipe.to(torch.bfloat16), tiny, RecordSpec(concepts))

    for name, tiny in TINY.items():
        yield from every(name, tiny.make, tiny)
    for name, (make, family) in others.items():
        yield from every(name, make, TINY[family])


HOSTS: dict[str, Callable[[], Runs]] = {"comfyui": run_comfyui, "diffusers": run_diffusers}


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
