"""Memory that large pictures take, counted in planes: float32 numbers, one for each pixel."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONCEPTS = 8
GUIDE = 3  # the picture's colours
WORK = 4  # what one concept takes at a time
SHARPEN = """
import re, sys
from types import SimpleNamespace
import torch
from conceptattention_core.masks import sharpen
from conceptattention_core.recording import Grid

torch.set_num_threads(1)
h, w = 3000, 2400
concepts = torch.rand(1, int(sys.argv[1]), 50, 40)
maps = SimpleNamespace(maps=concepts, grid=Grid(50, 40, 16, 800, 640, size=(h, w)))
image = torch.full((1, h, w, 3), 0.5)
sharpen(maps, image[:, :300, :240])  # what is loaded once

def peak():  # of this process alone: ru_maxrss knows the largest of who started it, too
    return int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak()
sharpen(maps, image)
print((peak() - before) * 1024 / (h * w * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the peak as Linux tells it")
def test_a_large_picture_is_sharpened_in_little_more_than_its_maps():
    command = [sys.executable, "-c", SHARPEN, str(CONCEPTS)]
    planes = float(subprocess.check_output(command, cwd=ROOT, text=True))
    assert CONCEPTS <= planes < CONCEPTS + GUIDE + WORK
