"""Which passes of a run are recorded: the prompt's, in whatever order a pipeline makes them."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.calls import BATCHED
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.hosts.diffusers.prompts import (
    choose_rows,
    is_same,
)
from conceptattention.conceptattention_core.recording import Recording
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3PAGPipeline,
)
from diffusers.models.attention_processor import (
    JointAttnProcessor2_0,
    PAGCFGJointAttnProcessor2_0,
    PAGJointAttnProcessor2_0,
)
from PIL import Image
from torch import Tensor, nn

from .helpers import CALL, SPEC, generate, record_run
from .tiny import LENGTH, Tiny, tiny_flux
from .tiny.sd3 import tiny_sd3

NEGATIVE = "a green cat over the moon"  # as long as the prompt: texts of a batch are
ORDERS = {
    "negative first": ("negative", "prompt"),
    "prompt first": ("prompt", "negative"),
    "prompt between": ("negative", "prompt", "negative"),
    "unknown texts around": ("unknown", "prompt", "unknown"),
}


class Guiding(nn.Module):
    """A transformer in front of a recorded one that makes several passes of each call."""

    def __init__(self, transformer: nn.Module, passes: tuple[str, ...], text: Tensor, apart: bool):
        super().__init__()
        self.inside, self.text, self.apart, self.passes = [transformer], text, apart, passes

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inside[0], name)

    def texts(self, given: Tensor) -> list[Tensor]:
        known = {"prompt": given, "negative": self.text.to(given), "unknown": given.flip(1)}
        return [known[name].expand_as(given) for name in self.passes]

    def forward(self, encoder_hidden_states: Tensor, **call):
        (transformer,), texts = self.inside, self.texts(encoder_hidden_states)
        if self.apart:
            outputs = [transformer(encoder_hidden_states=text, **call)[0] for text in texts]
            return (torch.stack(outputs).mean(dim=0),)
        many = len(self.passes)
        batched = {
            name: torch.cat([value] * many)
            if name in (*BATCHED, "encoder_attention_mask") and isinstance(value, Tensor)
            else value * many
            if isinstance(value, list) and name == "img_shapes"
            else value
            for name, value in call.items()
        }
        output = transformer(encoder_hidden_states=torch.cat(texts), **batched)[0]
        return (torch.stack(output.chunk(many)).mean(dim=0),)


@contextmanager
def guiding(
    pipe: DiffusionPipeline, passes: tuple[str, ...], apart: bool = False
) -> Iterator[DiffusionPipeline]:
    transformer = pipe.transformer
    (text, *_) = pipe.encode_prompt(NEGATIVE, **options(pipe))
    pipe.transformer = Guiding(transformer, passes, text, apart)
    try:
        yield pipe
    finally:
        pipe.transformer = transformer


def options(pipe: DiffusionPipeline) -> dict:
    """How a text is encoded in this family."""
    usual = {
        "prompt_2": None,
        "prompt_3": None,
        "max_sequence_length": LENGTH,
        "do_classifier_free_guidance": False,
    }
    wanted = inspect.signature(pipe.encode_prompt).parameters
    return {name: value for name, value in usual.items() if name in wanted}


def sample(pipe: DiffusionPipeline, tiny: Tiny, **changed) -> Tensor:
    """A short run, whatever stands in front of the transformer."""
    usual = {"num_inference_steps": 2, "max_sequence_length": LENGTH, "output_type": "pt"}
    settings = {**usual, **CALL, **tiny.call, **changed}
    return pipe(**settings, generator=torch.Generator().manual_seed(0), return_dict=False)[0]


def record_guided(pipe, tiny, passes, apart=False, **changed) -> Recording:
    with record(pipe, SPEC) as session, guiding(pipe, passes, apart):
        sample(pipe, tiny, **changed)
    return session.recording()


@pytest.fixture(scope="module")
def plain(pipe) -> Recording:
    return record_run(pipe, num_inference_steps=2)


@torch.no_grad()
@pytest.mark.parametrize("apart", [False, True], ids=["in one call", "call by call"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_prompt_is_recorded_in_every_order_of_passes(pipe, tiny, plain, order, apart):
    recorded = record_guided(pipe, tiny, ORDERS[order], apart)
    assert recorded.scores.shape == plain.scores.shape
    assert recorded.steps == plain.steps
    # the first step starts from the same noise whatever the guidance
    torch.testing.assert_close(recorded.scores[:, 0], plain.scores[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_swapped_prompt_stays_in_its_rows(pipe, tiny):
    def swap(pipeline, i, t, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}

    swapped = {
        "callback_on_step_end": swap,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
    expected = record_guided(pipe, tiny, ("prompt", "negative"), **swapped)
    for passes, apart in ((("negative", "prompt"), False), (("negative", "prompt"), True)):
        recorded = record_guided(pipe, tiny, passes, apart, **swapped)
        torch.testing.assert_close(recorded.scores, expected.scores, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_passes_that_cannot_be_told_apart_are_refused(pipe, tiny):
    with guiding(pipe, ("unknown", "unknown")):
        expected = sample(pipe, tiny)
    with record(pipe, SPEC) as session, guiding(pipe, ("unknown", "unknown")):
        assert torch.equal(sample(pipe, tiny), expected)
    with pytest.raises(ConceptAttentionError, match="cannot be told apart"):
        session.recording()


def test_two_images_of_one_prompt_and_seed_are_two():
    texts, latents = torch.ones(4, 2, 3), torch.ones(4, 5)
    assert choose_rows([2, 3], texts, latents, 2) == (2, 3)
    assert choose_rows([0, 1, 2, 3], texts, latents, 2) == (0, 0)  # copies: the first one counts
    latents[1::2] = 0
    assert choose_rows([0, 1, 2, 3], texts, latents, 2) == (0, 1)
    for own, pictures in (([0, 1, 2], 2), ([0], 2)):
        with pytest.raises(ConceptAttentionError, match=f"{len(own)} rows .* {pictures} images"):
            choose_rows(own, texts, latents, pictures)


def test_a_text_is_known_with_and_without_padding():
    text = torch.rand(3, 4)
    assert is_same(text, text)
    assert is_same(torch.cat([text, torch.zeros(2, 4)]), text)
    assert is_same(text, torch.cat([text, torch.zeros(2, 4)]))
    assert not is_same(torch.cat([text, text]), text)
    assert not is_same(text, text[:, :3])


# --- perturbed attention guidance -----------------------------------------------------------------


def perturbed() -> StableDiffusion3PAGPipeline:
    parts = tiny_sd3(newer=False).components
    wanted = inspect.signature(StableDiffusion3PAGPipeline.__init__).parameters
    pipe = StableDiffusion3PAGPipeline(**{k: v for k, v in parts.items() if k in wanted})
    pipe.set_progress_bar_config(disable=True)
    processors = (PAGCFGJointAttnProcessor2_0(), PAGJointAttnProcessor2_0())
    pipe.set_pag_applied_layers(["blocks.1"], processors)
    return pipe


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_a_perturbed_pass_is_not_recorded(guidance):
    settings = {"height": 48, "width": 80, "num_inference_steps": 1, "prompt": "a red balloon"}
    settings |= {"max_sequence_length": LENGTH, "output_type": "pt", "return_dict": False}
    settings |= {"guidance_scale": guidance}

    def run(pipe, **changed):
        noise = torch.Generator().manual_seed(0)
        return pipe(**settings, **changed, generator=noise)[0]

    plain = tiny_sd3(newer=False)
    with record(plain, SPEC) as expected:
        run(plain)
    pipe = perturbed()
    with record(pipe, SPEC) as session:
        picture = run(pipe, pag_scale=3.0)
    assert torch.equal(picture, run(pipe, pag_scale=3.0))
    torch.testing.assert_close(
        session.recording().scores, expected.recording().scores, atol=1e-5, rtol=1e-5
    )
    with record(pipe, SPEC) as session:
        run(pipe, pag_scale=3.0, num_images_per_prompt=2)
    assert session.recording().pictures == 2


class InParts:
    """A perturbed pass after the prompt's in one call, each with an attention of its own."""

    def __init__(self, first: str):
        self.order = sorted(("prompt", "perturbed"), key=lambda name: name != first)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **given):
        parts = {}
        for name in self.order:
            image, text = (
                x.chunk(2)[name == "perturbed"] for x in (hidden_states, encoder_hidden_states)
            )
            if name == "perturbed":
                image = image.mean(dim=1, keepdim=True).expand_as(image)
            parts[name] = JointAttnProcessor2_0()(attn, image, text, **given)
        both = zip(parts["prompt"], parts["perturbed"], strict=True)
        return tuple(torch.cat(pair) for pair in both)


