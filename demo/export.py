"""Write a trained model as a diffusers Flux folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from transformers import CLIPTextModel

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
    """Write `folder` anew, by way of a sibling, so that it is always complete.

    The transformer is cast to bfloat16, which changes `model` in place.
    """
    fresh = folder.with_name(folder.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.transformer.to(torch.bfloat16).save_pretrained(fresh / "transformer")
    save_clip(model.clip, fresh / "text_encoder")
    model.t5.save_pretrained(fresh / "text_encoder_2")
    vae.save_pretrained(fresh / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    scheduler.save_pretrained(fresh / "scheduler")
    save_tokenizers(fresh)
    (fresh / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
