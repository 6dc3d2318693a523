"""What several tests of this folder share."""

from pathlib import Path

from conceptattention.conceptattention_core.cli import main

CONCEPTS = "red balloon, sky, lake: the sea"


def segment(pictures: Path, model: Path, out: Path, *more: str) -> int:
    asked = ["segment", str(pictures), "--concepts", CONCEPTS, "--model", str(model)]
    return main([*asked, "--out", str(out), "--device", "cpu", *more])
