"""Recording costs no image: what goes wrong in it is said where the maps are asked for."""

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, forward
from conceptattention.conceptattention_core.hosts.diffusers import patch, run
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.hosts.diffusers.prompts import Prompts
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    HunyuanVideoImageToVideoPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
)
from PIL import Image
from torch import nn

from .helpers import SPEC, generate, hook_state, record_run
from .tiny import TINY, tiny_flux


class InjectedError(RuntimeError):
    pass


FAULTS: dict[str, Callable[[DiffusionPipeline], tuple[object, str]]] = {
    "what a pipeline is called with": lambda pipe: (Prompts, "keep_inputs"),
    "a text": lambda pipe: (Prompts, "keep_encoded"),
    "the start of a call": lambda pipe: (patch.RecordingSession, "before_call"),
    "the start of a run": lambda pipe: (patch, "Run"),
    "the grid": lambda pipe: (family_of(pipe), "grid"),
    "the rows": lambda pipe: (run.Passes, "prompt_rows"),
    "the blocks": lambda pipe: (patch.BlockHooks, "attach"),
    "the first block": lambda pipe: (family_of(pipe), "start_stream"),
    "a block": lambda pipe: (patch.BlockHooks, "before_block"),
    "a projection": lambda pipe: (patch.TransformerForward, "keep"),
    "a step": lambda pipe: (forward, "step"),
    "the end of a call": lambda pipe: (patch.RecordingSession, "after_call"),
    "keeping scores": lambda pipe: (patch.Run, "add"),
}


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_anywhere_changes_no_image_and_is_said(pipe, tiny, place, monkeypatch):
    plain, before = generate(pipe, **tiny.guided), list(hook_state(pipe))

    def fail(*args, **kwargs):
        raise InjectedError("torn paper")

    with monkeypatch.context() as torn:
        owner, name = FAULTS[place](pipe)
        torn.setattr(owner, name, fail)
        with record(pipe, SPEC) as session:
            assert torch.equal(generate(pipe, **tiny.guided), plain)
        with pytest.raises(ConceptAttentionError) as said:
            session.recording()
        with pytest.raises(InjectedError), record(pipe, SPEC, strict=True):
            generate(pipe, **tiny.guided)
    assert "could not be recorded" in str(said.value)
    assert "InjectedError: torn paper" in str(said.value)
    assert list(hook_state(pipe)) == before
    assert not {"encode_prompt", "check_inputs"} & set(vars(pipe))
    assert record_run(pipe).scores.isfinite().all()


def test_a_fault_in_one_call_is_said_for_its_run_alone(pipe, monkeypatch):
    calls, start_stream = [], family_of(pipe).start_stream

    def fail_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise InjectedError("torn paper")
        return start_stream(*args, **kwargs)

    monkeypatch.setattr(family_of(pipe), "start_stream", fail_once)
    with record(pipe, SPEC) as session:
        generate(pipe)
        with pytest.raises(ConceptAttentionError, match="torn paper"):
            session.recording()
        generate(pipe)
    assert torch.equal(session.recording().scores, record_run(pipe).scores)


# --- what is compiled -----------------------------------------------------------------------------


def compile_blocks(pipe: DiffusionPipeline) -> None:
    blocks = family_of(pipe).blocks(pipe.transformer)
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block, backend="eager")


def compile_attention(pipe: DiffusionPipeline) -> None:
    name = "attn1" if family_of(pipe).name == "CogVideoX" else "attn"
    for block in family_of(pipe).blocks(pipe.transformer):
        setattr(block, name, torch.compile(getattr(block, name), backend="eager"))


def compile_forwards(pipe: DiffusionPipeline) -> None:
    for block in family_of(pipe).blocks(pipe.transformer):
        block.forward = torch.compile(block.forward, backend="eager")


def compile_forward(pipe: DiffusionPipeline) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


COMPILERS = (compile_blocks, compile_attention, compile_forwards, compile_forward)


@pytest.mark.parametrize("way", COMPILERS)
def test_every_way_of_compiling_is_refused(pipe, way):
    compiled = copy.deepcopy(pipe)
    way(compiled)
    with pytest.raises(ConceptAttentionError, match="is compiled"), record(compiled, SPEC):
        pass


@pytest.mark.parametrize("way", COMPILERS)
def test_compiling_while_recording_is_said_and_costs_no_image(way):
    pipe = tiny_flux()
    expected = generate(pipe)
    torch._dynamo.reset()
    with record(pipe, SPEC) as session:
        way(pipe)
        assert torch.equal(generate(pipe), expected)
    with pytest.raises(ConceptAttentionError, match="is compiled"):
        session.recording()


def test_compiled_single_blocks_are_no_obstacle():
    pipe = tiny_flux()
    for block in pipe.transformer.single_transformer_blocks:
        block.forward = torch.compile(block.forward, backend="eager")
    assert torch.equal(record_run(pipe).scores, record_run(tiny_flux()).scores)


# --- other wrappers, caches and parts that are missing --------------------------------------------


