"""What several tests of this folder share."""

from pathlib import Path

import numpy as np
from conceptattention.conceptattention_core.cli import main
from PIL import Image

CAT, PERSON, IGNORE = 8, 15, 255


def save_labels(labels: np.ndarray, file: Path) -> None:
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([n % 256 for n in range(768)])
    picture.save(file)


def run(protocol, model, out, *more):
    given = ["evaluate", protocol, "--model", str(model), "--out", str(out)]
    quick = ["--device", "cpu", "--size", "64", "--blocks", "all", "--samples", "1"]
    return main([*given, *quick, "--figures", "0", *map(str, more)])
