"""Prompts of all kinds beside a recording: areas, schedules, hooks, several at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_hooks as hooks
import folder_paths
import pytest
import torch
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor

from ....comfyui.tiny import HERE, Tiny, call, random_weights
from ....comfyui.tiny.common import Conditioning, lora_for
from .common import first_step


def left_and_right(tiny: Tiny) -> list[Conditioning]:
    left = torch.zeros(1, 5, 7)
    left[..., :3] = 1
    return [tiny.prompt(1, mask=left), tiny.prompt(4, mask=1 - left)]


@pytest.mark.parametrize(
    "several",
    [
        lambda tiny: [tiny.prompt(1), tiny.prompt(4)],
        lambda tiny: [tiny.prompt(1), tiny.prompt(4, tokens=9)],
        left_and_right,
    ],
    ids=["several prompts", "of different lengths", "for masked parts"],
)
def test_of_several_prompts_the_mean_is_recorded(tiny, several):
    one, other = several(tiny)
    latent = tiny.sample(tiny.recorded(), cfg=3.0, positive=one + other)
    assert torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0, positive=one + other))
    alone = [first_step(tiny, positive=prompt) for prompt in (one, other)]
    assert not torch.allclose(*alone, rtol=1e-2)
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-4)


def test_negative_prompts_of_any_length_do_not_change_what_is_recorded(tiny):
    heard = [first_step(tiny, negative=tiny.prompt(2, tokens=tokens)) for tokens in (5, 9)]
    torch.testing.assert_close(*heard, rtol=1e-4, atol=1e-4)


@pytest.fixture
def lora_folder(tmp_path) -> Iterator[Path]:
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))


def hooked(tiny: Tiny, prompt: Conditioning, folder: Path) -> Conditioning:
    """A prompt with a LoRA of its own."""
    comfy.utils.save_torch_file(lora_for(tiny.model()), str(folder / "hook.safetensors"))
    (hook,) = call(hooks.CreateHookLoraModelOnly, lora_name="hook.safetensors", strength_model=1.0)
    (own,) = call(
        hooks.ConditioningSetProperties,
        cond_NEW=prompt, strength=1.0, set_cond_area="default", hooks=hook,
    )  # fmt: skip
    return own


def test_a_lora_on_one_prompt_is_recorded_with_that_prompt(tiny, lora_folder):
    with_lora, _ = comfy.sd.load_lora_for_models(
        tiny.model(), None, lora_for(tiny.model()), 1.0, 0.0
    )
    bare, everywhere = first_step(tiny), first_step(tiny, with_lora)
    assert not torch.allclose(bare, everywhere, rtol=1e-3, atol=1e-3)

    prompts: dict[str, Any] = {"positive": tiny.prompt(1), "negative": tiny.prompt(2)}
    for which, expected in (("positive", everywhere), ("negative", bare)):
        hung = {**prompts, which: hooked(tiny, prompts[which], lora_folder)}
        latent = tiny.sample(tiny.recorded(), cfg=3.0, **hung)
        assert torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0, **hung))
        assert not torch.equal(latent, tiny.sample(tiny.model(), cfg=3.0))
        found = STORE.find(latent).scores[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def first_step_by(guider: Any, tiny: Tiny, model: Any) -> Tensor:
    """What a guider of several prompts or models makes of two pictures in one step."""
    (sigmas,) = call(custom.BasicScheduler, model=model, scheduler="simple", steps=1, denoise=1)
    with torch.inference_mode():
        return guider.sample(
            tiny.latent(2, 5, 7), tiny.empty(2, 5, 7), comfy.samplers.sampler_object("euler"),
            sigmas, seed=0, disable_pbar=True,
        )  # fmt: skip


@pytest.mark.parametrize("negative", [False, True])
def test_the_pass_without_a_text_that_another_model_makes_is_not_recorded(negative):
    """Ideogram 4 is sampled so."""
    if "Ideogram 4" not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    tiny = HERE["Ideogram 4"]
    weights = tiny.model().model.diffusion_model.state_dict()
    other = random_weights(
        tiny.model().model.model_config, {name: own * 1.5 for name, own in weights.items()}
    )

    def run(model: Any) -> Tensor:
        (guider,) = call(
            custom.DualModelGuider, model=model, model_negative=other, positive=tiny.prompt(1),
            cfg=3.0, negative=tiny.prompt(2) if negative else None,
        )  # fmt: skip
        return first_step_by(guider, tiny, model)

    latent = run(tiny.recorded())
    assert torch.equal(latent, run(tiny.model()))
    assert not torch.equal(latent, tiny.sample(tiny.model(), steps=1))
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, first_step(tiny), rtol=1e-4, atol=1e-4)


def test_of_three_prompts_the_positive_one_is_recorded(tiny):
    """Dual CFG Guider numbers the negative one as others number the positive one."""

    def run(model: Any) -> Tensor:
        (guider,) = call(
            custom.DualCFGGuider, model=model, cond1=tiny.prompt(1), cond2=tiny.prompt(4),
            negative=tiny.prompt(2), cfg_conds=3.0, cfg_cond2_negative=2.0, style="regular",
        )  # fmt: skip
        return first_step_by(guider, tiny, model)

    latent = run(tiny.recorded())
    assert torch.equal(latent, run(tiny.model()))
    found = STORE.find(latent).scores[:, 0]
    torch.testing.assert_close(found, first_step(tiny), rtol=1e-4, atol=1e-4)
