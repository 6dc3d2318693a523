"""Masks in a list with their names: which belong to one image, their files, prompts for them."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from . import ConceptAttentionError
from .concepts import key_of
from .texts import name_files

NamedMask: TypeAlias = tuple[Tensor, str]
"""Masks `b h w` of a concept, and its name."""


def pair_masks(masks: Sequence[Tensor], names: Sequence[str]) -> list[NamedMask]:
    """Masks with their names, after a check that there are as many."""
    if len(masks) != len(names):
        raise ConceptAttentionError(
            f"There are {len(masks)} masks and {len(names)} names. Connect both from the same "
            "Concept Masks."
        )
    return list(zip(masks, names, strict=True))


def group_masks(masks: Sequence[Tensor], names: Sequence[str]) -> list[list[NamedMask]]:
    """Masks that came as a list, by the image they belong to: a name that repeats begins one.

    The concepts of one image differ, so that of sun, sky, sun, sky two are the next image's.
    """
    groups: list[list[NamedMask]] = [[]]
    for mask, name in pair_masks(masks, names):
        if key_of(name) in {key_of(other) for _, other in groups[-1]}:
            groups.append([])
        groups[-1].append((mask, name))
    return groups


def check_one_size(masks: Sequence[NamedMask]) -> None:
    """An error unless masks have one size and are as many; a single one does for all images.

    A sampler scales masks to its latent, so those of different images would be distorted.
    """
    sizes = {mask.shape[1:] for mask, _ in masks}
    batches = {len(mask) for mask, _ in masks} - {1}
    if len(sizes) > 1 or len(batches) > 1:
        listed = ", ".join(
            f"{name} {len(mask)} of {mask.shape[1]} x {mask.shape[2]}" for mask, name in masks
        )
        raise ConceptAttentionError(
            f"The masks belong to different pictures: {listed}. Connect those of one Concept Masks."
        )


def name_mask_files(names: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """The name of each of `count` masks, and what its file is called, without ending.

    As many names as masks: one that repeats is the next image's and keeps its file's name, in which
    a number goes on. Else the last name does for all further masks, the parts of one thing, each of
    which gets a file of its own. "Sun" and "sun" are one file on some systems: they differ in more.
    """
    if len(names) != count:
        names = [*names, *[*names[-1:]] * (count - len(names))]
        return list(names), name_files([name.casefold() for name in names])
    distinct = list(dict.fromkeys(names))
    files = dict(zip(distinct, name_files([name.casefold() for name in distinct]), strict=True))
    return list(names), [files[name] for name in names]


def read_prompts(text: str, names: Sequence[str] | None) -> dict[str, str]:
    """Prompts by the keys of their names, from lines 'name: prompt'.

    An error for a name that is none of `names`. None: which names there are is not known yet.
    """
    known = {key_of(name) for name in names or ()}
    prompts = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, prompt = (part.strip() for part in line.replace("：", ":").partition(":"))
        if not (name and colon and prompt):
            raise ConceptAttentionError(
                f"'{line}' is no region: write one 'name: prompt' per line."
            )
        if names is not None and key_of(name) not in known:
            raise ConceptAttentionError(
                f"'prompts' mentions '{name}', which is none of the masks' names: "
                f"{', '.join(names)}."
            )
        prompts[key_of(name)] = prompt
    return prompts
