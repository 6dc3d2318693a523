"""HiDream-E1: the picture to edit at the side of its own."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from conceptattention.conceptattention_core.attention import Method
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ....comfyui.tiny import TINY


@pytest.mark.parametrize("w", [6, 7])
def test_beside_a_picture_to_edit_only_the_picture_itself_is_recorded(w):
    tiny = TINY["HiDream"]
    other = tiny.latent(1, 5, w, seed=4)
    positive = tiny.prompt(1, concat_latent_image=other)
    # concepts read the picture alone; so what they would be without it is compared
    model = tiny.recorded(method=Method(attend="concepts"))
    edited = tiny.sample(model, (2, 5, w), steps=1, positive=positive)
    plain = tiny.sample(tiny.model(), (2, 5, w), steps=1, positive=positive)
    assert torch.equal(edited, plain)

    # at the first step a picture is its noise, so that both side by side are one of twice its width
    side = tiny.model().model.process_latent_in(other).expand(2, -1, -1, -1)
    noise = torch.cat([tiny.latent(2, 5, w), side], dim=-1)
    with torch.inference_mode():
        wide = comfy.sample.sample(
            model, noise, 1, 1.0, "euler", "simple", tiny.prompt(1), tiny.prompt(2),
            torch.zeros_like(noise), disable_pbar=True,
        )  # fmt: skip
    found = STORE.find(edited)
    own = STORE.find(wide).scores[..., : found.grid.x]
    torch.testing.assert_close(found.scores, own, rtol=1e-5, atol=1e-5)
