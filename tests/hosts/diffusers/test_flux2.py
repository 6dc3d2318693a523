"""Flux.2: dev beside Klein, and reference images behind and in front of the patches."""

import copy

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.diffusers.locate import locate
from conceptattention.conceptattention_core.hosts.diffusers.patch import record
from conceptattention.conceptattention_core.recording import Grid
from PIL import Image

from .helpers import SPEC, generate, record_run
from .tiny import LENGTH
from .tiny.flux2 import tiny_flux2


@pytest.fixture(scope="module")
def klein():
    return tiny_flux2()


@pytest.fixture(scope="module")
def dev():
    return tiny_flux2(klein=False)


def picture(width: int, height: int) -> Image.Image:
    ramp = torch.arange(width * height * 3).reshape(height, width, 3) % 251
    return Image.fromarray(ramp.to(torch.uint8).numpy())


def test_dev_is_recorded_and_locates(dev):
    with record(dev, SPEC) as session:
        recorded = generate(dev)
    assert torch.equal(generate(dev), recorded)
    assert session.recording().scores.shape == (1, 3, 3, 3, 3, 5)
    assert locate(dev, torch.rand(1, 3, 48, 80), SPEC).scores.isfinite().all()


def test_places_count_from_the_end_on_either_side_of_padding(klein, dev):
    def places(pipe) -> list[int]:
        with record(pipe, SPEC) as session:
            return session.plan.tokens.place.tolist()

    # "red balloon", "sky" and "the green sea": behind a template of four, and before one of one
    assert [LENGTH + place for place in places(klein)] == [4, 5, 4, 4, 5, 6]
    assert places(dev) == [-3, -2, -2, -4, -3, -2]


def test_reference_images_stay_outside_the_grid(klein):
    changed = {"image": picture(64, 96), "guidance_scale": 2.0}
    with record(klein, SPEC) as session:
        recorded = generate(klein, **changed)
    assert torch.equal(generate(klein, **changed), recorded)
    assert session.recording().grid == Grid(3, 5, 16, 48, 80)
    assert not torch.allclose(session.recording().scores, record_run(klein).scores, atol=1e-2)


def test_reference_images_may_stand_in_front_once(klein):
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "Flux2KleinKVPipeline"):
        pytest.skip("this diffusers has no Klein KV")
    remembering = diffusers.Flux2KleinKVPipeline(**copy.deepcopy(klein).components)
    remembering.set_progress_bar_config(disable=True)
    with record(remembering, SPEC) as session:
        recorded = remembering(
            prompt="a red balloon",
            height=48,
            width=80,
            num_inference_steps=3,
            max_sequence_length=LENGTH,
            output_type="latent",
            image=picture(64, 96),
            generator=torch.Generator().manual_seed(0),
        ).images
    assert recorded.isfinite().all()
    assert session.recording().grid == Grid(3, 5, 16, 48, 80)
    assert session.recording().steps == ((0, 0), (1, 1), (2, 2))


def test_a_pipeline_without_a_language_model_is_refused(klein):
    bare = copy.copy(klein)
    bare.text_encoder = None
    expected = pytest.raises(ConceptAttentionError, match="with its language model")
    with expected, record(bare, SPEC):
        pass
