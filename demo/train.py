"""Train the demo model: python -m demo.train --work DIR

    torchrun --nproc-per-node 2 -m demo.train --work DIR

Stages: vae, then for each picture size latents-N and flow-N, then export. Every stage resumes
where it was interrupted. Naming a stage with --minutes or --steps begins a new schedule for it, on
top of what it has learnt (a finished autoencoder trains only its decoder further).
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path

import torch

from .training.checkpoints import load_checkpoint
from .training.export import export_pipeline, restore_checkpoints
from .training.latents import encode_scenes, load_latents, save_latents
from .training.recipe import RECIPES, Recipe
from .training.team import Team
from .training.train_flow import FlowModel, train_flow
from .training.train_vae import load_vae, train_vae

MODEL_FOLDER = Path(__file__).with_name("model")


def list_stages(recipe: Recipe) -> list[str]:
    flow = [f"{part}-{schedule.pixels}" for schedule in recipe.flow for part in ("latents", "flow")]
    return ["vae", *flow, "export"]


def make_latents(
    recipe: Recipe, index: int, work: Path, device: torch.device, workers: int
) -> None:
    """Draw and encode the scenes of a picture size, once."""
    schedule = recipe.flow[index]
    path = work / f"latents-{schedule.pixels}.safetensors"
    if not path.exists():
        # Every size gets scenes of its own, none of which the autoencoder trained on.
        first_seed = 1_000_000 * (index + 1)
        vae = load_vae(recipe, work).to(device)
        save_latents(path, encode_scenes(vae, schedule, first_seed, workers))


def run_flow(recipe: Recipe, index: int, work: Path, device: torch.device, again: bool) -> None:
    schedule = recipe.flow[index]
    vae = load_vae(recipe, work)
    train_flow(
        recipe,
        schedule,
        load_latents(work / f"latents-{schedule.pixels}.safetensors"),
        path=work / f"flow-{schedule.pixels}.pt",
        start=work / f"flow-{recipe.flow[index - 1].pixels}.pt" if index else None,
        device=device,
        export=partial(export_pipeline, vae=vae, folder=work / "export"),
        again=again,
    )


def export_latest(recipe: Recipe, work: Path, folder: Path) -> None:
    """Export the averaged weights of the last picture size that has been trained."""
    for schedule in reversed(recipe.flow):
        if saved := load_checkpoint(work / f"flow-{schedule.pixels}.pt"):
            model = FlowModel(recipe)
            model.load_state_dict(saved["average"], strict=False)
            export_pipeline(model.eval(), load_vae(recipe, work), folder)
            return
    raise FileNotFoundError(f"no flow model in {work}; run a stage 'flow' first")


def run_stage(
    stage: str,
    recipe: Recipe,
    work: Path,
    device: torch.device,
    folder: Path = MODEL_FOLDER,
    workers: int = 2,
    again: bool = False,
) -> None:
    sizes = [schedule.pixels for schedule in recipe.flow]
    match stage.split("-"):
        case ["vae"]:
            train_vae(recipe, work, device, workers, again)
        case ["latents", pixels]:
            make_latents(recipe, sizes.index(int(pixels)), work, device, workers)
        case ["flow", pixels]:
            run_flow(recipe, sizes.index(int(pixels)), work, device, again)
        case ["export"]:
            export_latest(recipe, work, folder)


def limit(recipe: Recipe, stage: str, minutes: float | None, steps: int | None) -> Recipe:
    """The recipe with the length of one stage changed."""

    def change(schedule):
        given = {"minutes": minutes, "steps": None} if minutes else {"steps": steps}
        return dataclasses.replace(schedule, **given)

    if stage == "vae":
        return dataclasses.replace(recipe, vae=change(recipe.vae))
    flow = tuple(change(s) if stage == f"flow-{s.pixels}" else s for s in recipe.flow)
    return dataclasses.replace(recipe, flow=flow)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--preset", choices=RECIPES, default="cpu")
    stages = list_stages(RECIPES["cpu"])
    parser.add_argument("--stage", choices=stages, help="run only this stage")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="length of the stage named by --stage")
    length.add_argument("--steps", type=int, help="the same, in steps")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="where to export to")
    parser.add_argument(
        "--restore", type=Path, help="first fill --work with the weights of this exported model"
    )
    given = parser.parse_args()
    limited = given.minutes is not None or given.steps is not None
    if limited and not given.stage:
        parser.error("--minutes and --steps need --stage")

    recipe, device = RECIPES[given.preset], torch.device(given.device)
    if limited:
        recipe = limit(recipe, given.stage, given.minutes, given.steps)
    team = Team()
    if given.restore and team.leads:
        restore_checkpoints(given.restore, recipe, given.work)
    team.wait()
    for stage in [given.stage] if given.stage else stages:
        if team.leads or stage.startswith("flow"):
            run_stage(stage, recipe, given.work, device, given.model, given.workers, again=limited)
        team.wait()


if __name__ == "__main__":
    main()
