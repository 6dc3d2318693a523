"""Locate Concepts in Image: any picture, one answer for a seed, nothing after the last block."""

import comfy.model_management
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.demo import load_demo_model
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate, to_rgb
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.nodes.demo import FOLDER
from conceptattention.nodes.locate import Locate
from conceptattention.nodes.masks import Masks

from ...comfyui.tiny import call

SPEC = RecordSpec(parse("sky, water, balloon"))


@pytest.fixture(scope="module")
def parts():
    with torch.inference_mode():
        return load_demo_model(FOLDER)


@pytest.fixture
def picture() -> torch.Tensor:
    ramp = torch.linspace(0, 1, 100 * 141).reshape(1, 100, 141, 1)
    return torch.cat([ramp, 1 - ramp, ramp.flip(1)], dim=-1)


def look(parts, image, spec=SPEC, **how):
    with torch.inference_mode():
        return locate(*parts, image, spec, LocateSpec(**how))


def test_any_size_comes_back_at_its_own(parts, picture):
    found = look(parts, picture)
    assert found.scores.shape == (1, 1, len(found.blocks), 3, 6, 9)
    assert found.grid.size == (100, 141)
    (maps,) = call(Locate, **defaults(Locate), **parts_by_name(parts), image=picture)
    masks, names = call(Masks, **defaults(Masks), maps=maps)
    assert [mask.shape for mask in masks] == [(1, 100, 141)] * 2
    assert names == ["sky", "water"]


def parts_by_name(parts):
    return dict(zip(("model", "clip", "vae"), parts)) | {"concepts": "sky, water"}


def defaults(node):
    widgets = {w.id: getattr(w, "default", None) for w in node.define_schema().inputs}
    return {name: value for name, value in widgets.items() if value is not None}


def test_one_seed_is_one_answer_and_another_is_another(parts, picture):
    first, again = look(parts, picture, seed=3), look(parts, picture, seed=3)
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, look(parts, picture, seed=4).scores)


def test_a_picture_does_not_depend_on_its_batch(parts, picture):
    other = picture.flip(2)
    both = look(parts, torch.cat([other, picture]))
    alone = look(parts, picture)
    torch.testing.assert_close(both.scores[1:], alone.scores, atol=1e-3, rtol=1e-4)


def test_levels_are_steps_and_samples_are_averaged(parts, picture):
    found = look(parts, picture, noise=(0.3, 0.6), samples=2, seed=5)
    assert found.steps == ((0, 0), (1, 1))
    single = [look(parts, picture, noise=(0.6,), seed=seed).scores[:, 0] for seed in (5, 6)]
    torch.testing.assert_close(found.scores[:, 1], sum(single) / 2, atol=1e-3, rtol=1e-4)


def test_nothing_runs_after_the_last_block_of_interest(parts, picture):
    model = parts[0]
    network = model.get_model_object("diffusion_model")
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, block in [
            *((f"double {i}", block) for i, block in enumerate(network.double_blocks)),
            *((f"single {i}", block) for i, block in enumerate(network.single_blocks)),
            ("last", network.final_layer),
        ]
    ]
    spec = RecordSpec(SPEC.concepts, blocks="0-1")
    found = look(parts, picture, spec)
    for hook in hooks:
        hook.remove()
    assert ran == ["double 0"]  # the second one ends within
    assert found.blocks == ((0, 0), (1, 1))
    full = look(parts, picture)
    assert torch.equal(found.scores, full.scores[:, :, :2])


def test_the_store_and_the_model_stay_as_they_were(parts, picture):
    before = len(STORE)
    look(parts, picture)
    assert len(STORE) == before
    assert not parts[0].wrappers.get("outer_sample", {}).get("conceptattention")


def test_an_interrupt_leaves_nothing_behind(parts, picture):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        look(parts, picture)
    assert look(parts, picture).scores.isfinite().all()


def test_alpha_is_white_and_grey_is_spread():
    grey = torch.full((1, 4, 4, 1), 0.25)
    assert torch.equal(to_rgb(grey), torch.full((1, 3, 4, 4), 0.25))
    clear = torch.zeros(1, 4, 4, 4)
    assert torch.equal(to_rgb(clear), torch.ones(1, 3, 4, 4))
    with pytest.raises(ConceptAttentionError, match=r"1 to 4 channels.*Got \(1, 4, 4, 5\)"):
        to_rgb(torch.zeros(1, 4, 4, 5))


def test_a_model_without_joint_attention_is_refused(parts, picture):
    class Other:
        def get_model_object(self, name):
            return torch.nn.Linear(1, 1)

    with pytest.raises(ConceptAttentionError, match="joint text-image attention. Got Linear"):
        locate(Other(), parts[1], parts[2], picture, SPEC, LocateSpec())
