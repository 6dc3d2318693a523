"""Recording costs no picture: what goes wrong in it is said where the maps are asked for."""

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers import patch, run
from conceptattention.conceptattention_core.hosts.diffusers.families import find
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

from .test_laws import SPEC, heard, hooks, paint
from .tiny import TINY, tiny_flux


class InjectedError(RuntimeError):
    pass


FAULTS: dict[str, Callable[[DiffusionPipeline], tuple[object, str]]] = {
    "what a pipeline is called with": lambda pipe: (Prompts, "hear_inputs"),
    "a text": lambda pipe: (Prompts, "hear_encoded"),
    "the start of a call": lambda pipe: (patch.Listener, "before_call"),
    "the start of a run": lambda pipe: (patch, "Run"),
    "the grid": lambda pipe: (find(pipe), "grid"),
    "the rows": lambda pipe: (run.Passes, "rows"),
    "the blocks": lambda pipe: (patch, "hang_on_blocks"),
    "the first block": lambda pipe: (find(pipe), "enter"),
    "a block": lambda pipe: (patch.Ears, "before_block"),
    "a projection": lambda pipe: (patch.Forward, "hear"),
    "a step": lambda pipe: (patch, "step"),
    "the end of a call": lambda pipe: (patch.Listener, "after_call"),
    "keeping scores": lambda pipe: (patch.Run, "add"),
}


@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_anywhere_changes_no_picture_and_is_told(pipe, tiny, place, monkeypatch):
    plain, before = paint(pipe, **tiny.guided), list(hooks(pipe))

    def fail(*args, **kwargs):
        raise InjectedError("torn paper")

    with monkeypatch.context() as torn:
        owner, name = FAULTS[place](pipe)
        torn.setattr(owner, name, fail)
        with record(pipe, SPEC) as listener:
            assert torch.equal(paint(pipe, **tiny.guided), plain)
        with pytest.raises(ConceptAttentionError) as said:
            listener.recording()
        with pytest.raises(InjectedError), record(pipe, SPEC, strict=True):
            paint(pipe, **tiny.guided)
    assert "could not be recorded" in str(said.value)
    assert "InjectedError: torn paper" in str(said.value)
    assert list(hooks(pipe)) == before
    assert not {"encode_prompt", "check_inputs"} & set(vars(pipe))
    assert heard(pipe).scores.isfinite().all()


def test_a_fault_in_one_call_is_told_for_its_run_alone(pipe, monkeypatch):
    calls, enter = [], find(pipe).enter

    def fail_once(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise InjectedError("torn paper")
        return enter(*args, **kwargs)

    monkeypatch.setattr(find(pipe), "enter", fail_once)
    with record(pipe, SPEC) as listener:
        paint(pipe)
        with pytest.raises(ConceptAttentionError, match="torn paper"):
            listener.recording()
        paint(pipe)
    assert torch.equal(listener.recording().scores, heard(pipe).scores)


# --- what is compiled -----------------------------------------------------------------------------


def compile_blocks(pipe: DiffusionPipeline) -> None:
    blocks = find(pipe).blocks(pipe.transformer)
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block, backend="eager")


def compile_attention(pipe: DiffusionPipeline) -> None:
    name = "attn1" if find(pipe).name == "CogVideoX" else "attn"
    for block in find(pipe).blocks(pipe.transformer):
        setattr(block, name, torch.compile(getattr(block, name), backend="eager"))


def compile_forwards(pipe: DiffusionPipeline) -> None:
    for block in find(pipe).blocks(pipe.transformer):
        block.forward = torch.compile(block.forward, backend="eager")


def compile_forward(pipe: DiffusionPipeline) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


COMPILERS = (compile_blocks, compile_attention, compile_forwards, compile_forward)


@pytest.mark.parametrize("way", COMPILERS)
def test_what_is_compiled_is_refused_in_every_way_of_compiling(pipe, way):
    compiled = copy.deepcopy(pipe)
    way(compiled)
    with pytest.raises(ConceptAttentionError, match="is compiled"), record(compiled, SPEC):
        pass


@pytest.mark.parametrize("way", COMPILERS)
def test_what_is_compiled_while_recording_is_told_and_painted(way):
    pipe = tiny_flux()
    expected = paint(pipe)
    torch._dynamo.reset()
    with record(pipe, SPEC) as listener:
        way(pipe)
        assert torch.equal(paint(pipe), expected)
    with pytest.raises(ConceptAttentionError, match="is compiled"):
        listener.recording()


