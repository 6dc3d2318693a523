"""A video through the nodes: every picture has a mask and is a picture to all that follows."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.nodes.locate import Locate
from conceptattention.nodes.masks import Masks, Pick
from conceptattention.nodes.record import Maps, Record
from conceptattention.nodes.scores import Scores
from conceptattention.nodes.view import Labels, Overlay

from ..comfyui.tiny import CONCEPTS, HERE, TINY
from .common import run

VIDEO = TINY["Hunyuan Video and Image"]
PICTURES = 1 + 2 * 4  # of three latent frames
H, W = 6, 8
SIZE = H * VIDEO.scale, W * VIDEO.scale


@pytest.fixture(autouse=True)
def _empty_store():
    STORE.clear()


@pytest.fixture
def maps():
    """Those of two videos."""
    (model,) = run(Record, model=VIDEO.model(), clip=VIDEO.clip(), concepts=CONCEPTS)
    (found,) = run(Maps, latent={"samples": VIDEO.sample(model, (2, H, W))})
    return found


def video(pictures: int = 2 * PICTURES) -> torch.Tensor:
    """What VAEDecode makes of the latent: the pictures of both videos, one after another."""
    return torch.rand(pictures, *SIZE, 3, generator=torch.Generator().manual_seed(0))


def test_every_concept_has_a_mask_of_every_picture(maps):
    masks, names = run(Masks, maps=maps, image=video(), threshold="competition")
    assert names == ["cat", "red dog", "sky"]
    for mask in masks:
        assert mask.shape == (2 * PICTURES, *SIZE)
    assert torch.equal(sum(masks), torch.ones(2 * PICTURES, *SIZE))


def test_masks_follow_the_frames_of_each_video(maps):
    (soft,) = run(Pick, maps=maps, name="cat", soft=True)
    assert soft.shape == (2 * PICTURES, *SIZE)
    assert not torch.allclose(soft[0], soft[PICTURES])  # two videos
    assert not torch.allclose(soft[0], soft[PICTURES - 1])  # two ends of one


def test_pictures_of_another_number_are_refused_with_both_numbers(maps):
    with pytest.raises(ConceptAttentionError, match=r"18 .*5|5 .*18"):
        run(Masks, maps=maps, image=video(5))


def test_what_shows_and_counts_takes_videos_too(maps):
    for node in (Overlay, Labels):
        (picture, *_) = run(node, maps=maps, image=video())
        assert len(picture) == 2 * PICTURES
    text, *_ = run(Scores, maps=maps)
    assert f"picture {2 * PICTURES}" in text


class VideoVAE:
    """Stands in for a video's VAE: a batch of pictures is one video."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        frames = (len(pixels) - 1) // 4 + 1
        cells = pixels.mean(-1)[::4, :: VIDEO.scale, :: VIDEO.scale]
        assert len(cells) == frames
        return cells[None, None].expand(1, VIDEO.channels, -1, -1, -1).clone()


def test_a_video_that_exists_is_looked_at_as_one():
    (found,) = run(
        Locate, model=VIDEO.model(), clip=VIDEO.clip(), vae=VideoVAE(), image=video(PICTURES),
        concepts=CONCEPTS,
    )  # fmt: skip
    assert len(found.maps) == PICTURES
    (mask,) = run(Pick, maps=found, image=video(PICTURES), name="sky")
    assert mask.shape == (PICTURES, *SIZE)


@pytest.mark.parametrize(
    ("patch", "scale", "latents", "pictures"),
    [([1, 2, 2], 8, 9, 33), ([1, 1, 1], 16, 31, 121), ([1, 1], 32, 1, 1)],
    ids=["HunyuanVideo", "HunyuanVideo 1.5", "HunyuanImage 2.1"],
)
def test_each_of_hunyuans_models_has_its_own_grid(patch, scale, latents, pictures):
    network = VIDEO.model().model.diffusion_model
    twin = type(network).__new__(type(network))
    torch.nn.Module.__init__(twin)
    twin.patch_size = patch
    grid = family_of(twin).grid(twin, 90, 160, latents)
    assert (grid.h, grid.w) == (90 * scale, 160 * scale)
    assert grid.patch == scale * patch[-1]
    assert (grid.time.frames, grid.time.pictures) == (latents, pictures)


@pytest.mark.skipif("CogVideoX" not in HERE, reason="this ComfyUI does not have CogVideoX")
def test_cogvideox_1_5_has_two_latent_frames_in_a_patch():
    network = TINY["CogVideoX"].model().model.diffusion_model
    grids = []
    for depth in (None, 2):
        twin = type(network).__new__(type(network))
        torch.nn.Module.__init__(twin)
        twin.patch_size, twin.patch_size_t = 2, depth
        grids.append(family_of(twin).grid(twin, 60, 90, 13).time)
    assert [time.frames for time in grids] == [13, 7]
    assert [time.pictures for time in grids] == [49, 49]