@pytest.mark.parametrize("first", ["prompt", "perturbed"])
def test_parts_of_one_attention_that_nothing_tells_apart_are_said(first):
    pipe = perturbed()
    pipe.transformer.transformer_blocks[1].attn.processor = InParts(first)
    settings = {"height": 48, "width": 80, "num_inference_steps": 1, "prompt": "a red balloon"}
    settings |= {"max_sequence_length": LENGTH, "output_type": "pt", "guidance_scale": 0.0}

    def run() -> Tensor:
        with patch.object(pipe, "_set_pag_attn_processor"):
            return pipe(**settings, pag_scale=3.0, generator=torch.Generator().manual_seed(0))[0]

    with record(pipe, SPEC) as session:
        recorded = run()
    assert torch.equal(recorded, run())
    with pytest.raises(ConceptAttentionError, match="computed in parts that cannot be told apart"):
        session.recording()


# --- several pipelines, several stages, loops of one's own ----------------------------------------


def test_a_second_stage_counts_its_own_steps():
    pipe = tiny_flux()
    again = FluxImg2ImgPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    picture = Image.new("RGB", (80, 48), "gray")
    with record(pipe, SPEC) as session:
        generate(pipe, num_inference_steps=3)
        first = session.recording()
        generate(again, image=picture, strength=0.5, num_inference_steps=12)
    assert first.steps == ((0, 0), (1, 1), (2, 2))
    assert session.recording().steps == tuple((i, i) for i in range(6))


