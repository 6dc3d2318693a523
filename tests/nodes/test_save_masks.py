"""Save Named Masks: safe names, and folders that cannot be written to."""

import errno
import os

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.nodes.layers import SaveMasks
from PIL import Image

from .common import box_mask, explore, files_in, layers_of, picture, save_layers, thirds


def save_masks(mask: torch.Tensor, name: str, folder: str = "masks") -> list[str]:
    """The files that the node says it has saved, in the output folder."""
    return save_all_masks([mask], [name], folder)


def save_all_masks(masks: list, names: list[str], folder: str = "masks") -> list[str]:
    with torch.inference_mode():
        done = SaveMasks.execute(masks, names, [folder])
    assert all(one is other for one, other in zip(done.result[0], masks, strict=True))
    found = done.ui.as_dict()["images"]
    assert {one["type"] for one in found} == {"output"}
    return [f"{one['subfolder']}/{one['filename']}" for one in found]


def test_masks_are_written_exactly_under_their_names(output):
    masks = torch.cat([box_mask((3, 4, 9, 20)), 1 - box_mask((3, 4, 9, 20))])
    found = save_masks(masks, "red hot sky", "my/own folder")
    assert found == [f"my/own folder/red_hot_sky_0000{i}_.png" for i in (1, 2)]
    assert files_in(output) == found
    for mask, name in zip(masks, found, strict=True):
        pixels = np.asarray(Image.open(output / name).convert("L"))
        assert np.array_equal(pixels, mask.numpy() * 255)


NASTY = ["a/b", "..", ".", "../../etc/passwd", "CON", "nul", "a:b*?\"<>|", "%year%", "🎈", "سماء",
         "日本の空", "x" * 200, "\U00020000" * 200, " sun ", "a\nb", "-", "_"]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_whatever_a_concept_is_called_its_file_is_safe_and_in_its_folder(output, name):
    (found,) = save_masks(box_mask((1, 1, 2, 2)), name)
    assert files_in(output) == [found]
    folder, _, file = found.partition("/")
    assert folder == "masks"
    assert "/" not in file and len(file.encode()) <= 255
    assert not set(file) & set('\\:*?"<>|%\n') and not file.startswith((".", " "))
    assert file.split(".")[0].casefold() not in {"con", "nul"}
    assert not (output.parent.parent / "etc").exists()


@pytest.mark.parametrize("names", [["sun", "sun"], ["a/b", "a b", "a?b"], ["🎈", "🌞"],
                                   ["sun", "sun_2", "sun 7", "sun"]])  # fmt: skip
def test_nothing_is_ever_replaced(output, names):
    masks = [box_mask((i, i, i + 5, i + 5)) for i in range(2 * len(names))]
    found = [save_masks(mask, name)[0] for mask, name in zip(masks, names * 2, strict=True)]
    assert len(set(found)) == len(masks)
    assert files_in(output) == sorted(found)
    for mask, name in zip(masks, found, strict=True):
        pixels = np.asarray(Image.open(output / name).convert("L"))
        assert np.array_equal(pixels, mask[0].numpy() * 255)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["🎈", "🌞", "red 🎈"], ["balloon", "sun_with_face", "red_balloon"]),
        (["a/b", "a b", "a?b"], ["a_b", "a_b_2", "a_b_3"]),
        (["Sun", "sun"], ["sun", "sun_2"]),
        (["boat"], ["boat", "boat_2", "boat_3"]),  # one name for the parts of a mask
        (["???", "!"], ["concept_0", "concept_1"]),
    ],
)
def test_masks_that_are_saved_together_get_different_names(output, names, files):
    masks = [box_mask((i, i, i + 5, i + 5)) for i in range(len(files))]
    assert save_all_masks(masks, names) == [f"masks/{file}_00001_.png" for file in files]
    for mask, file in zip(masks, files, strict=True):
        pixels = np.asarray(Image.open(output / "masks" / f"{file}_00001_.png").convert("L"))
        assert np.array_equal(pixels, mask[0].numpy() * 255)


def test_more_names_than_masks_are_refused(output):
    with pytest.raises(ConceptAttentionError, match="1 masks and 2 names.*the same Concept Masks"):
        save_all_masks([box_mask()], ["a", "b"])
    assert files_in(output) == []


def test_names_that_differ_in_case_alone_get_files_that_differ_in_more(output):
    found = save_masks(box_mask(), "Sun") + save_masks(box_mask(), "sun")
    assert len({name.casefold() for name in found}) == 2


def test_without_a_folder_masks_lie_in_the_output_folder(output):
    save_masks(box_mask(), "sun", "")
    assert files_in(output) == ["sun_00001_.png"]


@pytest.mark.parametrize("folder", ["../elsewhere", "/elsewhere", "a/../../b", "masks/../.."])
def test_a_folder_outside_of_the_output_folder_is_refused(output, folder):
    before = files_in(output.parent)
    with pytest.raises(Exception, match="outside the output folder is not allowed"):
        save_masks(box_mask(), "sun", folder)
    document = layers_of(picture(), thirds()[:1], ["a"])
    with pytest.raises(Exception, match="outside the output folder is not allowed"):
        save_layers(document, f"{folder}/stack")
    assert files_in(output.parent) == before


WRITERS = {
    "masks": lambda folder: save_masks(box_mask(), "sun", folder),
    "layers": lambda folder: save_layers(layers_of(picture(), thirds()[:1], ["a"]), f"{folder}/x"),
    "explorer": lambda folder: explore(f"{folder}/x"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_place_that_cannot_be_written_to_is_named(output, write):
    (output / "taken").write_text("a file where a folder should be")
    with pytest.raises(ConceptAttentionError) as refused:
        write("taken/one")
    told = str(refused.value)
    assert told.startswith(f"Nothing can be written to {output / 'taken' / 'one'}: ")
    assert told.endswith(", or name another place in the output folder.")
    assert (output / "taken").read_text() == "a file where a folder should be"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_takes_no_file_is_named_with_the_reason(output, monkeypatch, write, number):
    plain = open

    def refuse(file, mode="r", *args, **kwargs):
        if set(mode) & set("wxa+") and str(file).startswith(str(output)):
            raise OSError(number, os.strerror(number), str(file))
        return plain(file, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)  # pathlib's
    with pytest.raises(ConceptAttentionError) as refused:
        write("place")
    assert str(refused.value).startswith(
        f"Nothing can be written to {output / 'place'}: {os.strerror(number)}. Let ComfyUI write"
    )
    assert files_in(output) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write anywhere")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_read_only_folder_is_named(output, write):
    output.chmod(0o555)
    with pytest.raises(ConceptAttentionError, match="Nothing can be written to"):
        write("place")
