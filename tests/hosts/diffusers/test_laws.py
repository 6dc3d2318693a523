"""What holds for every family: recording changes nothing, and what it hears makes sense."""

import copy
from collections.abc import Iterator

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.families import FAMILIES
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.maps import reduce
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from diffusers import DiffusionPipeline, FlowMatchHeunDiscreteScheduler
from torch import Tensor, nn

from .tiny import LENGTH, TINY

SPEC = RecordSpec(parse("red balloon, sky, sea: the green sea"))
CALL = {"prompt": "a red balloon over the sea", "height": 48, "width": 80}
GUIDED = {"negative_prompt": "a cat", "true_cfg_scale": 3.0}


def paint(pipe: DiffusionPipeline, seed: int = 0, **changed) -> Tensor:
    """The pictures of a short run, `b rgb h w`."""
    settings = {"num_inference_steps": 3, "max_sequence_length": LENGTH, **CALL, **changed}
    generator = torch.Generator().manual_seed(seed)
    return pipe(**settings, output_type="pt", generator=generator).images


def heard(pipe: DiffusionPipeline, spec: RecordSpec = SPEC, seed: int = 0, **changed) -> Recording:
    with record(pipe, spec) as listener:
        paint(pipe, seed, **changed)
    return listener.recording()


def hooks(pipe: DiffusionPipeline) -> Iterator[tuple[str, list, list, list, object]]:
    """All that recording could leave behind in the transformer."""
    for name, module in pipe.transformer.named_modules():
        pre, post = module._forward_pre_hooks, module._forward_hooks
        keyed = module._forward_pre_hooks_with_kwargs
        yield name, list(pre), list(post), list(keyed), getattr(module, "processor", None)