def test_another_pipelines_schedule_counts_its_own_steps(pipe, tiny):
    if not tiny.heun:
        pytest.skip("this family has schedulers of its own")
    other = copy.copy(pipe)
    other.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with record(pipe, SPEC) as session:
        generate(pipe, num_inference_steps=2)
        generate(other, num_inference_steps=5)
        other_recording = session.recording()
        generate(other, num_inference_steps=4)
    assert other_recording.steps == tuple((i, i) for i in range(5))
    assert session.recording().steps == tuple((i, i) for i in range(4))


def test_a_loop_with_gradients_leaves_none_in_the_recording(pipe):
    def keep_gradients(transformer, args, kwargs):
        latents = kwargs["hidden_states"].detach().requires_grad_(True)
        return args, {**kwargs, "hidden_states": latents}

    transformer = pipe.transformer
    forward, outputs = transformer.forward, []

    def with_gradients(*args, **kwargs):
        with torch.enable_grad():
            output = forward(*args, **kwargs)
        outputs.append(output[0].requires_grad)
        return (output[0].detach(),)

    handle = transformer.register_forward_pre_hook(keep_gradients, with_kwargs=True)
    transformer.forward = with_gradients
    try:
        scores = record_run(pipe).scores
    finally:
        handle.remove()
        del transformer.forward
    assert all(outputs)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, record_run(pipe).scores, atol=1e-4, rtol=1e-4)


def test_two_of_one_prompt_are_two_images(pipe, tiny):
    if tiny.copies is None:
        pytest.skip("this pipeline paints one picture of a prompt")
    noise = torch.randn(1, *tiny.noise, generator=torch.Generator().manual_seed(2))
    alike = record_run(pipe, latents=noise.repeat(2, *([1] * len(tiny.noise))), **{tiny.copies: 2})
    assert torch.equal(*alike.scores.chunk(2))
