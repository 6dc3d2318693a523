"""What cannot be recorded is refused, and where nothing was recorded, that is said."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.recording import RecordSpec
from torch import nn

from .helpers import SPEC, hook_state, record_run


def test_blocks_that_something_else_skips_are_said(pipe, tiny):
    class Replaced(nn.Module):
        def forward(self, hidden_states, encoder_hidden_states, *rest, **named):
            streams = (encoder_hidden_states, hidden_states)
            return streams[::-1] if tiny.image_first else streams

    skipping = copy.deepcopy(pipe)
    family_of(pipe).blocks(skipping.transformer)[1].forward = Replaced().forward
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        record_run(skipping)


def test_a_session_without_a_run_says_so(pipe):
    with record(pipe, SPEC) as session, pytest.raises(ConceptAttentionError, match="No image"):
        session.recording()


def test_blocks_that_are_not_there_are_refused(pipe):
    spec = RecordSpec(SPEC.concepts, blocks="2-5")
    before = list(hook_state(pipe))
    with pytest.raises(ConceptAttentionError, match="there are 3"), record(pipe, spec):
        pass
    assert list(hook_state(pipe)) == before


def test_a_compiled_transformer_is_refused(pipe):
    compiled = copy.copy(pipe)
    compiled.transformer = torch.compile(pipe.transformer)
    partly = copy.deepcopy(pipe)
    family_of(pipe).blocks(partly.transformer)[1].compile()
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