def test_every_family_has_a_toy_pipeline():
    assert [family.name for family in FAMILIES] == list(TINY)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"height": 16, "width": 112},
        {"height": 80, "width": 48, **GUIDED},
        {"prompt": ["a red balloon", "the moon"], "num_images_per_prompt": 2},
        {"prompt": ["a red balloon", "the moon"], "negative_prompt": ["a", "cat"], **GUIDED},
    ],
    ids=["plain", "one row", "true cfg", "two prompts twice", "two prompts, true cfg"],
)
def test_recording_changes_nothing(pipe, changed):
    plain = paint(pipe, **changed)
    before = list(hooks(pipe))
    with record(pipe, SPEC) as listener:
        recorded = paint(pipe, **changed)
    assert torch.equal(plain, recorded)
    assert list(hooks(pipe)) == before
    b, _, h, w = plain.shape
    assert listener.recording().grid == Grid(h // 16, w // 16, 16, h, w)
    assert listener.recording().scores.shape == (b, 3, 3, 3, h // 16, w // 16)
    assert listener.recording().scores.isfinite().all()


@pytest.mark.parametrize("attend", ATTEND)
@pytest.mark.parametrize("space", SPACES)
def test_recording_changes_nothing_with_any_method(pipe, attend, space):
    spec = RecordSpec(SPEC.concepts, tokens="first", method=Method(attend, space))
    with record(pipe, spec) as listener:
        recorded = paint(pipe)
    assert torch.equal(paint(pipe), recorded)
    maps = reduce(listener.recording()).maps
    torch.testing.assert_close(maps.sum(dim=1), torch.ones_like(maps[:, 0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_recording_changes_nothing_in_half_precision(pipe, dtype):
    half = copy.deepcopy(pipe).to(dtype)
    with record(half, SPEC) as listener:
        recorded = paint(half)
    assert torch.equal(paint(half), recorded)
    exact = heard(pipe)
    assert listener.recording().steps == exact.steps
    maps, expected = reduce(listener.recording()).maps, reduce(exact).maps
    assert (maps - expected).abs().mean() < 0.05


def test_permuting_concepts_permutes_maps(pipe):
    turned = RecordSpec(parse("sea: the green sea, red balloon, sky"))
    torch.testing.assert_close(heard(pipe, turned).scores, heard(pipe).scores[:, :, :, [2, 0, 1]])


def test_a_concept_given_twice_gets_equal_maps(pipe):
    maps = reduce(heard(pipe, RecordSpec(parse("sky, cat, twin: sky"))))
    torch.testing.assert_close(maps.of("sky"), maps.of("twin"))


def test_the_second_run_equals_the_first_and_another_seed_differs(pipe):
    assert torch.equal(heard(pipe).scores, heard(pipe).scores)
    assert not torch.equal(heard(pipe).scores, heard(pipe, seed=1).scores)


def test_the_last_run_counts(pipe):
    with record(pipe, SPEC) as listener:
        paint(pipe, seed=1, height=32)
        first = listener.recording()
        paint(pipe)
    assert first.grid.h == 32
    assert torch.equal(listener.recording().scores, heard(pipe).scores)


def test_listeners_keep_apart(pipe):
    other = RecordSpec(parse("moon, cloud"), blocks="1")
    with record(pipe, SPEC) as outer, record(pipe, other) as inner:
        paint(pipe)
    assert torch.equal(outer.recording().scores, heard(pipe).scores)
    assert torch.equal(inner.recording().scores, heard(pipe, other).scores)


def test_each_picture_of_a_batch_is_recorded_as_if_alone(pipe):
    prompts = ["a red balloon", "the moon over the sea"]
    noise = torch.randn(2, 3 * 5, 64, generator=torch.Generator().manual_seed(2))
    both = heard(pipe, prompt=prompts, latents=noise).scores
    for i, prompt in enumerate(prompts):
        alone = heard(pipe, prompt=prompt, latents=noise[i : i + 1]).scores
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_the_negative_prompt_is_not_heard(pipe):
    # the first step starts from the same noise whatever the guidance
    plain, guided = heard(pipe), heard(pipe, **GUIDED)
    assert torch.equal(plain.scores[:, 0], guided.scores[:, 0])
    assert guided.steps == plain.steps == ((0, 0), (1, 1), (2, 2))


def test_a_prompt_swapped_between_steps_is_still_the_prompt(pipe):
    def swap(pipeline, i, t, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}

    swapped = heard(
        pipe,
        callback_on_step_end=swap,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        **GUIDED,
    )
    assert swapped.steps == ((0, 0), (1, 1), (2, 2))
    assert not torch.equal(swapped.scores[:, 1], heard(pipe, **GUIDED).scores[:, 1])


SHIFT = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}  # older pipelines read it from every scheduler


class Heun(FlowMatchHeunDiscreteScheduler):
    """The real scheduler, called as pipelines call theirs."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        super().set_timesteps(num_inference_steps or len(sigmas), device)


def test_a_second_order_scheduler_counts_steps_and_not_calls(pipe):
    heun = copy.copy(pipe)
    heun.scheduler = Heun()
    heun.scheduler.register_to_config(**SHIFT)
    for changed in ({}, GUIDED):
        steps = heard(heun, num_inference_steps=4, **changed).steps
        assert steps == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_steps_keep_apart_in_bfloat16(pipe):
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    steps = heard(half, num_inference_steps=40, height=16, width=16).steps
    assert steps == tuple((i, i) for i in range(40))


def test_a_run_that_stops_early_leaves_the_steps_it_made(pipe):
    def stop(pipeline, i, t, tensors):
        pipeline._interrupt = i == 1
        return {}

    recording = heard(pipe, num_inference_steps=5, callback_on_step_end=stop)
    assert recording.steps == ((0, 0), (1, 1))


def test_blocks_that_are_not_scored_are_still_ridden(pipe):
    late = heard(pipe, RecordSpec(SPEC.concepts, blocks="last 1"))
    assert late.blocks == (2,)
    assert torch.equal(late.scores, heard(pipe).scores[:, :, 2:])


def test_fused_projections_are_heard_too(pipe):
    fused = copy.deepcopy(pipe)
    fused.transformer.fuse_qkv_projections()
    with record(fused, SPEC) as listener:
        recorded = paint(fused)
    assert torch.equal(paint(fused), recorded)
    torch.testing.assert_close(
        listener.recording().scores, heard(pipe).scores, atol=1e-4, rtol=1e-4
    )


def test_an_exception_in_the_pipeline_leaves_no_trace(pipe):
    before = list(hooks(pipe))

    def fail(pipeline, i, t, tensors):
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"), record(pipe, SPEC):
        paint(pipe, callback_on_step_end=fail)
    assert list(hooks(pipe)) == before
    assert torch.equal(heard(pipe).scores, heard(pipe).scores)


def test_an_exception_inside_a_block_leaves_no_trace(pipe):
    before = list(hooks(pipe))

    def fail(module, args):
        raise RuntimeError("torn canvas")

    handle = pipe.transformer.transformer_blocks[1].ff.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="torn canvas"), record(pipe, SPEC) as listener:
        paint(pipe)
    handle.remove()
    assert list(hooks(pipe)) == before
    assert listener.forward is None


def test_blocks_that_something_else_skips_are_said_to_be_silent(pipe):
    class Replaced(nn.Module):
        def forward(self, hidden_states, encoder_hidden_states, **rest):
            return encoder_hidden_states, hidden_states

    skipping = copy.deepcopy(pipe)
    skipping.transformer.transformer_blocks[1].forward = Replaced().forward
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        heard(skipping)


def test_a_listener_without_a_run_says_so(pipe):
    with record(pipe, SPEC) as listener, pytest.raises(ConceptAttentionError, match="No picture"):
        listener.recording()


def test_blocks_that_are_not_there_are_refused(pipe):
    spec = RecordSpec(SPEC.concepts, blocks="2-5")
    before = list(hooks(pipe))
    with pytest.raises(ConceptAttentionError, match="there are 3"), record(pipe, spec):
        pass
    assert list(hooks(pipe)) == before


def test_a_compiled_transformer_is_refused(pipe):
    compiled = copy.copy(pipe)
    compiled.transformer = torch.compile(pipe.transformer)
    partly = copy.deepcopy(pipe)
    partly.transformer.transformer_blocks[1].compile()
    for one in (compiled, partly):
        with pytest.raises(ConceptAttentionError, match="compiled"), record(one, SPEC):
            pass


def test_a_pipeline_without_joint_attention_is_refused():
    class ImagePipeline:
        unet = nn.Linear(1, 1)

    class TextPipeline:
        transformer = nn.Linear(1, 1)

    message = r"joint text-image attention. Got {}; supported: Flux.1"
    for made, found in ((ImagePipeline(), "ImagePipeline"), (TextPipeline(), r".*\(Linear\)")):
        with pytest.raises(ConceptAttentionError, match=message.format(found)), record(made, SPEC):
            pass
