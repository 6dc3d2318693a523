"""Modules that others replace while recording: maps of the model as it is, or a sentence."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .helpers import SPEC, generate, hook_state, record_run


class Adapted(nn.Module):
    """A layer with an adapter around it, as PEFT puts one in its place."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        noise = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(4, base.in_features, generator=noise) * 0.2)
        self.up = nn.Parameter(torch.randn(base.out_features, 4, generator=noise) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


NAMES = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")


def load(pipe: DiffusionPipeline) -> None:
    """Put an adapter around every projection."""
    for block in family_of(pipe).blocks(pipe.transformer):
        attention = family_of(pipe).attention(block)
        for name in NAMES:
            if isinstance(getattr(attention, name, None), nn.Linear):
                setattr(attention, name, Adapted(getattr(attention, name)))


def unload(pipe: DiffusionPipeline) -> None:
    for block in family_of(pipe).blocks(pipe.transformer):
        attention = family_of(pipe).attention(block)
        for name in NAMES:
            if isinstance(getattr(attention, name, None), Adapted):
                setattr(attention, name, getattr(attention, name).base)


def test_an_adapter_may_be_loaded_and_unloaded_while_recording(pipe):
    changing, adapted = copy.deepcopy(pipe), copy.deepcopy(pipe)
    load(adapted)
    expected, plain, before = (
        record_run(adapted).scores,
        record_run(pipe).scores,
        list(hook_state(changing)),
    )
    with record(changing, SPEC) as session:
        load(changing)
        assert torch.equal(generate(changing), generate(adapted))
        assert torch.equal(session.recording().scores, expected)
        unload(changing)
        generate(changing)
    assert torch.equal(session.recording().scores, plain)
    assert not torch.allclose(expected, plain, atol=1e-2)
    assert list(hook_state(changing)) == before


def test_an_adapter_loaded_between_steps_counts_from_then_on(pipe):
    changing, adapted = copy.deepcopy(pipe), copy.deepcopy(pipe)

    def load_after_the_first(pipeline, i, t, tensors):
        if i == 0:
            load(pipeline)
        return {}

    early = record_run(changing, callback_on_step_end=load_after_the_first).scores
    assert torch.equal(early[:, 0], record_run(pipe).scores[:, 0])
    load(adapted)
    assert not torch.equal(early[:, 0], record_run(adapted).scores[:, 0])


def test_an_adapter_loaded_within_a_call_is_said(pipe):
    def loading(pipeline: DiffusionPipeline) -> DiffusionPipeline:
        forward = pipeline.transformer.forward

        def load_first(*args, **kwargs):
            load(pipeline)
            return forward(*args, **kwargs)

        pipeline.transformer.forward = load_first
        return pipeline

    plain, recorded = loading(copy.deepcopy(pipe)), loading(copy.deepcopy(pipe))
    with record(recorded, SPEC) as session:
        assert torch.equal(generate(recorded), generate(plain))
    with pytest.raises(ConceptAttentionError, match="was replaced while the transformer ran"):
        session.recording()


# --- stand-ins for all blocks, as caches put them -------------------------------------------------


class All(nn.Module):
    """One module in place of all blocks, which runs them; it may skip all but the first."""

    def __init__(self, blocks: nn.ModuleList, image_first: bool, skips: bool):
        super().__init__()
        self.inside, self.image_first, self.skips = [blocks], image_first, skips

    def forward(self, hidden_states, encoder_hidden_states, *args, **kwargs):
        image, text = hidden_states, encoder_hidden_states
        blocks = list(self.inside[0])
        for block in blocks[:1] if self.skips else blocks:
            streams = block(image, text, *args, **kwargs)
            image, text = streams if self.image_first else streams[::-1]
        return (image, text) if self.image_first else (text, image)


@contextmanager
def standing_in(pipe: DiffusionPipeline, image_first: bool, skipped: set[int]) -> Iterator[None]:
    """Calls of the transformer have one block, which skips in some of them."""
    model, calls = pipe.transformer, []
    forward = model.forward

    def call(*args, **kwargs):
        blocks = model.transformer_blocks
        one = All(blocks, image_first, len(calls) in skipped)
        calls.append(one)
        model.transformer_blocks = nn.ModuleList([one])
        try:
            return forward(*args, **kwargs)
        finally:
            model.transformer_blocks = blocks

    model.forward = call
    try:
        yield
    finally:
        del model.forward


def test_blocks_behind_a_stand_in_are_recorded(pipe, tiny):
    expected = record_run(pipe).scores
    with standing_in(pipe, tiny.image_first, set()):
        recording = record_run(pipe)
    assert recording.steps == ((0, 0), (1, 1), (2, 2))
    torch.testing.assert_close(recording.scores, expected, atol=1e-5, rtol=1e-5)


def test_steps_that_a_cache_skips_are_not_recorded(pipe, tiny):
    with standing_in(pipe, tiny.image_first, {1}):
        recording = record_run(pipe)
    assert recording.steps == ((0, 0), (2, 2))


def test_a_cache_that_skips_every_step_is_said(pipe, tiny):
    pipe.transformer._is_cached = True
    try:
        with (
            standing_in(pipe, tiny.image_first, {0, 1, 2}),
            pytest.raises(ConceptAttentionError, match=r"Nothing was captured.* blocks are cached"),
        ):
            record_run(pipe)
    finally:
        del pipe.transformer._is_cached


def test_a_wrapper_around_a_block_is_said(pipe, tiny):
    class Wrapper(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **kwargs):
            return self.block(*args, **kwargs)

    wrapped = copy.deepcopy(pipe)
    blocks = family_of(pipe).blocks(wrapped.transformer)
    expected = generate(pipe)
    with record(wrapped, SPEC) as session:
        blocks[1] = Wrapper(blocks[1])
        assert torch.equal(generate(wrapped), expected)
    with pytest.raises(ConceptAttentionError, match="could not be recorded with"):
        session.recording()
