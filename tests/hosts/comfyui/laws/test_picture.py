"""Recording changes nothing: every family's picture is the same with and without it."""

import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES, family_of
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from torch import Tensor

import nodes as stock

from ....comfyui.tiny import HERE, TINY, Tiny, call, with_attention_override, with_block_patch


def test_every_family_has_a_tiny_model_and_knows_it():
    assert set(TINY) == {family.name for family in FAMILIES}
    for name, tiny in HERE.items():
        assert family_of(tiny.model().model.diffusion_model).name == name


def two_stages(tiny: Tiny, model) -> Tensor:
    """KSamplerAdvanced twice, the second going on where the first stopped."""
    latent = {"samples": tiny.empty(2, 5, 7)}
    for start, end, noise, rest in ((0, 2, "enable", "enable"), (2, 4, "disable", "disable")):
        (latent,) = call(
            stock.KSamplerAdvanced,
            model=model, add_noise=noise, noise_seed=3, steps=4, cfg=3.0, sampler_name="euler",
            scheduler="simple", positive=tiny.prompt(1), negative=tiny.prompt(2),
            latent_image=latent, start_at_step=start, end_at_step=end,
            return_with_leftover_noise=rest,
        )  # fmt: skip
    return latent["samples"]


def custom_sampler(tiny: Tiny, model, stop_after: int = 9) -> tuple[Tensor, Tensor]:
    """What SamplerCustomAdvanced gives: the latent and the denoised latent."""
    (guider,) = call(custom.BasicGuider, model=model, conditioning=tiny.prompt(1))
    (noise,) = call(custom.RandomNoise, noise_seed=5)
    (sampler,) = call(custom.KSamplerSelect, sampler_name="euler")
    (sigmas,) = call(custom.BasicScheduler, model=model, scheduler="simple", steps=3, denoise=1.0)
    out, denoised = call(
        custom.SamplerCustomAdvanced,
        noise=noise, guider=guider, sampler=sampler, sigmas=sigmas[: stop_after + 1],
        latent_image={"samples": tiny.empty(2, 5, 7)},
    )  # fmt: skip
    return out["samples"], denoised["samples"]


RUNS = {
    "one picture": lambda tiny, model: tiny.sample(model, (1, 8, 8)),
    "three pictures, odd sides": lambda tiny, model: tiny.sample(model, (3, 5, 7)),
    "cfg, one picture": lambda tiny, model: tiny.sample(model, (1, 9, 4), cfg=3.0),
    "cfg, three pictures, odd sides": lambda tiny, model: tiny.sample(model, (3, 5, 7), cfg=3.0),
    "prompts of different lengths": lambda tiny, model: tiny.sample(
        model, cfg=3.0, positive=tiny.prompt(1, tokens=5), negative=tiny.prompt(2, tokens=9)
    ),
    "two prompts together": lambda tiny, model: tiny.sample(
        model, cfg=3.0, positive=tiny.prompt(1) + tiny.prompt(4)
    ),
    "image to image": lambda tiny, model: tiny.sample(
        model, cfg=3.0, steps=5, start=tiny.latent(2, 5, 7, seed=9), denoise=0.6
    ),
    "inpainting": lambda tiny, model: tiny.sample(
        model, start=tiny.latent(2, 5, 7, seed=9), noise_mask=torch.eye(5, 7)[None, None]
    ),
    "heun": lambda tiny, model: tiny.sample(model, cfg=3.0, sampler="heun", steps=3),
    "dpm_2": lambda tiny, model: tiny.sample(model, cfg=3.0, sampler="dpm_2", steps=3),
    "euler_ancestral": lambda tiny, model: tiny.sample(model, sampler="euler_ancestral", steps=3),
    "KSamplerAdvanced, two stages": two_stages,
    "SamplerCustomAdvanced": lambda tiny, model: custom_sampler(tiny, model)[0],
}


@pytest.mark.parametrize("run", RUNS)
def test_recording_changes_nothing_and_records_every_picture(tiny, run):
    recorded = RUNS[run](tiny, tiny.recorded())
    plain = RUNS[run](tiny, tiny.model())
    assert torch.equal(recorded, plain)
    assert plain.std() > 0.1
    recording = STORE.find(recorded)
    assert len(recording.scores) == len(plain) * max(tiny.frames, 1)
    assert recording.scores.isfinite().all()


@pytest.mark.parametrize("other", [with_block_patch, with_attention_override])
def test_recording_changes_nothing_beside_another_pack_before_or_after(tiny, other):
    def run(model):
        return tiny.sample(model, cfg=3.0)

    plain = run(other(tiny, tiny.model()))
    if other is with_attention_override and not tiny.overridden:
        assert torch.equal(plain, run(tiny.model()))
        heard = [STORE.find(run(m)).scores for m in (tiny.recorded(), other(tiny, tiny.recorded()))]
        assert torch.equal(*heard)
        pytest.skip("this family's attention looks for no other in ComfyUI's place for these")
    assert not torch.equal(plain, run(tiny.model()))
    scores = []
    for model in (
        tiny.recorded(model=other(tiny, tiny.model())),
        other(tiny, tiny.recorded()),
    ):
        recorded = run(model)
        assert torch.equal(recorded, plain)
        scores.append(STORE.find(recorded).scores)
    assert torch.equal(*scores)
    alone = STORE.find(run(tiny.recorded())).scores
    assert not torch.allclose(scores[0], alone)  # what is recorded is what the other pack made


def test_both_stages_are_recorded_each_with_its_own_steps(tiny):
    model = tiny.recorded()
    second = two_stages(tiny, model)
    assert STORE.find(second).steps == ((0, 0), (1, 1))


def test_steps_are_the_runs_own_where_its_sampler_tells_a_longer_schedule(tiny):
    model, steps = tiny.recorded(), 3

    def tell_longer(executor, guider, sigmas, extra_args, *args, **kwargs):
        earlier = sigmas[0] + torch.arange(9.0, 0, -1).to(sigmas)
        options = extra_args["model_options"]["transformer_options"]
        options["sample_sigmas"] = torch.cat([earlier, sigmas])
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "longer", tell_longer)
    latent = tiny.sample(model, steps=steps)
    assert STORE.find(latent).steps == tuple((step, step) for step in range(steps))


@pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
def test_samplers_that_call_the_model_twice_a_step_record_every_step(tiny, sampler):
    latent = tiny.sample(tiny.recorded(), sampler=sampler, steps=3)
    assert STORE.find(latent).steps == ((0, 0), (1, 1), (2, 2))


def test_the_denoised_latent_finds_the_same_recording(tiny):
    noisy, denoised = custom_sampler(tiny, tiny.recorded(), stop_after=2)
    assert not torch.allclose(noisy, denoised)
    assert torch.equal(STORE.find(noisy).scores, STORE.find(denoised).scores)