def test_compiled_single_blocks_are_no_obstacle():
    pipe = tiny_flux()
    for block in pipe.transformer.single_transformer_blocks:
        block.forward = torch.compile(block.forward, backend="eager")
    assert torch.equal(heard(pipe).scores, heard(tiny_flux()).scores)


# --- other wrappers, caches and parts that are missing --------------------------------------------


def test_a_transformer_that_peft_wraps_is_named(pipe):
    class PeftModel(nn.Module):
        def __init__(self, base_model):
            super().__init__()
            self.base_model, self.peft_config = base_model, {"default": {}}

    wrapped = copy.copy(pipe)
    wrapped.transformer = PeftModel(pipe.transformer)
    with pytest.raises(ConceptAttentionError, match=r"wrapped by PEFT \(PeftModel\)"):
        heard(wrapped)


def test_a_transformer_that_is_replaced_meanwhile_is_named(pipe):
    replaced, other = copy.copy(pipe), copy.deepcopy(pipe.transformer)
    expected = paint(pipe)
    with record(replaced, SPEC) as listener:
        replaced.transformer = other
        assert torch.equal(paint(replaced), expected)
    with pytest.raises(ConceptAttentionError, match="transformer was replaced meanwhile"):
        listener.recording()


def test_the_reason_names_caches_quantisation_and_adapters(pipe, monkeypatch):
    monkeypatch.setattr(find(pipe), "enter", lambda *_: 1 / 0)
    odd = copy.deepcopy(pipe)
    odd.transformer.peft_config = {"default": {}}
    odd.transformer._is_cached = True
    odd.transformer.register_to_config(quantization_config={"quant_method": "bitsandbytes"})
    with record(odd, SPEC) as listener:
        paint(odd)
    with pytest.raises(ConceptAttentionError) as said:
        listener.recording()
    for cause in ("division by zero", "cached", "quantised by bitsandbytes", "PEFT"):
        assert cause in str(said.value)


def test_an_error_of_a_text_encoder_is_told_before_sampling(pipe, monkeypatch):
    def fail(*args, **kwargs):
        raise InjectedError("no ink")

    monkeypatch.setattr(find(pipe), "embed", fail)
    with pytest.raises(ConceptAttentionError, match=r"could not read concepts with .*: no ink"):
        heard(pipe)


def test_flux_reads_concepts_with_t5_alone():
    whole, bare = tiny_flux(), tiny_flux()
    with torch.no_grad():
        text, pooled, _ = whole.encode_prompt("a red balloon", None, max_sequence_length=77)
    bare.text_encoder = None
    embeds = {"prompt": None, "prompt_embeds": text, "pooled_prompt_embeds": pooled}
    assert torch.equal(heard(bare, **embeds).scores, heard(whole, **embeds).scores)


def alike(pipe: DiffusionPipeline, kind: type, **parts) -> DiffusionPipeline:
    """Another pipeline of the same parts."""
    wanted = inspect.signature(kind.__init__).parameters
    made = kind(**{k: v for k, v in {**pipe.components, **parts}.items() if k in wanted})
    made.set_progress_bar_config(disable=True)
    return made


def test_a_pipeline_that_encodes_no_text_without_a_picture_is_refused():
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
    with record(pipe, SPEC) as listener:
        picture = paint(pipe, **shown)
    assert torch.equal(picture, paint(pipe, **shown))
    assert listener.recording().scores.shape == (1, 3, 3, 3, 3, 5)


# --- the size of the picture ----------------------------------------------------------------------


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


def test_the_picture_is_as_large_as_the_autoencoder_makes_it():
    pipe = alike(tiny_flux(), Before032)
    pipe.vae_scale_factor *= 2
    with record(pipe, SPEC) as listener:
        picture = paint(pipe)
    grid = listener.recording().grid
    assert (grid.h, grid.w) == tuple(picture.shape[-2:]) == (48, 80)
    assert find(pipe).patch_pixels(pipe) == 16


def test_without_its_autoencoder_a_pipeline_is_believed(pipe):
    latents = copy.copy(pipe)
    latents.vae = None
    assert find(pipe).patch_pixels(latents) == find(pipe).patch_pixels(pipe) == 16
