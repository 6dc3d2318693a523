"""A run over pictures that dies at its nth operation on files: python killed_run.py PICTURES OUT N

Prints how many operations there were. N = 0 lets it live. Run from the repository's root.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from conceptattention_core.cli.segmenting import list_open, open_folder, segment_images
from conceptattention_core.concepts import parse
from conceptattention_core.images import list_images
from conceptattention_core.maps import ConceptMaps
from conceptattention_core.recording import Grid, Recording, RecordSpec

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
SETTINGS = {"masks": {"threshold": "mean"}}


def locate(pictures: list) -> ConceptMaps:
    generator = torch.Generator().manual_seed(int(pictures[0].sum()))
    maps = torch.rand(1, 2, 3, 3, generator=generator).softmax(1)
    spec, grid, once = RecordSpec(parse("sky, water")), Grid(3, 3, 16, 48, 48), ((0, 0),)
    recording = Recording(torch.zeros(1, 1, 1, 2, 3, 3), spec, grid, once, once, "Tiny")
    return ConceptMaps(maps, recording)


def run(pictures: Path, out: Path, fatal: int) -> int:
    count = 0

    def watch(event: str, details: tuple) -> None:
        nonlocal count
        if event not in CHANGES and not (event == "open" and str(details[1]).startswith("w")):
            return
        if str(out) in str(details[0]):
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    open_folder(out, SETTINGS, overwrite=False)
    for outcome in segment_images(
        list_open(list_images([pictures]), out, SETTINGS), locate, out, SETTINGS
    ):
        assert not outcome.error
    return count


def fork(pictures: Path, out: Path, fatal: int) -> int | None:
    """The operations of a whole run in a process of its own, or None if it died."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(run(pictures, out, fatal)).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as said:
        return int(said.read()) if status == 0 else None


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not survive a fork
    pictures, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir()
    count = fork(pictures, out / "whole", 0)
    assert count
    for fatal in range(1, count + 1):
        assert fork(pictures, out / str(fatal), fatal) is None
        assert fork(pictures, out / str(fatal), 0) is not None
    print(count)
