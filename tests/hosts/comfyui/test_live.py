"""The growing map as the sampler's preview: seen, and without effect on the picture."""

import comfy.utils
import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.attention import Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.live import Live
from conceptattention.conceptattention_core.hosts.comfyui.patch import record
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.maps import ReadSpec, read_maps
from conceptattention.conceptattention_core.masks import upsample
from conceptattention.conceptattention_core.output.render import draw_heat_map
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.nodes.record import Record

from ...comfyui.tiny import CONCEPTS, HERE, Tiny, call, with_replaced_block


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]


@pytest.fixture
def previews(monkeypatch) -> list:
    """What progress bars are told, as a page would be."""
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", True)
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, **more: preview and seen.append((value, total, preview)),
    )
    return seen


def live(tiny: Tiny, name: str = "cat", every: int = 2, model=None, **spec):
    wanted = RecordSpec(parse(CONCEPTS), **spec)
    return record(model or tiny.model(), tiny.clip(), wanted, live=Live(name, every))


def test_it_shows_the_concept_every_few_steps_and_changes_nothing(tiny, previews):
    plain = tiny.sample(tiny.recorded(), steps=7, cfg=3.0)
    scores = STORE.find(plain).scores
    assert previews == []
    STORE.clear()
    latent = tiny.sample(live(tiny), steps=7, cfg=3.0)
    assert torch.equal(latent, plain)
    assert torch.equal(STORE.find(latent).scores, scores)
    assert [(value, total) for value, total, _ in previews] == [(2, 7), (4, 7), (6, 7)]
    size = (7 * tiny.scale, 5 * tiny.scale)
    for _, _, (kind, picture, _) in previews:
        assert (kind, picture.mode, picture.size) == ("JPEG", "RGB", size)


def test_what_it_shows_grows_from_the_maps_of_single_steps(tiny, previews):
    recording = STORE.find(tiny.sample(live(tiny, "sky", every=1), steps=3))
    maps = [
        read_maps(recording, ReadSpec(steps=str(step))).of_image(0).of("sky") for step in range(3)
    ]
    assert len(previews) == 3
    for step, (_, _, (_, shown, _)) in enumerate(previews):
        mean = torch.stack(maps[: step + 1]).mean(0)
        heat = upsample(mean[None], recording.grid, (shown.height, shown.width))[0, 0]
        low, high = heat.min().item(), heat.max().item()
        if high - low < 1e-3:  # random weights left nothing there but rounding
            continue
        expected = draw_heat_map(heat, low, high)
        difference = np.abs(np.asarray(shown).astype(int) - expected)
        assert np.median(difference) == 0 and difference.max() <= 8  # neighbours in 255 colours


def test_a_silent_run_and_merged_steps_show_nothing_and_harm_nothing(tiny, previews):
    model = with_replaced_block(tiny, tiny.model(), 0)
    assert tiny.sample(live(tiny, model=model), steps=2).isfinite().all()
    assert previews == []


def test_a_name_that_is_no_concept_is_refused_before_sampling(tiny):
    clip = tiny.clip()
    widgets = {
        one.id: one.default
        for one in Record.GET_SCHEMA().inputs
        if getattr(one, "default", None) is not None
    }
    with pytest.raises(ConceptAttentionError, match="no concept named 'dog'"):
        call(Record, **{**widgets, "concepts": "cat, sky", "live": "dog"}, model=tiny.model(),
             clip=clip)  # fmt: skip


def test_bounces_change_the_maps_and_not_the_picture(tiny):
    plain = tiny.sample(tiny.recorded(), cfg=3.0)
    scores = STORE.find(plain).scores
    STORE.clear()
    latent = tiny.sample(tiny.recorded(method=Method(bounces=1)), cfg=3.0)
    bounced = STORE.find(latent).scores
    assert torch.equal(latent, plain)
    assert bounced.std((4, 5)).mean() < 0.9 * scores.std((4, 5)).mean()  # smoother
