"""Flux.1: concepts are what the prompt would be, in diffusers' own blocks."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, forward
from conceptattention.conceptattention_core.hosts.diffusers.calls import ModelCall
from conceptattention.conceptattention_core.hosts.diffusers.families.flux import Flux
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.recording import Grid
from diffusers import FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel
from PIL import Image

from .helpers import SPEC, generate, record_run
from .tiny import LENGTH, tiny_flux


@pytest.fixture(scope="module", params=[False, True], ids=["schnell", "dev"])
def flux(request) -> FluxPipeline:
    return tiny_flux(guidance=request.param)


class Calls:
    """Hooks of its own on modules: the named inputs of each call."""

    def __init__(self, *modules: torch.nn.Module):
        self.of = {module: [] for module in modules}
        self.handles = [m.register_forward_pre_hook(self.keep, with_kwargs=True) for m in modules]

    def keep(self, module, args, kwargs):
        self.of[module].append(kwargs)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


def concept_modulation(model: FluxTransformer2DModel, call: dict) -> torch.Tensor:
    guidance = [] if call["guidance"] is None else [call["guidance"] * 1000]
    pooled = torch.zeros_like(call["pooled_projections"])
    return model.time_text_embed(call["timestep"] * 1000, *guidance, pooled)


@torch.no_grad()
@pytest.mark.parametrize("prompt", ["a red balloon", ["a red balloon", "the moon"]])
def test_riding_equals_being_the_prompt(flux, prompt, monkeypatch):
    model, streams = flux.transformer, []

    def spy(block, concepts, image, mean, method):
        after, scores = step(block, concepts, image, mean, method)
        streams.append((concepts, after))
        return after, scores

    step = forward.step
    monkeypatch.setattr(forward, "step", spy)
    with Calls(model, *model.transformer_blocks) as calls:
        record_run(flux, prompt=prompt, num_inference_steps=2)
    assert len(streams) == 2 * len(model.transformer_blocks)
    for at, (before, after) in enumerate(streams):
        i, block = divmod(at, len(model.transformer_blocks))
        modulation = concept_modulation(model, calls.of[model][i])
        block = model.transformer_blocks[block]
        args = calls.of[block][i]
        text = args["encoder_hidden_states"].shape[1]
        cos, sin = (table[text:] for table in args["image_rotary_emb"])
        origin = cos.new_zeros(before.shape[1], cos.shape[1])

        def swap(norm, args, kwargs, modulation=modulation):
            return args, {**kwargs, "emb": modulation}

        handle = block.norm1_context.register_forward_pre_hook(swap, with_kwargs=True)
        expected, _ = block(
            hidden_states=args["hidden_states"],
            encoder_hidden_states=before,
            temb=args["temb"],
            image_rotary_emb=(torch.cat([origin + 1, cos]), torch.cat([origin, sin])),
        )
        handle.remove()
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(after, before, atol=1e-2)


def picture(width: int, height: int) -> Image.Image:
    ramp = torch.arange(width * height * 3).reshape(height, width, 3) % 251
    return Image.fromarray(ramp.to(torch.uint8).numpy())


def test_an_image_to_image_run_counts_its_own_steps(flux):
    again = FluxImg2ImgPipeline.from_pipe(flux)
    again.set_progress_bar_config(disable=True)
    changed = {"image": picture(80, 48), "strength": 0.6, "num_inference_steps": 5}
    with record(again, SPEC) as session:
        recorded = generate(again, **changed)
    assert torch.equal(generate(again, **changed), recorded)
    assert session.recording().steps == ((0, 0), (1, 1), (2, 2))
    assert session.recording().grid == Grid(3, 5, 16, 48, 80)


def test_reference_images_stay_outside_the_grid(flux):
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "FluxKontextPipeline"):
        pytest.skip("this diffusers has no Kontext")
    kontext = diffusers.FluxKontextPipeline(**flux.components)
    kontext.set_progress_bar_config(disable=True)
    changed = {"image": picture(64, 96), "max_area": 48 * 80, "_auto_resize": False}
    changed |= {"negative_prompt": "a cat", "true_cfg_scale": 2.0}
    with Calls(flux.transformer) as calls, record(kontext, SPEC) as session:
        recorded = generate(kontext, **changed)
    assert torch.equal(generate(kontext, **changed), recorded)
    grid = session.recording().grid
    assert (grid.h, grid.w) == tuple(recorded.shape[-2:])
    assert calls.of[flux.transformer][0]["hidden_states"].shape[1] > grid.y * grid.x
    assert session.recording().steps == ((0, 0), (1, 1), (2, 2))


def test_prompts_are_padded_to_the_length_of_the_model(flux):
    reads_more = copy.copy(flux)
    reads_more.tokenizer_2 = copy.copy(flux.tokenizer_2)
    reads_more.tokenizer_2.model_max_length = 10**30
    assert Flux().text_length(flux) == LENGTH
    full = 512 if flux.transformer.config.guidance_embeds else 256
    assert Flux().text_length(reads_more) == full


def test_a_pipeline_without_t5_is_refused(flux):
    bare = copy.copy(flux)
    bare.text_encoder_2 = None
    with pytest.raises(ConceptAttentionError, match="reads concepts with T5"), record(bare, SPEC):
        pass


def test_patches_that_fill_no_grid_are_refused(flux):
    ids = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 2, 0]])
    with pytest.raises(ConceptAttentionError, match="4 patches for a grid of 3 by 2"):
        Flux().grid(flux, ModelCall(*torch.zeros(3, 1, 1), img_ids=ids))
