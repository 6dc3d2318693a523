"""What recording costs: plain sampling, recorded sampling and others to compare, in turn.

    COMFYUI_PATH=... python -m bench.sampling                     # mid-size random Flux, CPU
    COMFYUI_PATH=... python -m bench.sampling --true-size         # Flux's own size, one GPU, bf16

Runs in the Python of a ComfyUI (0.3.64 or newer) through its real classes; weights are random,
because time does not depend on them. The ways take turns inside each round, so a machine
whose speed drifts slows all of them; figures are ratios to the plain run of the same round, as a
median with its interval, and "noise" where 1 lies inside. `bench.flops` counts instead. On a
CPU the seconds are those of one thread on a processor, which other programs disturb least; on a
GPU they are seconds of the clock.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
MID_SIZE = {"hidden_size": 512, "num_heads": 8, "depth": 4, "depth_single_blocks": 4}
TRUE_SIZE = {"hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38}
WORDS = ["balloon", "sun", "sky", "mountain", "cloud", "water", "boat", "tree"]


def import_comfy(device: str) -> None:
    sys.path.insert(0, os.environ.get("COMFYUI_PATH") or sys.exit("Set COMFYUI_PATH."))
    asked, sys.argv = sys.argv, sys.argv[:1]  # ComfyUI reads the command line when imported
    import comfy.cli_args

    comfy.cli_args.args.cpu = device == "cpu"
    sys.argv = asked


class TwoWordEncoder:
    """Stands in for T5: every concept is two random rows, a prompt is 256."""

    def __init__(self, width: int):
        self.width = width

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"t5xxl": [[(ord(text[0]), 1.0), (ord(text[-1]), 1.0), (1, 1.0)]]}

    def encode_from_tokens(self, tokens: dict[str, Any], return_dict: bool) -> dict[str, Any]:
        rows = sum(len(ids) for ids in tokens["t5xxl"])
        return {"cond": torch.randn(1, rows, self.width)}


def build(size: dict[str, int], device: str, dtype: torch.dtype):
    """A random Flux in a model patcher."""
    import comfy.model_patcher
    import comfy.supported_models

    config = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "vec_in_dim": 768, "context_in_dim": 4096, "mlp_ratio": 4.0, "theta": 10000,
        "qkv_bias": True, "guidance_embed": True, **size,
    }  # fmt: skip
    head = size["hidden_size"] // size["num_heads"]
    config["axes_dim"] = [head // 8, head // 16 * 7, head // 16 * 7]
    from comfy.ldm.flux.model import FluxParams

    if "txt_ids_dims" in FluxParams.__annotations__:
        config["txt_ids_dims"] = []
    kind = comfy.supported_models.Flux(config)
    kind.set_inference_dtype(dtype, None)
    with torch.device(device):
        model = kind.get_model({}, "", device=torch.device(device))
    with torch.no_grad():
        for weight in model.diffusion_model.parameters():
            weight.normal_(std=0.02)
    return comfy.model_patcher.ModelPatcher(model, torch.device(device), torch.device("cpu"))


def papers_way(model, clip, words: list[str], kept: list[torch.Tensor]):
    """The reference's cost, from the paper's description: in every double block full attention of
    [concepts, image] to itself, and every vector of every block and step copied to the host."""
    import torch.nn.functional as F
    from einops import rearrange

    from conceptattention_core.hosts.comfyui.families.flux import Flux

    family, network = Flux(), model.get_model_object("diffusion_model")
    rows = torch.cat([own[:1] for own in family.embed(clip, words)])
    state: dict[str, Any] = {}

    def around(index: int):
        def block(args, extra):
            if index == 0:
                state["ride"] = family.enter(network, rows, args, {})
                state["concepts"] = state["ride"].concepts
            text = args["txt"].shape[1]

            def tap(attention, q, k, v, heads, *rest, **kwargs):
                out = attention(q, k, v, heads, *rest, **kwargs)
                joint = state["ride"].block(index, args["vec"])
                own = joint.heads(state["concepts"])
                both = [
                    torch.cat([c, x[:, :, text:]], 2) for c, x in zip(own, (q, k, v), strict=True)
                ]
                merged = rearrange(F.scaled_dot_product_attention(*both), "b h n d -> b n (h d)")
                attended = merged[:, : len(rows)]
                state["concepts"] = joint.update(state["concepts"], attended)
                kept.extend([attended.cpu(), out[:, text:].cpu()])
                return out

            options = {**args["transformer_options"], "optimized_attention_override": tap}
            return extra["original_block"]({**args, "transformer_options": options})

        return block

    patched = model.clone()
    for index in range(len(family.blocks(network))):
        patched.set_model_patch_replace(around(index), "dit", "double_block", index)
    return patched


@dataclass(frozen=True)
class Case:
    tokens: int
    concepts: int
    steps: int
    rounds: int
    with_others: bool
    """Whether also with a live preview at every step, with bounces, and the paper's way."""


RECORDED, LIVE, BOUNCED, PAPERS = "recorded", "live", "one bounce", "paper's way"


def interval(ratios: list[float]) -> tuple[float, float]:
    """Between which ratios the true median lies, in at least 95 of 100 measurements.

    By ranks, so it supposes nothing of how the noise is spread. Under 6 rounds, where no interval
    is as sure as that, all ratios lie inside.
    """
    ordered, count = sorted(ratios), len(ratios)
    skipped, tail = 0, 0.5**count  # the chance that all rounds lie on one side of the median
    while tail <= 0.025:
        skipped += 1
        tail += math.comb(count, skipped) * 0.5**count
    left_out = max(skipped - 1, 0)
    return ordered[left_out], ordered[count - 1 - left_out]


