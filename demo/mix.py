"""Export the mean of several checkpoints: python -m demo.mix --work DIR flow-256.pt older.pt

Checkpoints of one training lie in one valley, and the mean of their weights often draws and
locates better than each of them (Izmailov et al., arXiv 1803.05407).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from .train import MODEL_FOLDER
from .training.checkpoints import load_checkpoint
from .training.export import export_pipeline
from .training.recipe import RECIPES
from .training.train_flow import FlowModel
from .training.train_vae import load_vae


def mix(weights: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """The mean of weights, each by its share; shares are brought to a sum of 1."""
    whole = sum(shares)
    return {
        name: sum((share / whole) * own[name] for share, own in zip(shares, weights, strict=True))
        for name in weights[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the mean of several checkpoints.")
    parser.add_argument("checkpoints", nargs="+", help="files of flow-N.pt's kind in --work")
    parser.add_argument("--shares", nargs="+", type=float, help="their weights; else all alike")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--preset", choices=RECIPES, default="cpu")
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="where to export to")
    given = parser.parse_args()
    shares = given.shares or [1.0] * len(given.checkpoints)
    if len(shares) != len(given.checkpoints):
        parser.error("--shares needs one number for each checkpoint")
    saved = [load_checkpoint(given.work / name) for name in given.checkpoints]
    missing = [name for name, one in zip(given.checkpoints, saved) if one is None]
    if missing:
        parser.error(f"there is no {', '.join(missing)} in {given.work}")
    recipe = RECIPES[given.preset]
    model = FlowModel(recipe)
    averages = [one["average"] for one in saved if one is not None]
    model.load_state_dict(mix(averages, shares), strict=False)
    export_pipeline(model.eval(), load_vae(recipe, given.work), given.model)


if __name__ == "__main__":
    main()
