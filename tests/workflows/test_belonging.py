"""A recording belongs to its run: the names that are asked are the names that are got.

The picture does not depend on the words, so that runs of different words leave equal latents.
"""

import os
from itertools import permutations, product
from pathlib import Path

import comfy.cli_args
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.hosts.comfyui.store import NeverRecordedError, Store
from conceptattention.conceptattention_core.recording import (
    FrameLayout,
    Grid,
    Recording,
    RecordSpec,
)

from ..comfyui.graphs import changed, node, painting
from ..comfyui.server import Server

WORDS = ("cat, sky", "dog, sea", "house, tree, moon")


def latent(b: int = 2, *cells: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(b, 4, *cells, 6, 8, generator=torch.Generator().manual_seed(seed))


def recording(words: str, b: int = 2, time: FrameLayout = FrameLayout(), **spec) -> Recording:  # noqa: B008
    """One whose scores are the number of the frame."""
    grid = Grid.of_latent(6, 8, time=time)
    scores = torch.arange(float(b * time.frames)).view(-1, 1, 1, 1, 1, 1)
    concepts = parse(words)
    shape = (-1, 1, 1, len(concepts.concepts), grid.y, grid.x)
    own = RecordSpec(concepts, **spec)
    return Recording(scores.expand(shape).clone(), own, grid, ((0, 0),), ((0, 0),), "Qwen-Image")


def frames(found: Recording) -> list[float]:
    return [scores.unique().item() for scores in found.scores]


def names(found: Recording) -> tuple[str, ...]:
    return found.concepts.names


COPIES = {
    "itself": lambda x: x,
    "view": lambda x: x[:1],
    "row": lambda x: x[1:],
    "transposed": lambda x: x.flip(0).flip(0)[:],
    "clone": lambda x: x.clone(),
    "bfloat16": lambda x: x.bfloat16(),
    "batched": lambda x: torch.cat([x, x]),
}


TELLING = [
    *(("tensor", copy) for copy in ("itself", "view", "row")),
    *product(("graph", "prompt"), COPIES),
]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("told_by", "copy"), TELLING)
def test_names_asked_are_names_got_in_every_order(count, told_by, copy):
    """Every order in which words are recorded, then every order in which they are asked."""
    for order, asked in product(permutations(WORDS[:count]), repeat=2):
        prompt = [""]
        store = Store(current_prompt=lambda prompt=prompt: prompt[0])
        made = {}
        for words in order:
            prompt[0] = words
            made[words] = latent()
            store.file([made[words]], recording(words))
        for words in asked:
            prompt[0] = words if told_by == "prompt" else "another"
            shown = COPIES[copy](made[words] if told_by == "tensor" else latent())
            among = [RecordSpec(parse(words))] if told_by == "graph" else []
            assert names(store.find(shown, among=among)) == parse(words).names


def test_where_nothing_tells_both_are_named():
    store = Store()
    for words in WORDS[:2]:
        store.file([latent()], recording(words))
    with pytest.raises(ConceptAttentionError, match="recordings of 'dog, sea' and of 'cat, sky'"):
        store.find(latent())
    store.file([latent()], recording(WORDS[0], blocks="last half"))
    with pytest.raises(ConceptAttentionError, match="two recordings that differ in blocks"):
        store.find(
            latent(), among=[recording(WORDS[0]).spec, recording(WORDS[0], blocks="last half").spec]
        )


def test_a_copy_that_was_found_once_is_known_from_then_on():
    """On a GPU a sampler's latent is a copy of what was filed."""
    store = Store()
    store.file([latent()], recording(WORDS[0]))
    copied = latent()
    assert names(store.find(copied)) == parse(WORDS[0]).names
    store.file([latent()], recording(WORDS[1]))
    assert names(store.find(copied)) == parse(WORDS[0]).names


def test_a_foreign_latent_is_known_by_tensor_or_prompt_not_by_value():
    now = ["one"]
    store = Store(current_prompt=lambda: now[0])
    made = latent(1)
    store.file([made], recording(WORDS[0]))
    assert store.find(made.clone(), foreign=True).spec.concepts == parse(WORDS[0])
    now[0] = "another"
    assert store.find(made[:1], foreign=True).spec.concepts == parse(WORDS[0])
    with pytest.raises(NeverRecordedError):
        store.find(latent(1), foreign=True)


