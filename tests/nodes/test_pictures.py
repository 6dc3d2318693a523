"""Pictures that go into the nodes and come out of them."""

import pytest
import torch
from conceptattention.nodes.view import VIEWS, Overlay

from .common import HALVES, image, run, territories


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_a_picture_for_each_of_the_batch_and_is_shown(view):
    maps = territories(HALVES, [[1, 2, 2, 2]] * 4)
    with torch.inference_mode():
        output = Overlay.execute(maps, image(2, 64, 64), view)
    (views,) = output.result
    assert views.ndim == 4 and len(views) == 2 and views.shape[3] == 3
    assert views.dtype == torch.float32
    assert views.shape[1] > 64
    assert 0 <= views.min() and views.max() <= 1
    assert not torch.equal(views[0], views[1])
    assert len(output.ui.as_dict()["images"]) == 2


def test_legends_of_different_height_still_make_one_batch():
    everything, one = [[0, 1, 2, 3, 4]] * 4, [[0] * 5] * 4
    maps = territories(everything, one, names="balloon, sun, sky, mountains, clouds")
    for width in (200, 256, 500, 768, 1024):
        (views,) = run(Overlay, maps=maps, image=image(2, 64, width))
        assert views.shape[2] == width


def test_an_image_with_transparency_can_be_looked_at():
    transparent = torch.cat([image(1, 64, 64), torch.zeros(1, 64, 64, 1)], dim=-1)
    (views,) = run(Overlay, maps=territories(HALVES), image=transparent)
    assert views.shape[3] == 3
