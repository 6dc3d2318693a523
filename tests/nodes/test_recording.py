"""From Record Concepts to masks: the nodes as ComfyUI calls them."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.nodes.masks import Masks, Pick
from conceptattention.nodes.record import Maps
from conceptattention.nodes.view import Overlay

import nodes as stock

from ..comfyui.tiny import call, with_replaced_block
from .common import HALVES, TINY_FLUX, image, run, sampled, territories


def test_from_words_to_masks():
    model, latent = sampled(background=True)
    (maps,) = run(Maps, latent=latent)
    assert maps.concepts.names == ("cat", "red dog", "sky", "background")
    masks, names = run(Masks, maps=maps, image=image(), keep_absent=True)
    assert names == ["cat", "red dog", "sky"]
    assert len(masks) == 3
    for mask in masks:
        assert mask.shape == (2, 40, 56)
        assert mask.dtype == torch.float32
        assert mask.unique().tolist() == [0, 1]
    (picked,) = run(Pick, maps=maps, image=image(), name="Red Dog", keep_absent=True)
    assert torch.equal(picked, masks[1])
    (same,) = run(Maps, latent=latent, model=model)
    assert torch.equal(same.maps, maps.maps)


def test_without_an_image_masks_have_the_size_that_the_latent_decodes_to():
    (maps,) = run(Maps, latent=sampled()[1])
    for mask in run(Masks, maps=maps)[0]:
        assert mask.shape == (2, 40, 56)


@pytest.mark.parametrize("size", [(80, 112), (37, 51)])
def test_masks_take_the_size_of_the_image(size):
    maps = territories(HALVES)
    for mask in run(Masks, maps=maps, image=image(1, *size))[0]:
        assert mask.shape == (1, *size)


def test_ranges_and_order_change_the_maps_without_sampling_again():
    _, latent = sampled()
    ways = [{}, {"steps": "0"}, {"blocks": "all"}, {"order": "mean, then softmax"},
            {"temperature": 4.0}]  # fmt: skip
    found = [run(Maps, latent=latent, **way)[0].maps for way in ways]
    for i, one in enumerate(found):
        assert all(not torch.allclose(one, other, atol=1e-6) for other in found[:i]), ways[i]


def test_settings_of_the_recording_reach_it():
    _, latent = sampled(
        tokens="first", attend_to="image", space="value", blocks="1-", memory=3, background=True
    )
    (maps,) = run(Maps, latent=latent)
    spec = maps.recording.spec
    assert spec.tokens == "first"
    assert (spec.method.attend, maps.spec.space) == ("image", "value")
    assert maps.concepts.names[-1] == "background"
    with pytest.raises(ConceptAttentionError, match="Blocks '0' were not recorded"):
        run(Maps, latent=latent, blocks="0")


def test_one_concept_competes_with_a_background_that_gets_no_mask():
    (maps,) = run(Maps, latent=sampled("cat")[1])
    masks, names = run(Masks, maps=maps)
    assert (names, len(masks)) == (["cat"], 1)
    (background,) = run(Pick, maps=maps, name="background", keep_absent=True)
    assert background.any()


def test_one_of_a_batch_can_be_taken_out_after_sampling():
    STORE.clear()  # the same picture with other words, of other tests
    _, latent = sampled(batch=3)
    (maps,) = run(Maps, latent=latent)
    (second,) = call(stock.LatentFromBatch, samples=latent, batch_index=1, length=1)
    (alone,) = run(Maps, latent=second)
    assert torch.equal(alone.maps, maps.maps[1:2])


def test_a_latent_nobody_recorded_is_an_error_that_says_what_to_do():
    with pytest.raises(ConceptAttentionError, match="Connect the LATENT that comes straight"):
        run(Maps, latent={"samples": torch.rand(1, 16, 5, 7)})


def test_a_silent_run_says_so_at_the_maps():
    _, latent = sampled(model=with_replaced_block(TINY_FLUX, TINY_FLUX.model(), 0))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured while Flux.1 sampled"):
        run(Maps, latent=latent)


@pytest.mark.parametrize("node", [Masks, Pick, Overlay])
def test_an_image_of_another_batch_is_refused_with_both_sizes(node):
    name = {"name": "cat"} if node is Pick else {}
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 2"):
        run(node, maps=territories(HALVES, HALVES), image=image(3), **name)
