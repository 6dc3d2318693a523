"""The maps of one image on its pixels: computed once for all of its files."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError, maps, masks
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks, sharpen, upsample
from conceptattention.conceptattention_core.output import export, rendered
from conceptattention.conceptattention_core.output.rendered import RenderedMaps
from conceptattention.conceptattention_core.pixels import to_floats

from .examples import ODD, soft_maps

IMAGE = np.random.default_rng(0).integers(0, 256, (104, 56, 3), dtype=np.uint8)
SPECS = [
    MaskSpec(),
    MaskSpec(edges=False),
    MaskSpec(soft=True, contrast=2.0, feather=3),
    MaskSpec(threshold="competition"),
    MaskSpec(threshold="hysteresis", holes=True, keep_absent=True),
]


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often what is dear was computed, by name."""
    counted: Counter = Counter()
    dear = [(rendered, name) for name in ("upsample", "follow_image", "measure_presence")]
    dear += [(rendered, name) for name in ("find_strongest", "draw_heat_map", "draw_mask")]
    dear += [(masks, "upsample"), (masks, "sharpen"), (maps, "measure_presence")]
    for module, name in dear:
        monkeypatch.setattr(module, name, _counting(counted, name, getattr(module, name)))
    return counted


def _counting(counted: Counter, name: str, real: Callable) -> Callable:
    def call(*args, **more):
        counted[name] += 1
        return real(*args, **more)

    return call


def test_the_files_of_an_image_compute_each_part_once(tmp_path, calls):
    export.save_image_files(tmp_path, IMAGE, soft_maps(1), MaskSpec(), full_size=True)
    assert calls == {
        "upsample": 1,
        "follow_image": 1,
        "measure_presence": 1,
        "find_strongest": 1,
        "draw_mask": 3,
        "draw_heat_map": 6,  # three files and three tiles of the sheet
    }


def test_a_sheet_of_another_size_takes_one_more_upsampling(tmp_path, calls):
    image = np.zeros((1200, 1600, 3), np.uint8)
    export.save_image_files(tmp_path, image, soft_maps(1), MaskSpec())
    assert (calls["upsample"], calls["follow_image"], calls["measure_presence"]) == (2, 1, 1)


@pytest.mark.parametrize("spec", SPECS)
def test_its_masks_are_those_of_draw_masks(spec):
    found = soft_maps(1)
    expected = draw_masks(found, spec=spec, image=to_floats(IMAGE)[None])[:, 0].numpy()
    one = RenderedMaps(found, IMAGE, spec)
    assert all(np.array_equal(one.mask(c), expected[c]) for c in range(3))


def test_its_maps_are_those_of_upsample_and_sharpen():
    found = soft_maps(1)
    one = RenderedMaps(found, IMAGE)
    assert torch.equal(one.smooth, upsample(found.maps, ODD, (104, 56))[0])
    assert torch.equal(one.sharp, sharpen(found, to_floats(IMAGE)[None])[0])
    assert one.span == (one.smooth.min().item(), one.smooth.max().item())


def test_without_an_image_it_has_the_size_that_the_latent_decodes_to():
    one = RenderedMaps(soft_maps(1))
    assert one.smooth.shape == (3, 104, 56)
    assert one.sharp is one.smooth
    with pytest.raises(ConceptAttentionError, match="drawn on the image"):
        one.overlay()


def test_maps_of_several_images_are_refused():
    with pytest.raises(ConceptAttentionError, match="of 2 images: take those of one"):
        RenderedMaps(soft_maps(2), IMAGE)
