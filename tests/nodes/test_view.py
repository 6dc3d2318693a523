"""Concept Label Map, Concept Map Sheet and Concept Explorer."""

from pathlib import Path

import comfy_extras.nodes_mask as masking
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.maps import measure_presence
from conceptattention.conceptattention_core.output import render
from conceptattention.nodes.record import Maps
from conceptattention.nodes.view import Explorer, Labels, Sheet
from PIL import Image

import nodes as stock

from ..comfyui.tiny import call
from .common import (
    HALVES,
    SIXTY_FOUR,
    explore,
    files_in,
    hot_maps,
    image,
    run,
    sampled,
    territories,
)


def saved_values(numbers: torch.Tensor, output: Path) -> np.ndarray:
    (shown,) = call(masking.MaskToImage, mask=numbers)
    call(stock.SaveImage, images=shown, filename_prefix="labels")
    return np.stack([np.asarray(Image.open(output / name))[..., 0] for name in files_in(output)])


def test_saved_numbers_are_positions_of_all_sixty_four_concepts(output):
    owners = torch.randperm(64, generator=torch.Generator().manual_seed(0)).view(8, 8)
    maps = territories(owners.tolist(), names=SIXTY_FOUR)
    views, numbers = run(Labels, maps=maps, image=torch.full((1, 128, 128, 3), 0.4))
    assert numbers.shape == (1, 128, 128)
    assert np.array_equal(saved_values(numbers, output)[0, 8::16, 8::16], owners)
    assert views.shape[1] > 128  # a legend below
    for y in range(8):
        for x in range(8):
            shown = tuple((views[0, 16 * y + 8, 16 * x + 8] * 255).round().int().tolist())
            assert shown == render.concept_colour(owners[y, x].item())


def test_the_hidden_background_has_the_last_number_and_no_colour(output):
    maps = territories(HALVES, [[1, 1, 0, 0]] * 4, names="cat")
    views, numbers = run(Labels, maps=maps, image=torch.full((2, 64, 64, 3), 0.4))
    expected = np.repeat([[0, 1], [1, 0]], 32, axis=1)[:, None].repeat(64, 1)
    assert np.array_equal(saved_values(numbers, output), expected)
    flat = (views[:, :64] * 255).round().byte().numpy()
    assert (flat[expected == 0] == render.concept_colour(0)).all()
    assert (flat[expected == 1] == render.PAPER).all()
    legends = (views[:, 64:] * 255).round().byte().numpy()
    for b, strip in enumerate(legends):
        assert np.array_equal(
            strip, render.draw_legend(maps.concepts, measure_presence(maps)[b], 64)
        )


@pytest.mark.parametrize("size", [(37, 51), (200, 300)])
def test_numbers_have_the_size_of_the_picture(size):
    views, numbers = run(Labels, maps=territories(HALVES), image=image(1, *size))
    assert numbers.shape == (1, *size)
    assert views.shape[2] == size[1] and views.shape[1] > size[0]
    assert set((numbers * 255).unique().tolist()) == {0, 1}


def test_labels_of_another_batch_are_refused():
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 1"):
        run(Labels, maps=territories(HALVES), image=image(3))


BRIGHT = torch.from_numpy(render.draw_heat_map(torch.ones(1, 1), 0, 1)[0, 0].copy()).float() / 255


def bright_box(view: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is hot."""
    rows, columns = ((view - BRIGHT).abs().amax(-1) < 1e-3).nonzero(as_tuple=True)
    return (
        columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1
    )  # fmt: skip


def test_a_sheet_shows_blocks_downwards_and_steps_to_the_right():
    found = {
        (step, block): bright_box(run(Sheet, maps=hot_maps(step, block), name="Cat")[0][0])
        for step in range(4)
        for block in range(3)
    }
    left, top, right, bottom = found[0, 0]
    h, w = bottom - top, right - left
    assert abs(h / w - 2 / 3) < 0.02
    for (step, block), box in found.items():
        assert (box[2] - box[0], box[3] - box[1]) == (w, h)
        across, down = (found[1, 0][0] - left) * step, (found[0, 1][1] - top) * block
        assert box[:2] == (left + across, top + down)
    assert found[1, 0][0] - left >= w and found[0, 1][1] - top >= h
    (view,) = run(Sheet, maps=hot_maps(0, 0), name="cat")[0]
    assert ((view - BRIGHT).abs().amax(-1) < 1e-3).sum() == h * w  # nothing else is hot


def test_a_sheet_shows_twenty_of_many_steps_and_blocks():
    sizes = {}
    for steps, blocks in ((20, 20), (50, 57)):
        first, last = (
            run(Sheet, maps=hot_maps(*at, steps, blocks), name="cat")[0][0]
            for at in ((0, 0), (steps - 1, blocks - 1))
        )
        sizes[steps] = first.shape, bright_box(first), bright_box(last)
    assert sizes[20] == sizes[50]


def test_each_picture_gets_its_sheet_and_they_are_shown():
    with torch.inference_mode():
        done = Sheet.execute(hot_maps(1, 1, batch=3), "cat")
    (views,) = done.result
    assert len(views) == len(done.ui.as_dict()["images"]) == 3
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views[1], views[2])


def test_a_real_recording_makes_a_sheet():
    _, latent = sampled()
    (maps,) = run(Maps, latent=latent, steps="0", blocks="last 1", temperature=0.5)
    sheets = [run(Sheet, maps=maps, name=name)[0] for name in ("cat", "red dog")]
    assert sheets[0].shape == sheets[1].shape and sheets[0].shape[0] == 2
    assert not torch.equal(sheets[0], sheets[1])


def test_a_sheet_refuses_unknown_concepts():
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: cat, red dog, sky"):
        run(Sheet, maps=hot_maps(0, 0), name="moon")


def test_each_picture_gets_its_own_explorer_file(output):
    paths = [Path(path) for path in explore("one/two", batch=2)[0]]
    assert files_in(output) == ["one/two_00001_.html", "one/two_00002_.html"]
    assert [str(path.relative_to(output)) for path in paths] == files_in(output)
    assert all("cat" in path.read_text("utf-8") for path in paths)


def test_an_explorer_of_another_batch_is_refused(output):
    with pytest.raises(ConceptAttentionError, match="batch has 3 pictures, the maps belong to 2"):
        run(Explorer, maps=hot_maps(1, 1, batch=2), image=image(3, 32, 48))
    assert files_in(output) == []
