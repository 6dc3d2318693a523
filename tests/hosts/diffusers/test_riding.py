"""Concepts are what a prompt would be, and the image is that of the ordinary attention."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conceptattention.conceptattention_core import forward
from conceptattention.conceptattention_core.attention import ImageVectors
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.forward import RecordPlan
from conceptattention.conceptattention_core.hosts.diffusers.calls import ModelCall
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.forward import TransformerForward
from conceptattention.conceptattention_core.hosts.diffusers.patch import BlockHooks, record
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.conceptattention_core.tokens import ConceptTokens
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .helpers import SPEC, Calls, call_of, record_run


@pytest.fixture
def steps(monkeypatch) -> list[tuple[Tensor, Tensor, ImageVectors]]:
    """For each step of the concepts their stream before and after it, and the image."""
    seen = []

    def spy(block, concepts, image, mean, method):
        after, scores = step(block, concepts, image, mean, method)
        seen.append((concepts, after, image))
        return after, scores

    step = forward.step
    monkeypatch.setattr(forward, "step", spy)
    return seen


def as_tokens(text: Tensor) -> ConceptTokens:
    """All rows `t n` of a text as those of one concept."""
    return ConceptTokens.of(text, range(-len(text), 0))


@torch.no_grad()
def test_riding_equals_being_the_prompt(pipe, tiny, steps):
    family, model = family_of(pipe), pipe.transformer
    call = tiny.bare(call_of(pipe))
    if "pooled_projections" in call:
        call["pooled_projections"] = torch.zeros_like(call["pooled_projections"])
    prompt = as_tokens(call["encoder_hidden_states"][0])
    plan = RecordPlan(family.name, RecordSpec(parse("the prompt")), range(3), prompt)
    hooks, joint = BlockHooks(family, plan), list(family.blocks(model))
    made = ModelCall.of(call)
    grid = family.grid(pipe, made)
    hooks.forward = TransformerForward(family, plan, grid, model, made, range(1), joint)
    handles = list(hooks.attach(joint))
    with Calls(*joint) as blocks:
        model(**call)
    for handle in handles:
        handle.remove()
    streams = [streams[1 if tiny.image_first else 0] for streams in blocks.outputs]
    assert len(steps) == len(streams) == 3
    for (before, after, _), text in zip(steps, streams, strict=True):
        if text is not None:  # SD3's last block has none
            torch.testing.assert_close(after, text, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(after, before, atol=1e-2)


def test_pooled_text_does_not_move_concepts(pipe, monkeypatch):
    family, started = family_of(pipe), []

    def spy(model, tokens, call, first):
        started.append((model, tokens, call, first))
        return start_stream(*started[-1])

    start_stream = family.start_stream
    monkeypatch.setattr(family, "start_stream", spy)
    record_run(pipe, num_inference_steps=1)
    model, tokens, call, first = started[0]
    pooled = call.pooled_projections
    if pooled is None:
        pytest.skip("this family has no pooled text")
    streams = [
        start_stream(model, tokens, replace(call, pooled_projections=pooled * n), first)
        for n in (0, 1)
    ]
    block = family.blocks(model)[0]
    heads = [stream.text_side(block).heads(stream.concepts) for stream in streams]
    assert all(map(torch.equal, *heads))


def test_a_concept_is_read_as_if_it_were_the_prompt(pipe, tiny):
    with record(pipe, SPEC) as session:
        pass
    tokens = session.plan.tokens
    rows, places = tokens.rows, tokens.place
    for concept in SPEC.concepts.concepts:
        text = call_of(pipe, prompt=concept.words)["encoder_hidden_states"][-1]
        own = slice(tiny.start, tiny.start + len(concept.words.split()))
        expected = as_tokens(text)
        torch.testing.assert_close(rows[: len(text[own])], text[own])
        if tiny.has_places:
            assert torch.equal(places[: len(text[own])], expected.place[own])
        rows, places = rows[len(text[own]) :], places[len(text[own]) :]
    assert len(rows) == 0


def test_the_first_token_alone_counts_when_asked(pipe):
    both = RecordSpec(parse("a: red, b: red balloon, c: sky"), tokens="first")
    with record(pipe, both) as session:
        assert session.plan.tokens.mean.tolist() == torch.eye(3).tolist()


class Attention(TorchFunctionMode):
    """Sees what goes through torch's attention."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            q, k, v = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))
            self.seen.append((q, k, v, out))
        return out


def test_image_vectors_are_those_of_the_ordinary_attention(pipe, tiny, steps):
    with Attention() as attention:
        grid = record_run(pipe, num_inference_steps=1).grid
    joint = [seen for seen in attention.seen if seen[0].shape[2] > grid.patches]
    for _, _, image in steps:
        merged = rearrange(image.outputs, "b p (head d) -> b head p d", head=image.keys.shape[1])
        ours = (image.queries(), image.keys, image.values, merged)
        assert any(
            all(map(torch.equal, ours, (x[:, :, patches] for x in theirs)))
            for theirs in joint
            for patches in (slice(grid.patches), slice(-grid.patches, None))
        )
        lengths = (q.norm(dim=-1) for q in (image.queries_before_rope(), image.queries()))
        torch.testing.assert_close(*lengths)
