"""What recording costs, counted: floating-point operations of a step, recorded against plain.

    COMFYUI_PATH=... python -m bench.flops

Counts are exact and the same on every machine. One forward of ComfyUI's real Flux.1, at middle
size and at its true one, runs on tensors that have shapes and no numbers, so it needs neither the
memory nor the time; torch.utils.flop_counter counts the products of matrices and attention.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .sampling import MID_SIZE, RESULTS, TRUE_SIZE, WORDS, TwoWordEncoder, build, import_comfy
from .sampling import papers_way as by_papers_way

PROMPT_TOKENS = 256
SIZES = {"middle": MID_SIZE, "true Flux.1": TRUE_SIZE}
CASES = ((1024, 8), (1024, 64), (4096, 8), (4096, 64))


@dataclass(frozen=True)
class Count:
    """FLOPs of one forward for one picture, without guidance."""

    size: str
    tokens: int
    concepts: int
    plain: int
    recorded: int
    papers_way: int


def attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """The formula that torch has for attention on every device but this one."""
    return sdpa_flop_count(query, key, value)


FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_on_cpu}


def step_flops(model: Any, side: int, shapes: FakeTensorMode) -> int:
    """FLOPs of one forward of a patched model over a latent of `side` cells, as in sampling."""
    from comfy.patcher_extension import (
        WrapperExecutor,
        WrappersMP,
        copy_nested_dicts,
        get_all_wrappers,
    )

    sigmas = torch.tensor([1.0, 0.0])
    options = {
        **model.model_options["transformer_options"],
        "wrappers": copy_nested_dicts(model.wrappers),
        "cond_or_uncond": [0], "uuids": ["prompt"],
        "sigmas": sigmas[:1], "sample_sigmas": sigmas,
    }  # fmt: skip
    guider = SimpleNamespace(
        model_patcher=model,
        conds={"positive": [{"uuid": "prompt"}]},
        model_options={"transformer_options": options},
    )

    with shapes:
        latent, prompt = torch.empty(1, 16, side, side), torch.empty(1, PROMPT_TOKENS, 4096)
        conds = {"c_crossattn": prompt, "y": torch.empty(1, 768), "guidance": torch.empty(1)}

    def forward(latent: torch.Tensor, *_: Any) -> torch.Tensor:
        return model.model.apply_model(latent, sigmas[:1], transformer_options=options, **conds)

    wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, {"wrappers": model.wrappers})
    executor = WrapperExecutor.new_class_executor(forward, guider, wrappers)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.inference_mode(), counter:
        executor.execute(latent, latent, None, sigmas)
    return counter.get_total_flops()


def count(size: str, tokens: int, concepts: int) -> Count:
    """All three ways on one model."""
    from conceptattention_core.concepts import Concept, ConceptSet
    from conceptattention_core.hosts.comfyui.patch import record
    from conceptattention_core.recording import Recording, RecordSpec

    heard: list[Recording] = []
    clip = TwoWordEncoder(4096)
    words = [f"{WORDS[i % len(WORDS)]}{i}" for i in range(concepts)]
    spec = RecordSpec(ConceptSet(tuple(Concept(word, word) for word in words)))
    side = round(tokens**0.5) * 2
    # What it makes has no numbers, and neither has what comes of that. Outside of it the schedule
    # keeps its numbers, from which a recording tells its steps.
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes:
        model = build(SIZES[size], "cpu", torch.float32)
    recorded = record(model, clip, spec, file=lambda _, recording: heard.append(recording))
    papers = by_papers_way(model, clip, words, [])
    flops = [step_flops(one, side, shapes) for one in (model, recorded, papers)]
    if len(heard) != 1 or not isinstance(heard[0], Recording):
        raise SystemExit(f"Nothing was recorded, so nothing is counted: {heard}")
    return Count(size, tokens, concepts, *flops)


def table(counts: list[Count]) -> str:
    """The counts as Markdown."""
    lines = [
        "| size | image tokens | concepts | plain | recorded / plain | paper's way / plain |",
        "|---|---|---|---|---|---|",
    ]
    for one in counts:
        lines.append(
            f"| {one.size} | {one.tokens} | {one.concepts} | {one.plain / 1e12:.3f} TFLOP "
            f"| **{one.recorded / one.plain:.4f}** | {one.papers_way / one.plain:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    import_comfy("cpu")
    counts = [count(size, tokens, concepts) for size in SIZES for tokens, concepts in CASES]
    print(table(counts))
    rows = [asdict(one) for one in counts]
    (RESULTS / "flops.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    (RESULTS / "flops.md").write_text(table(counts))


if __name__ == "__main__":
    main()
