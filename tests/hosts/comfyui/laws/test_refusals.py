"""What cannot be recorded is refused in a sentence, and the picture stays."""

import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.hosts.comfyui import patch
from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import nn

from ....comfyui.tiny import TINY, with_replaced_block


@pytest.mark.parametrize("index", [0, 1])
def test_a_replaced_block_leaves_the_picture_and_is_named(tiny, index):
    plain = tiny.sample(with_replaced_block(tiny, tiny.model(), index))
    for model in (
        tiny.recorded(model=with_replaced_block(tiny, tiny.model(), index)),
        with_replaced_block(tiny, tiny.recorded(), index),
    ):
        latent = tiny.sample(model)
        assert torch.equal(latent, plain)
        with pytest.raises(ConceptAttentionError, match="Nothing was captured while .* sampled"):
            STORE.find(latent)


def test_blocks_after_the_last_recorded_one_may_be_replaced(tiny):
    latent = tiny.sample(with_replaced_block(tiny, tiny.recorded(blocks="first 1"), 1))
    assert STORE.find(latent).blocks == ((0, 0),)


def test_a_patch_that_runs_a_block_twice_records_its_first_run(tiny):
    def twice(args, original):
        again = {**args, "img": args["img"].clone() * 3, "txt": args["txt"].clone()}
        out = original(args)
        original(again)
        return out

    model = tiny.recorded()
    alone = STORE.find(tiny.sample(model)).scores
    tiny.around(model, 1, twice)
    assert torch.equal(STORE.find(tiny.sample(model)).scores, alone)


def test_steps_that_another_pack_skips_are_left_out(tiny):
    kept = {}

    def reuse(executor, *args, **kwargs):
        step = len(kept)
        kept[step] = kept[step - 1] if step == 1 else executor(*args, **kwargs)
        return kept[step]

    model = tiny.recorded()
    if not tiny.wrapped:
        pytest.skip("ComfyUI calls no such wrappers for this family")
    model.add_wrapper_with_key(patch.WrappersMP.DIFFUSION_MODEL, "lazy", reuse)
    latent = tiny.sample(model, steps=3)
    assert STORE.find(latent).steps == ((0, 0), (2, 2))


def area(h: int, w: int, y: int, x: int) -> dict:
    return {"area": (h, w, y, x), "strength": 1.0}


def test_a_prompt_for_a_part_of_the_picture_is_not_recorded(tiny):
    part = tiny.prompt(4, **area(4, 4, 0, 2))
    latent = tiny.sample(tiny.recorded(), positive=part)
    assert torch.equal(latent, tiny.sample(tiny.model(), positive=part))
    with pytest.raises(ConceptAttentionError, match="Nothing was captured"):
        STORE.find(latent)


def test_beside_a_prompt_for_a_part_the_prompt_for_the_whole_is_recorded(tiny):
    both = tiny.prompt(1) + tiny.prompt(4, **area(4, 4, 0, 2))
    latent = tiny.sample(tiny.recorded(), steps=1, positive=both)
    assert torch.equal(latent, tiny.sample(tiny.model(), steps=1, positive=both))
    whole = tiny.sample(tiny.recorded(), steps=1, positive=tiny.prompt(1))
    torch.testing.assert_close(STORE.find(latent).scores, STORE.find(whole).scores)


def test_without_a_positive_prompt_in_a_call_nothing_is_recorded(tiny):
    latent = tiny.sample(tiny.recorded(), cfg=3.0)
    swapped = tiny.sample(
        tiny.recorded(), cfg=3.0, positive=tiny.prompt(1), negative=tiny.prompt(7)
    )
    first = STORE.find(latent).scores[:, 0]  # both start from the same noise
    difference = (STORE.find(swapped).scores[:, 0] - first).abs().max()
    # HiDream's experts compute the tokens of all prompts at once: others shift the rounding
    assert difference <= (1e-6 * first.abs().max() if tiny is TINY["HiDream"] else 0)


def test_a_model_without_joint_attention_is_named_with_what_is_supported(tiny):
    model = tiny.model().clone()
    model.add_object_patch("diffusion_model", nn.Conv2d(4, 4, 3))
    with pytest.raises(ConceptAttentionError) as error:
        tiny.recorded(model=model)
    supported = ", ".join(family.name for family in FAMILIES)
    assert str(error.value) == (
        f"Concept attention needs joint text-image attention. Got Conv2d; supported: {supported}."
    )


def test_a_model_that_was_not_recorded_has_no_spec(tiny):
    with pytest.raises(ConceptAttentionError, match="did not go through Record Concepts"):
        patch.spec_of(tiny.model())
