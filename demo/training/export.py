"""Write a trained model as a diffusers Flux folder, and take up training from such a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from .checkpoints import Clock, save_checkpoint
from .recipe import Recipe, build_vae
from .train_flow import FlowModel
from .vocabulary import save_tokenizers

# Written by hand: transformers 4 and 5 disagree on the tokenizers' class name, and this one loads
# with both.
MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.30.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

# What `python -m conceptattention_core generate` samples this model with unless told otherwise.
SAMPLING = {"steps": 20, "true_cfg_scale": 3.0, "height": 256, "width": 256}


def save_clip(clip: CLIPTextModel, folder: Path) -> None:
    """Save under the names of published CLIP weights, which transformers 4, 5 and ComfyUI read."""
    clip.config.save_pretrained(folder)
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value.contiguous()
        for name, value in clip.state_dict().items()
        if not name.endswith("position_ids")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def export_pipeline(model: FlowModel, vae: AutoencoderKL, folder: Path) -> None:
    """Write `folder` anew, by way of a sibling, so that it is always complete."""
    fresh = folder.with_name(folder.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # a copy of its own for each stream, as in every Flux
    transformer = FluxTransformer2DModel.from_config(model.transformer.config)
    transformer.load_state_dict(model.transformer.state_dict())
    transformer.to(torch.bfloat16).save_pretrained(fresh / "transformer")
    save_clip(model.clip, fresh / "text_encoder")
    model.t5.save_pretrained(fresh / "text_encoder_2")
    vae.save_pretrained(fresh / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    scheduler.save_pretrained(fresh / "scheduler")
    save_tokenizers(fresh)
    (fresh / "conceptattention.json").write_text(json.dumps(SAMPLING, indent=2) + "\n")
    (fresh / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def restore_checkpoints(folder: Path, recipe: Recipe, work: Path) -> None:
    """Write the checkpoints of a finished training with the weights of an exported model.

    What an export lacks, the optimisers' state, begins anew.
    """
    parts = {
        name: {key: value.float() for key, value in load_file(file).items()}
        for name in ("transformer", "text_encoder", "text_encoder_2", "vae")
        for file in (folder / name).glob("*.safetensors")
    }
    model, vae = FlowModel(recipe), build_vae(recipe)
    model.transformer.load_state_dict(parts["transformer"])
    clip = {name.removeprefix("text_model."): v for name, v in parts["text_encoder"].items()}
    expected = {name.removeprefix("text_model."): name for name in model.clip.state_dict()}
    model.clip.load_state_dict({expected[name]: value for name, value in clip.items()})
    shared = parts["text_encoder_2"]["shared.weight"]  # saved once, used under two names
    model.t5.load_state_dict({**parts["text_encoder_2"], "encoder.embed_tokens.weight": shared})
    vae.load_state_dict(parts["vae"])

    common = {"optimiser": None, "clock": Clock(0, 0).state(), "done": True}
    save_checkpoint(work / "vae.pt", {**common, "vae": vae.state_dict(), "unit": True})
    weights = {name: value.detach() for name, value in model.named_parameters()}
    flow = {"model": model.state_dict(), "average": weights, "updates": 0, "total": 0}
    flow["optimisers"] = []
    save_checkpoint(work / f"flow-{recipe.flow[-1].pixels}.pt", {**common, **flow})
