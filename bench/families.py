"""What recording costs with each family: recorded / plain sampling at mid size, on one CPU thread.

    COMFYUI_PATH=... python -m bench.families

The models are those of the law tests, grown to 8 heads of 64 and about 1,024 image tokens, their
joint blocks as many as there (three) and next to no single blocks: the dearest case, for what
comes after the joint blocks costs the same either way. Both ways take turns inside each round;
seconds are those of one thread on a processor.
"""

import argparse
import json
import math
import statistics
import time
from typing import Any

import torch

from .sampling import RESULTS, WORDS, import_comfy

IMAGE_TOKENS, PROMPT_TOKENS, CONCEPTS = 1024, 128, 8
HEADS, HEAD, TINY_HEADS, TINY_HEAD, TINY_TEXT = 8, 64, 3, 16, 40
LARGEST_SIDE = 64
SLOW = "the slow path (Flux.1's model)"
SPECIAL = {  # what other numbers follow from, and how large a picture may be
    "SD3": {
        "depth": HEADS,
        "pos_embed_max_size": LARGEST_SIDE,
        "num_patches": LARGEST_SIDE**2,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": TINY_TEXT, "out_features": HEADS * HEAD},
        },
    },
    "AuraFlow": {"max_seq": LARGEST_SIDE**2},
    "Mochi": {"mlp_ratio_x": 24.0},  # ComfyUI insists on its width
    "PixelDiT": {"num_groups": HEADS, "txt_max_length": PROMPT_TOKENS},
    "Lumina 2": {"dim": HEADS * HEAD, "n_heads": HEADS},
    "Z-Image": {"dim": HEADS * HEAD, "axes_dims": (16, 24, 24)},
    "OmniGen2": {
        "hidden_size": HEADS * HEAD,
        "num_attention_heads": HEADS,
        "axes_dim_rope": (16, 24, 24),
    },
    "Boogu": {
        "hidden_size": HEADS * HEAD,
        "num_attention_heads": HEADS,
        "axes_dim_rope": (16, 24, 24),
    },
    "Ideogram 4": {"intermediate_size": 8 * HEADS * HEAD // 3},
    "ERNIE-Image": {"ffn_hidden_size": 3 * HEADS * HEAD},
    "Krea 2": {"features": HEADS * HEAD, "heads": HEADS},
}

AXES = (
    *("axes_dim", "axes_dims", "axes_dims_rope", "rope_axes_dim", "rope_dim_list"),
    "mrope_section",
)


def grow(value: Any, name: str = "") -> Any:
    """A configuration of the law tests at mid size, by what its numbers are."""
    if isinstance(value, dict):
        return {key: grow(item, key) for key, item in value.items()}
    if name in AXES:
        return type(value)(n * HEAD // TINY_HEAD for n in value)
    if value == TINY_HEADS and "heads" in name:
        return HEADS
    if value == TINY_HEAD and "head" in name:
        return HEAD
    return HEADS * HEAD if value == TINY_HEADS * TINY_HEAD else value


def build(name: str, tiny: Any) -> Any:
    """The mid-size model of a family in a model patcher."""
    from tests.comfyui.tiny.common import random_weights

    config = tiny.model().model.model_config
    sizes = {**grow(dict(config.unet_config)), **SPECIAL.get(name, {})}
    grown = type(config)(sizes)
    grown.unet_config = sizes  # some fill in others
    grown.set_inference_dtype(torch.float32, None)
    return random_weights(grown)


def measure(name: str, tiny: Any, rounds: int) -> dict[str, Any]:
    model = build(name, tiny)
    recorded = tiny.recorded(", ".join(WORDS[:CONCEPTS]), model=model)
    side = math.ceil(math.sqrt(IMAGE_TOKENS / max(tiny.frames, 1))) * tiny.patch
    prompt = tiny.prompt(1, tokens=PROMPT_TOKENS)
    seconds: dict[str, list[float]] = {"plain": [], "recorded": []}
    latents = {}
    for round_ in range(rounds + 1):  # the first warms up
        for way, own in (("plain", model), ("recorded", recorded)):
            start = time.process_time()
            latents[way] = tiny.sample(own, (1, side, side), steps=1, positive=prompt)
            if round_:
                seconds[way].append(time.process_time() - start)
    ratios = sorted(a / b for a, b in zip(seconds["recorded"], seconds["plain"], strict=True))
    return {
        "tokens": max(tiny.frames, 1) * (side // tiny.patch) ** 2,
        "weights": sum(p.numel() for p in model.model.diffusion_model.parameters()),
        "plain seconds": round(statistics.median(seconds["plain"]), 3),
        "median": round(statistics.median(ratios), 3),
        "min": round(ratios[0], 3),
        "max": round(ratios[-1], 3),
        "picture unchanged": torch.equal(*latents.values()),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| family | image tokens | plain | recorded / plain (min-max) |", "|---|---|---|---|"]
    for name, row in rows.items():
        span = f"**{row['median']:.3f}** ({row['min']:.3f}-{row['max']:.3f})"
        lines.append(f"| {name} | {row['tokens']} | {row['plain seconds']:.2f} s | {span} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="part of a family's name; the others' figures stay")
    asked = parser.parse_args()
    import tests.conftest  # noqa: F401  (before ComfyUI, which has tests, too)

    import_comfy("cpu")
    torch.set_num_threads(1)
    from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES

    from tests.comfyui.tiny import HERE

    file = RESULTS / "families_cpu.json"
    rows = json.loads(file.read_text()) if asked.only and file.exists() else {}
    for name, tiny in HERE.items():
        if asked.only is None or asked.only in name:
            rows[name] = measure(name, tiny, asked.rounds)
            print(table({name: rows[name]}).splitlines()[-1], flush=True)
    if asked.only is None or asked.only in SLOW:
        FAMILIES.clear()  # whose model goes the slow path then
        rows[SLOW] = measure("Flux.1", HERE["Flux.1"], asked.rounds)
        print(table({SLOW: rows[SLOW]}).splitlines()[-1], flush=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
