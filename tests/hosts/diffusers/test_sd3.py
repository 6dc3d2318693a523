"""Stable Diffusion 3: guidance in one call, skipped layers, encoders that are missing."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.patch import record

from .helpers import SPEC, generate, record_run
from .tiny.sd3 import tiny_sd3


@pytest.fixture(scope="module")
def sd3():
    return tiny_sd3()


def test_a_pass_with_skipped_layers_is_not_recorded(sd3):
    guided = {"negative_prompt": "a cat", "guidance_scale": 3.0, "num_inference_steps": 5}
    skipping = {
        **guided,
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    }
    with record(sd3, SPEC) as session:
        recorded = generate(sd3, **skipping)
    assert torch.equal(generate(sd3, **skipping), recorded)
    recording = session.recording()
    assert recording.steps == tuple((i, i) for i in range(5))
    # pictures part only after the second step, the first with the extra call
    assert torch.equal(recording.scores[:, :2], record_run(sd3, **guided).scores[:, :2])


def test_without_t5_concepts_are_read_the_same(sd3):
    small = copy.copy(sd3)
    small.text_encoder_3 = None
    with record(sd3, SPEC) as both, record(small, SPEC) as clips:
        assert torch.equal(both.plan.tokens.rows, clips.plan.tokens.rows)


def test_a_pipeline_without_clips_is_refused(sd3):
    bare = copy.copy(sd3)
    bare.text_encoder_2 = None
    expected = pytest.raises(ConceptAttentionError, match="reads concepts with its two")
    with expected, record(bare, SPEC):
        pass


def test_fused_projections_of_version_3_0_are_recorded():
    plain = tiny_sd3(newer=False)
    fused = copy.deepcopy(plain)
    fused.transformer.fuse_qkv_projections()
    with record(fused, SPEC) as session:
        recorded = generate(fused)
    assert torch.equal(generate(fused), recorded)
    torch.testing.assert_close(
        session.recording().scores, record_run(plain).scores, atol=1e-4, rtol=1e-4
    )