def test_a_transformer_wrapped_by_peft_is_refused(pipe):
    class PeftModel(nn.Module):
        def __init__(self, base_model):
            super().__init__()
            self.base_model, self.peft_config = base_model, {"default": {}}

    wrapped = copy.copy(pipe)
    wrapped.transformer = PeftModel(pipe.transformer)
    with pytest.raises(ConceptAttentionError, match=r"wrapped by PEFT \(PeftModel\)"):
        record_run(wrapped)


def test_a_transformer_replaced_meanwhile_is_said(pipe):
    replaced, other = copy.copy(pipe), copy.deepcopy(pipe.transformer)
    expected = generate(pipe)
    with record(replaced, SPEC) as session:
        replaced.transformer = other
        assert torch.equal(generate(replaced), expected)
    with pytest.raises(ConceptAttentionError, match="transformer was replaced meanwhile"):
        session.recording()


def test_the_reason_names_caches_quantisation_and_adapters(pipe, monkeypatch):
    monkeypatch.setattr(family_of(pipe), "start_stream", lambda *_: 1 / 0)
    odd = copy.deepcopy(pipe)
    odd.transformer.peft_config = {"default": {}}
    odd.transformer._is_cached = True
    odd.transformer.register_to_config(quantization_config={"quant_method": "bitsandbytes"})
    with record(odd, SPEC) as session:
        generate(odd)
    with pytest.raises(ConceptAttentionError) as said:
        session.recording()
    for cause in ("division by zero", "cached", "quantised by bitsandbytes", "PEFT"):
        assert cause in str(said.value)


def test_an_error_of_a_text_encoder_is_said_before_sampling(pipe, monkeypatch):
    def fail(*args, **kwargs):
        raise InjectedError("no ink")

    monkeypatch.setattr(family_of(pipe), "embed", fail)
    with pytest.raises(ConceptAttentionError, match=r"could not read concepts with .*: no ink"):
        record_run(pipe)


def test_flux_reads_concepts_with_t5_alone():
    whole, bare = tiny_flux(), tiny_flux()
    with torch.no_grad():
        text, pooled, _ = whole.encode_prompt("a red balloon", None, max_sequence_length=77)
    bare.text_encoder = None
    embeds = {"prompt": None, "prompt_embeds": text, "pooled_prompt_embeds": pooled}
    assert torch.equal(record_run(bare, **embeds).scores, record_run(whole, **embeds).scores)


def alike(pipe: DiffusionPipeline, kind: type, **parts) -> DiffusionPipeline:
    """Another pipeline of the same parts."""
    wanted = inspect.signature(kind.__init__).parameters
    made = kind(**{k: v for k, v in {**pipe.components, **parts}.items() if k in wanted})
    made.set_progress_bar_config(disable=True)
    return made


def test_a_pipeline_whose_text_needs_an_image_is_refused():
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessor()
    pipe = TINY["HunyuanVideo"].make()
    animating = alike(pipe, HunyuanVideoImageToVideoPipeline, image_processor=processor)
    expected = pytest.raises(ConceptAttentionError, match="encodes no text without image")
    with expected, record(animating, SPEC):
        pass


def test_qwen_image_with_controlnet_is_recorded():
    base = TINY["Qwen-Image"].make()
    torch.manual_seed(1)
    network = QwenImageControlNetModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(8, 12, 12),
    ).eval()
    pipe = alike(base, QwenImageControlNetPipeline, controlnet=network)
    for name in ("prompt_template_encode", "prompt_template_encode_start_idx"):
        setattr(pipe, name, getattr(base, name))
    shown = {"control_image": Image.new("RGB", (80, 48), "gray")}
    with record(pipe, SPEC) as session:
        picture = generate(pipe, **shown)
    assert torch.equal(picture, generate(pipe, **shown))
    assert session.recording().scores.shape == (1, 3, 3, 3, 3, 5)


# --- the size of the image ----------------------------------------------------------------------


class Before032(FluxPipeline):
    """A pipeline whose `vae_scale_factor` counts the patch in, as before diffusers 0.32."""

    def as_now(self, method, *args, **kwargs):
        self.vae_scale_factor //= 2
        try:
            return method(*args, **kwargs)
        finally:
            self.vae_scale_factor *= 2

    def check_inputs(self, *args, **kwargs):
        return self.as_now(super().check_inputs, *args, **kwargs)

    def prepare_latents(self, *args, **kwargs):
        return self.as_now(super().prepare_latents, *args, **kwargs)

    def _unpack_latents(self, latents, height, width, scale):
        return FluxPipeline._unpack_latents(latents, height, width, scale // 2)


def test_the_grid_covers_what_the_autoencoder_decodes():
    pipe = alike(tiny_flux(), Before032)
    pipe.vae_scale_factor *= 2
    with record(pipe, SPEC) as session:
        picture = generate(pipe)
    grid = session.recording().grid
    assert (grid.h, grid.w) == tuple(picture.shape[-2:]) == (48, 80)
    assert family_of(pipe).patch_pixels(pipe) == 16


def test_without_an_autoencoder_the_pipelines_scale_counts(pipe):
    latents = copy.copy(pipe)
    latents.vae = None
    assert family_of(pipe).patch_pixels(latents) == family_of(pipe).patch_pixels(pipe) == 16