def test_tensors_are_not_kept_alive():
    store = Store()
    made = latent()
    store.file([made], recording(WORDS[0]))
    store.find(made)
    del made
    store.file([latent(seed=1)], recording(WORDS[0]))
    assert store._known(latent(seed=2)) == []
    assert len(store._tensors) == 0


@pytest.mark.parametrize("pace", [1, 4])
def test_a_video_is_found_when_it_is_cut_along_time(pace):
    store = Store()
    made = latent(2, 5)
    store.file([made], recording(WORDS[0], time=FrameLayout(5, pace)))
    assert frames(store.find(made.clone())) == list(range(10))

    cut = store.find(made[:, :, 1:4])
    assert frames(cut) == [1, 2, 3, 6, 7, 8]
    assert cut.grid.time == FrameLayout(3, pace)
    assert cut.pictures == 2 * (1 + 2 * pace)

    single = made[:, :, 1:].movedim(2, 1).reshape(8, 4, 1, 6, 8)  # one place along time a picture
    assert frames(store.find(single)) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert store.find(single).pictures == 8
    assert frames(store.find(single[:, :, 0])) == [1, 2, 3, 4, 6, 7, 8, 9]

    assert frames(store.find(made.flip(2))) == [4, 3, 2, 1, 0, 9, 8, 7, 6, 5]
    assert frames(store.find(made.flip(0))) == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    together = torch.cat([made[:, :, 3:], made[:, :, :1]], dim=2)
    assert frames(store.find(together)) == [3, 4, 0, 8, 9, 5]


def test_cells_of_several_runs_may_be_put_together_along_time():
    store = Store()
    for seed in (1, 2):
        store.file([latent(1, 3, seed=seed)], recording(WORDS[0], 1, FrameLayout(3, 4)))
    both = torch.cat([latent(1, 3, seed=1), latent(1, 3, seed=2)], dim=2)
    found = store.find(both)
    assert frames(found) == [0, 1, 2, 0, 1, 2]
    assert found.grid.time == FrameLayout(6, 4)


def test_a_part_of_a_video_that_was_never_recorded_is_not_found():
    store = Store()
    store.file([latent(1, 3)], recording(WORDS[0], 1, FrameLayout(3, 4)))
    foreign = torch.cat([latent(1, 2), latent(1, 1, seed=9)], dim=2)
    with pytest.raises(NeverRecordedError):
        store.find(foreign)


def scored(words: str, steps: str, seed: int, copied: bool):
    """A graph that shows the scores of its words, of the latent itself or of one copied from it."""
    graph = changed(painting(words, seed=seed, batch=2), maps={"steps": steps})
    for unused in ("decode", "picture", "masks", "convert", "shown"):
        graph.pop(unused)
    if copied:
        graph["copy"] = node("LatentFromBatch", samples=["sampler", 0], batch_index=1, length=1)
        graph["maps"]["inputs"]["latent"] = ["copy", 0]
    graph["scores"] = node("ConceptAttentionScores", maps=["maps", 0])
    return graph


LRU, RAM = ("--cache-lru", "200"), ("--cache-ram", "0.1")


@pytest.mark.parametrize("options", [(), ("--cache-classic",), LRU, RAM], ids=" ".join)
def test_names_asked_are_names_got_whatever_is_cached(tmp_path, options):
    if options and not hasattr(comfy.cli_args.args, options[0].lstrip("-").replace("-", "_")):
        pytest.skip("this ComfyUI has no such cache")
    server = Server(Path(os.environ["COMFYUI_PATH"]), tmp_path / "base", *options)
    x, y, z = WORDS
    asked = [
        (x, "all"), (y, "all"), (x, "1-2"), (x, "all"), (y, "1-2"), (z, "all"), (x, "0"), (y, "0"),
    ]  # fmt: skip
    try:
        for seed, copied in ((5000, False), (5001, True)):
            for words, steps in asked:
                result = server.queue(scored(words, steps, seed, copied))
                lines = result.outputs["scores"]["text"][0].splitlines()
                got = [line.split()[0] for line in lines if not line.startswith("picture")]
                assert got == [*parse(words).names] * (1 if copied else 2)
    finally:
        server.stop()
