"""A concept recorded beside the prompt scores as if it were the prompt."""

from itertools import product

import pytest
import torch
from conceptattention.conceptattention_core.attention import ATTEND, SPACES, Method
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.families import family_of
from conceptattention.conceptattention_core.hosts.comfyui.families.base import (
    PATCHED,
    BlockCall,
    Family,
    ModelCall,
)
from conceptattention.conceptattention_core.hosts.comfyui.locate import locate
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE
from conceptattention.conceptattention_core.locating import LocateSpec, draw_passes
from conceptattention.conceptattention_core.recording import RecordSpec
from conceptattention.conceptattention_core.tokens import pack_tokens

from ....comfyui.tiny import CONCEPTS, TINY
from .common import Halves, Witness, scores_as_prompt


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("cfg", "references"), [(1.0, 0), (3.0, 0), (1.0, 2)])
def test_riding_equals_being_the_prompt(tiny, space, cfg, references):
    more = {}
    if references and not tiny.references:
        pytest.skip("this family has no reference pictures")
    if references:  # Kontext: tokens of other pictures behind those of this one
        latents = [tiny.latent(1, *tiny.reference, seed=n) for n in range(references)]
        more = {"reference_latents": latents}
    witness = Witness(tiny, b=2)
    latent = tiny.sample(
        witness.on(tiny.recorded(method=Method(space=space))),
        (2, 5, 7), steps=1, cfg=cfg, positive=tiny.prompt(1, pooled=0.0, **more),
    )  # fmt: skip
    recording = STORE.find(latent)
    with torch.inference_mode():
        expected = scores_as_prompt(
            tiny, witness, [["cat"], ["red", "dog"], ["sky"]], space, recording.grid
        )
    assert len(expected) == len(recording.blocks) > 1
    for index, scores in enumerate(expected):
        error = (recording.scores[:, 0, index] - scores).abs().max() / scores.abs().max()
        assert error <= 1e-5, f"block {index}: {error}"


@pytest.mark.parametrize("method", ["index", "offset", "index_timestep_zero"])
def test_references_change_nothing_and_are_not_in_the_maps(tiny, method):
    if not tiny.references:
        pytest.skip("this family has no reference pictures")
    if method == "index_timestep_zero" and tiny not in (TINY["Qwen-Image"], TINY["Krea 2"]):
        pytest.skip("ComfyUI has this way for Qwen-Image-Edit and Krea 2")
    latents = [tiny.latent(1, *tiny.reference)]
    positive = tiny.prompt(1, reference_latents=latents, reference_latents_method=method)
    recorded = tiny.sample(tiny.recorded(), cfg=3.0, positive=positive)
    assert torch.equal(recorded, tiny.sample(tiny.model(), cfg=3.0, positive=positive))
    found = STORE.find(recorded)
    assert found.scores.isfinite().all()
    assert found.scores.shape[-2:] == (found.grid.y, found.grid.x)


WITNESSED = {**PATCHED, "text_rotary": "text_pe", "zero_index": "current"}
"""What a witness calls the fields of a `BlockCall`, in families whose blocks are hooked."""


def block_call(family: Family, args: dict) -> BlockCall:
    """A block's call as a witness saw it."""
    return BlockCall.of(WITNESSED if family.hooked else family.arguments, args, {})


@torch.inference_mode()
def test_the_prompts_pooled_vector_does_not_reach_the_concepts(tiny):
    network = tiny.model().model.diffusion_model
    family = family_of(network)
    spec = RecordSpec(parse("cat, red dog"))
    tokens = pack_tokens(spec, family.embed(tiny.clip(), ["cat", "red dog"]))
    streams, modulations = [], []
    for pooled in (1.0, 0.0):
        witness = Witness(tiny, b=2)
        prompt = tiny.prompt(1, pooled=pooled)
        tiny.sample(witness.on(tiny.model()), (2, 5, 7), steps=1, positive=prompt)
        given = ModelCall(
            timesteps=torch.full((2,), 1000.0),
            text=prompt[0][0].expand(2, -1, -1),
            pooled=prompt[0][1]["pooled_output"].expand(2, -1),
        )
        calls = [block_call(family, args) for args in witness.args.values()]
        modulations.append([family.modulation(block) for block in calls])
        streams.append(family.start_stream(network, tokens, calls[0], given))
    concepts = streams[0].concepts
    for index in range(len(family.blocks(network))):
        pairs = zip(streams, modulations, strict=True)
        blocks = [stream.text_side(index, own[index]) for stream, own in pairs]
        heads = [block.heads(concepts) for block in blocks]
        torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-5)
        q, _, v = heads[0]
        attended = torch.cat(v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).unbind(1), dim=-1)
        after = [block.update(concepts, attended) for block in blocks]
        torch.testing.assert_close(*after, rtol=1e-4, atol=1e-5)


def test_every_way_of_riding_and_comparing_gives_its_own_scores(tiny):
    found = []
    for attend, space in product(ATTEND, SPACES):
        latent = tiny.sample(tiny.recorded(method=Method(attend, space)), cfg=3.0)
        scores = STORE.find(latent).scores
        assert scores.isfinite().all()
        assert all(not torch.allclose(scores, other) for other in found), (attend, space)
        found.append(scores)


def test_locating_ends_after_the_last_block_of_interest(tiny):
    picture = torch.rand(2, 70, 100, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, shorter, again = (
            locate(tiny.model(), tiny.clip(), Halves(tiny), picture,
                   RecordSpec(parse(CONCEPTS), blocks=blocks), LocateSpec(noise=(0.4, 0.7)))
            for blocks in ("all", "first 2", "all")
        )  # fmt: skip
    assert found.grid.size == (70, 100)
    assert found.scores.shape == (2 * found.grid.time.frames, 2, 3, 3, found.grid.y, found.grid.x)
    assert torch.equal(found.scores[:, :, :2], shorter.scores)
    assert torch.equal(found.scores, again.scores)
    assert found.scores.std() > 1e-3


def test_a_look_gives_the_model_the_picture_noised_as_it_was_trained(tiny):
    picture = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    how, model, vae = LocateSpec(noise=(0.3, 0.6)), tiny.model(), Halves(tiny)
    network, sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
    given = []
    hook = network.register_forward_pre_hook(lambda _, args: given.append(args[:2]))
    with torch.inference_mode():
        locate(model, tiny.clip(), vae, picture, RecordSpec(parse(CONCEPTS)), how)
        latent = model.model.process_latent_in(vae.encode(picture))
    hook.remove()
    passes = list(draw_passes(how, latent))
    assert len(given) == len(passes) == 2
    for (noised, timestep), (_, level, noise) in zip(given, passes, strict=True):
        mixture = (1 - level) * latent + level * noise  # as rectified flow has it
        if hasattr(sampling, "log_sigmas"):  # a diffusion has the same at unit variance
            mixture = mixture / ((1 - level) ** 2 + level**2) ** 0.5
            ratio = sampling.sigma(timestep[0]).item()
            assert ratio == pytest.approx(level / (1 - level), rel=0.01)  # one of 1000 timesteps
        torch.testing.assert_close(noised, mixture, atol=1e-5, rtol=1e-5)
