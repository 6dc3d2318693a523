"""Whether memory grows with prompts: the slope of recorded sampling against that of plain sampling.

    COMFYUI_PATH=... python -m bench.soak              # 400 prompts each way
    COMFYUI_PATH=... python -m bench.soak --quick      # 40, as in the tests

Runs in the Python of a ComfyUI on the small Flux.1 of the law tests. Every prompt has a seed and
words of its own, so nothing is answered from an earlier one, and each recording is read. Both ways
take turns in stretches of ten prompts. Exit code 1: recording grows by more than plain sampling
and 0.02 MB a prompt.
"""

import argparse
import gc
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .sampling import RESULTS, import_comfy

PROMPTS, QUICK, STRETCH = 400, 40, 10
WARM_UP = 0.25
"""The part of the prompts in which caches and the store of recordings fill up."""
ALLOWED = 0.02
"""MB a prompt by which recording may grow more than plain sampling."""
SIZE = (1, 8, 8)
STORE_BYTES = 64 * 1024
"""What the store may hold here: the warm-up fills it, afterwards it must not grow."""


@dataclass(frozen=True)
class Soak:
    """Memory of the process after each stretch, in MB, and its growth after the warm-up."""

    prompts: int
    plain: list[float]
    recorded: list[float]

    @property
    def slopes(self) -> tuple[float, float]:
        """MB a prompt, plain and recorded."""
        return slope(self.plain), slope(self.recorded)

    @property
    def grows(self) -> bool:
        """Whether recording leaves more behind than is allowed."""
        plain, recorded = self.slopes
        return recorded > max(plain, 0.0) + ALLOWED


def slope(memory: list[float]) -> float:
    """MB a prompt: the line through the growth of each stretch, added up, after the warm-up."""
    kept = np.array(memory[int(len(memory) * WARM_UP) :])
    return float(np.polyfit(np.arange(len(kept)) * STRETCH, kept, 1)[0])


def resident() -> float:
    """What this process holds in memory, in MB."""
    import psutil

    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss / 1e6


def soak(prompts: int, leak: Any = None) -> Soak:
    """Sample `prompts` prompts each way. `leak` is called with each recording, for tests."""
    from conceptattention_core.concepts import parse
    from conceptattention_core.hosts.comfyui.patch import record
    from conceptattention_core.hosts.comfyui.store import Store
    from conceptattention_core.recording import RecordSpec
    from tests.comfyui.tiny import TINY

    tiny, model = TINY["Flux.1"], TINY["Flux.1"].model()
    store = Store(STORE_BYTES)

    def one(seed: int, recorded: bool) -> None:
        if not recorded:
            tiny.sample(model, SIZE, seed=seed)
            return
        latent = tiny.sample(patched(seed), SIZE, seed=seed)
        found = store.find(latent)
        if not bool(found.scores.isfinite().all()):
            raise SystemExit(f"Prompt {seed} was recorded with numbers that are not finite.")
        if leak is not None:
            leak(found)

    def patched(seed: int) -> Any:
        spec = RecordSpec(parse(f"cat, red dog, word{seed}"))
        return record(model, tiny.clip(), spec, file=store.file)

    growth: dict[bool, list[float]] = {False: [0.0], True: [0.0]}
    for recorded in (False, True):
        one(0, recorded)
    for start in range(0, prompts, STRETCH):
        for recorded in (False, True):
            before = resident()
            for seed in range(start + 1, start + STRETCH + 1):
                one(seed, recorded)
            growth[recorded].append(growth[recorded][-1] + resident() - before)
    return Soak(prompts, growth[False], growth[True])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} prompts, nothing kept")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    asked = parser.parse_args()
    import_comfy("cpu")
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import tests.conftest  # noqa: F401  gives the law tests the pack's name

    torch.set_num_threads(1)
    done = soak(QUICK if asked.quick else asked.prompts)
    plain, recorded = done.slopes
    print(f"{done.prompts} prompts: plain {plain:.4f} MB a prompt, recorded {recorded:.4f}")
    if not asked.quick:
        kept = {**asdict(done), "plain slope": plain, "recorded slope": recorded}
        (RESULTS / "soak.json").write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    sys.exit(done.grows)


if __name__ == "__main__":
    main()
