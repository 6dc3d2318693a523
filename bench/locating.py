"""What a look at a picture costs: the joint blocks with concepts, against a full forward.

    python -m bench.locating                     # 19 + 38 blocks of hidden 384, CPU

Weights are random, text encoder and VAE are left out. A full forward and a look take turns; the
figure is the ratio within a round. Without the concepts the ratio of the blocks' costs alone is
the physical limit: a block of either kind costs a token the same, so 19 of 57 blocks a third.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel

from conceptattention_core.concepts import parse
from conceptattention_core.forward import RecordPlan, StopForward
from conceptattention_core.hosts.diffusers.calls import ModelCall
from conceptattention_core.hosts.diffusers.families.flux import Flux
from conceptattention_core.hosts.diffusers.forward import TransformerForward
from conceptattention_core.hosts.diffusers.patch import BlockHooks
from conceptattention_core.recording import Grid, RecordSpec
from conceptattention_core.tokens import ConceptTokens, pack_tokens

RESULTS = Path(__file__).parent / "results"
WORDS = "balloon, sun, sky, mountain, cloud, water, boat, tree"
DOUBLE, SINGLE, HEAD = 19, 38, 64
TEXT = 256


def measure(hidden: int, side: int, rounds: int, blocks: int) -> dict[str, list[float]]:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=hidden // HEAD,
        joint_attention_dim=512,
        pooled_projection_dim=64,
        axes_dims_rope=(8, 28, 28),
    ).eval()
    family, spec = Flux(), RecordSpec(parse(WORDS))
    tokens = pack_tokens(spec, [ConceptTokens.of(rows) for rows in torch.randn(16, 512).split(2)])
    plan = RecordPlan(family.name, spec, range(blocks), tokens, stops=True)
    ids = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    call = {
        "hidden_states": torch.randn(1, side * side, 64),
        "encoder_hidden_states": torch.randn(1, TEXT, 512),
        "pooled_projections": torch.zeros(1, 64),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.cat([torch.zeros(side * side, 1), ids.reshape(-1, 2)], 1),
        "txt_ids": torch.zeros(TEXT, 3),
    }
    hooks = BlockHooks(family, plan)
    grid = Grid.of_latent(2 * side, 2 * side)
    joint = list(family.blocks(transformer))

    def look() -> None:
        handles = list(hooks.attach(joint))
        model_call = ModelCall.of(call)
        hooks.forward = TransformerForward(
            family, plan, grid, transformer, model_call, range(1), joint
        )
        try:
            transformer(**call)
        except StopForward:
            pass
        finally:
            for handle in handles:
                handle.remove()

    seconds = {"forward": [], "look": []}
    with torch.inference_mode():
        for n in range(rounds + 1):
            for name, run in (("forward", lambda: transformer(**call)), ("look", look)):
                start = time.process_time()
                run()
                if n:  # the first round warms up
                    seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a look at a picture costs.")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--side", type=int, default=32, help="patches along a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=DOUBLE, help="double blocks listened to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(given.hidden, given.side, given.rounds, given.blocks)
    ratios = [a / b for a, b in zip(seconds["look"], seconds["forward"], strict=True)]
    figures = {
        "hidden": given.hidden,
        "double and single blocks": [DOUBLE, SINGLE],
        "blocks listened to": given.blocks,
        "image tokens": given.side**2,
        "text tokens": TEXT,
        "concepts": len(WORDS.split(",")),
        "forward seconds": round(statistics.median(seconds["forward"]), 3),
        "look seconds": round(statistics.median(seconds["look"]), 3),
        "look / forward": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, 1 thread",
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(figures, indent=1)
    (RESULTS / f"locating_cpu_{given.blocks}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
