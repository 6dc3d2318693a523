"""Images that exist already: a pass over one is a step of sampling towards it."""

import torch
from conceptattention.conceptattention_core.hosts.diffusers.families import family_of
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import Grid
from torch import Tensor

from .helpers import IMAGES, SPEC, call_of, encode_and_decode, locate_and_sample, single_frame
from .tiny import LENGTH


@torch.no_grad()
def test_locating_calls_the_transformer_as_sampling_does(pipe):
    """With all that sampling calls it with."""
    how = LocateSpec("a red balloon", noise=(0.25, 0.5), samples=2)
    family, passes = family_of(pipe), []
    located = locate(pipe, IMAGES, SPEC, how, progress=lambda: passes.append(1))
    assert located.grid == Grid(3, 5, 16, 48, 80, size=(48, 80))
    assert located.scores.shape == (2, 2, 3, 3, 3, 5)
    assert located.pictures == 2
    assert len(passes) == how.passes
    latent = family.encode(pipe, IMAGES)
    prepared = family.prepare_call(pipe, latent.shape, how.caption, LENGTH)(latent, 0.5)
    sampled = call_of(pipe, prompt=[how.caption] * 2, num_inference_steps=2, **single_frame(pipe))
    tensors = {name for name, value in sampled.items() if isinstance(value, Tensor)}
    assert tensors <= set(prepared)
    for name in tensors:
        assert prepared[name].shape == sampled[name].shape
    same = {"encoder_hidden_states", "encoder_attention_mask", "txt_ids", "img_ids"} & tensors
    for name in (*same, *({"image_rotary_emb"} & set(sampled))):
        torch.testing.assert_close(prepared[name], sampled[name])


def test_locating_equals_sampling_from_the_same_noised_image(pipe):
    located, sampled = locate_and_sample(pipe)
    torch.testing.assert_close(located.scores[:, 0], sampled.scores[:, 1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(located.scores[:, 0], sampled.scores[:, 2], atol=1e-2)


def test_the_pipeline_decodes_what_an_image_is_encoded_to(pipe):
    torch.testing.assert_close(*encode_and_decode(pipe), atol=1e-5, rtol=1e-5)