def shown(ratio: dict[str, Any]) -> str:
    """A ratio for people; the word noise where it may as well be 1."""
    low, high = ratio["interval"]
    noise = ", noise" if low <= 1 <= high else ""
    return f"**{ratio['median']:.3f}** ({low:.3f}-{high:.3f}{noise})"


def measure(model, device: str, case: Case) -> dict[str, Any]:
    """Seconds of each way and its ratio to plain, over `rounds` rounds after one warm-up."""
    import comfy.sample

    from conceptattention_core.attention import Method
    from conceptattention_core.concepts import Concept, ConceptSet
    from conceptattention_core.hosts.comfyui.live import Live
    from conceptattention_core.hosts.comfyui.patch import record
    from conceptattention_core.hosts.comfyui.store import STORE
    from conceptattention_core.recording import RecordSpec

    clip = TwoWordEncoder(4096)
    words = [f"{WORDS[i % len(WORDS)]}{i}" for i in range(case.concepts)]
    concepts = ConceptSet(tuple(Concept(word, word) for word in words))
    spec, bounced = RecordSpec(concepts), RecordSpec(concepts, method=Method(bounces=1))
    kept: list[torch.Tensor] = []
    ways = {"plain": model, RECORDED: record(model, clip, spec)}
    if case.with_others:
        ways[LIVE] = record(model, clip, spec, live=Live(words[0], 1))
        ways[BOUNCED] = record(model, clip, bounced)
        ways[PAPERS] = papers_way(model, clip, words, kept)
    side = round(case.tokens**0.5) * 2
    noise, empty = torch.randn(1, 16, side, side), torch.zeros(1, 16, side, side)
    prompt = [[torch.randn(1, 256, 4096), {"pooled_output": torch.randn(1, 768)}]]

    def sample(way: str):
        STORE.clear()
        kept.clear()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        clock = time.perf_counter if device == "cuda" else time.process_time
        start = clock()
        latent = comfy.sample.sample(
            ways[way], noise, case.steps, 1.0, "euler", "simple", prompt, prompt, empty,
            seed=1, disable_pbar=True,
        )  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - start
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        if way in (RECORDED, LIVE, BOUNCED):
            held = STORE.find(latent).nbytes
        else:
            held = sum(tensor.nbytes for tensor in kept)
        return seconds, peak, held, latent

    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, int] = {}
    hosts: dict[str, int] = {}
    latents = {}
    with torch.inference_mode():
        for round_ in range(case.rounds + 1):
            for way in ways:
                took, peaks[way], hosts[way], latents[way] = sample(way)
                if round_:
                    seconds[way].append(took)
    ratios = {
        way: [a / b for a, b in zip(took, seconds["plain"], strict=True)]
        for way, took in seconds.items()
    }
    return {
        **case.__dict__,
        "picture unchanged": all(torch.equal(latents["plain"], own) for own in latents.values()),
        "seconds": {way: round(statistics.median(took), 3) for way, took in seconds.items()},
        "ratio": {
            way: {
                "median": round(statistics.median(r), 3),
                "interval": [round(end, 3) for end in interval(r)],
            }
            for way, r in ratios.items()
            if way != "plain"
        },
        "host MiB": {w: round(n / 2**20, 1) for w, n in hosts.items() if w != "plain"},
        "extra device MiB": {
            way: round((peak - peaks["plain"]) / 2**20, 1)
            for way, peak in peaks.items()
            if way != "plain" and device == "cuda"
        },
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| image tokens | concepts | steps | plain | recorded / plain (interval of the median) "
        "| with live previews | with one bounce | paper's way / plain | recording on host "
        "| paper's way on host | extra device memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [str(row["tokens"]), str(row["concepts"]), str(row["steps"])]
        cells.append(f"{row['seconds']['plain']:.2f} s")
        for way in (RECORDED, LIVE, BOUNCED, PAPERS):
            r = row["ratio"].get(way)
            cells.append(shown(r) if r else "not run")
        for way in (RECORDED, PAPERS):
            cells.append(f"{row['host MiB'][way]:.1f} MiB" if way in row["host MiB"] else "not run")
        extra = row["extra device MiB"].get(RECORDED)
        cells.append("no GPU" if extra is None else f"{extra:.1f} MiB")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--true-size", action="store_true", help="Flux's own size on a GPU, bf16")
    parser.add_argument("--tokens", type=int, nargs="+", help="image tokens (squares)")
    parser.add_argument("--concepts", type=int, nargs="+", default=[8, 1, 64])
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path, help="name of the result, without ending")
    asked = parser.parse_args()
    device = "cuda" if asked.true_size else "cpu"
    import_comfy(device)
    if device == "cpu":
        torch.set_num_threads(1)
    size, dtype = (TRUE_SIZE, torch.bfloat16) if asked.true_size else (MID_SIZE, torch.float32)
    model = build(size, device, dtype)
    rows = []
    for tokens in asked.tokens or ([4096] if asked.true_size else [1024, 4096]):
        for steps in asked.steps or ([4, 28] if asked.true_size else [1]):
            for concepts in asked.concepts:
                case = Case(tokens, concepts, steps, asked.rounds, concepts == 8)
                rows.append(measure(model, device, case))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    machine = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype),
        "model": size,
        "peak process MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print("\n" + table(rows))
    out = asked.out or RESULTS / ("sampling_gpu" if asked.true_size else "sampling_cpu")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(
        json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n"
    )
    out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
