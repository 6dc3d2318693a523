"""Concepts among themselves, and the runs and steps of a recording."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.maps import read_maps
from conceptattention.conceptattention_core.recording import RecordSpec
from diffusers import FlowMatchHeunDiscreteScheduler

from .helpers import SPEC, generate, record_run


def test_permuting_concepts_permutes_maps(pipe):
    turned = RecordSpec(parse("sea: the green sea, red balloon, sky"))
    torch.testing.assert_close(
        record_run(pipe, turned).scores, record_run(pipe).scores[:, :, :, [2, 0, 1]]
    )


def test_a_concept_given_twice_gets_equal_maps(pipe):
    maps = read_maps(record_run(pipe, RecordSpec(parse("sky, cat, twin: sky"))))
    torch.testing.assert_close(maps.of("sky"), maps.of("twin"))


def test_runs_of_one_seed_are_equal_and_of_others_not(pipe):
    assert torch.equal(record_run(pipe).scores, record_run(pipe).scores)
    assert not torch.equal(record_run(pipe).scores, record_run(pipe, seed=1).scores)


def test_the_last_run_counts(pipe):
    with record(pipe, SPEC) as session:
        generate(pipe, seed=1, height=32)
        first = session.recording()
        generate(pipe)
    assert first.grid.h == 32
    assert torch.equal(session.recording().scores, record_run(pipe).scores)


def test_sessions_keep_apart(pipe):
    other = RecordSpec(parse("moon, cloud"), blocks="1")
    with record(pipe, SPEC) as outer, record(pipe, other) as inner:
        generate(pipe)
    assert torch.equal(outer.recording().scores, record_run(pipe).scores)
    assert torch.equal(inner.recording().scores, record_run(pipe, other).scores)


def test_each_image_of_a_batch_is_recorded_as_if_alone(pipe, tiny):
    prompts = ["a red balloon", "the moon over the sea"]
    noise = torch.randn(2, *tiny.noise, generator=torch.Generator().manual_seed(2))
    both = record_run(pipe, prompt=prompts, latents=noise).scores.chunk(2)
    for i, prompt in enumerate(prompts):
        alone = record_run(pipe, prompt=prompt, latents=noise[i : i + 1]).scores
        torch.testing.assert_close(both[i], alone, atol=1e-4, rtol=1e-4)


def test_the_negative_prompt_is_not_recorded(pipe, tiny):
    # the first step starts from the same noise whatever the guidance
    plain, guided = record_run(pipe), record_run(pipe, **tiny.guided)
    torch.testing.assert_close(plain.scores[:, 0], guided.scores[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain.scores[:, 1], guided.scores[:, 1], atol=1e-3)
    assert guided.steps == plain.steps == ((0, 0), (1, 1), (2, 2))


def test_a_prompt_swapped_between_steps_is_still_the_prompt(pipe, tiny):
    def swap(pipeline, i, t, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)}

    swapped = record_run(
        pipe,
        callback_on_step_end=swap,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        **tiny.guided,
    )
    assert swapped.steps == ((0, 0), (1, 1), (2, 2))
    assert not torch.equal(swapped.scores[:, 1], record_run(pipe, **tiny.guided).scores[:, 1])


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


def test_a_second_order_scheduler_counts_steps_not_calls(pipe, tiny):
    if not tiny.heun:
        pytest.skip("this family has schedulers of its own")
    heun = copy.copy(pipe)
    heun.scheduler = Heun()
    heun.scheduler.register_to_config(**SHIFT)
    for changed in ({}, tiny.guided):
        steps = record_run(heun, num_inference_steps=4, **changed).steps
        assert steps == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_steps_keep_apart_in_bfloat16(pipe):
    half = copy.deepcopy(pipe).to(torch.bfloat16)
    steps = record_run(half, num_inference_steps=40, height=16, width=16).steps
    assert steps == tuple((i, i) for i in range(40))


def test_a_run_that_stops_early_leaves_the_steps_it_made(pipe):
    def stop(pipeline, i, t, tensors):
        pipeline._interrupt = i == 1
        return {}

    recording = record_run(pipe, num_inference_steps=5, callback_on_step_end=stop)
    assert recording.steps == ((0, 0), (1, 1))


def test_blocks_that_are_not_scored_are_passed(pipe):
    late = record_run(pipe, RecordSpec(SPEC.concepts, blocks="last 1"))
    assert late.blocks == ((2, 2),)
    assert torch.equal(late.scores, record_run(pipe).scores[:, :, 2:])


def test_fused_projections_are_recorded_too(pipe, tiny):
    if not tiny.fuses:
        pytest.skip("diffusers does not fuse the projections of this toy")
    fused = copy.deepcopy(pipe)
    fused.transformer.fuse_qkv_projections()
    with record(fused, SPEC) as session:
        recorded = generate(fused)
    assert torch.equal(generate(fused), recorded)
    torch.testing.assert_close(
        session.recording().scores, record_run(pipe).scores, atol=1e-4, rtol=1e-4
    )
