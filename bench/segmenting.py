"""A thousand small pictures through `segment`: rate, memory, and what killing it costs.

    python -m bench.segmenting                   # 1000 scenes of 64 pixels, CPU, Linux

One run goes through; a second one is killed every now and then and started again. Both have to
leave the same files.
"""

import argparse
import json
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.scenes import HELD_OUT_SEED, scene

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
CONCEPTS = "sky, sun, moon, clouds, balloon, mountains, house, tree"


def start(pictures: Path, out: Path) -> subprocess.Popen:
    command = ["segment", str(pictures), "--concepts", CONCEPTS, "--model", "demo/model"]
    return subprocess.Popen(
        [sys.executable, "-m", "conceptattention_core", *command, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def count_done(out: Path) -> int:
    return sum(1 for _ in out.glob("*/report.json"))


def read_memory(process: subprocess.Popen) -> float:
    """MiB that a process holds in main memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def go_through(pictures: Path, out: Path) -> dict[int, float]:
    """An unbroken run: MiB by pictures done."""
    process, memory = start(pictures, out), {}
    while process.poll() is None:
        memory[count_done(out)] = read_memory(process)
        time.sleep(1)
    assert process.returncode == 0
    return memory


def go_through_killed(pictures: Path, out: Path, kills: int, seconds: float) -> int:
    """A run that is killed at random moments; how often it was."""
    killed, rng = 0, random.Random(0)
    while (process := start(pictures, out)) is not None:
        try:
            process.wait(rng.uniform(0.2, 1) * seconds if killed < kills else None)
            assert process.returncode == 0
            return killed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1


def read_files(out: Path) -> dict[str, bytes]:
    files = (file for file in out.rglob("*") if file.is_file() and file.name != "summary.json")
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description="Send many small pictures through segment.")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        for n in range(given.pictures):
            Image.fromarray(scene(HELD_OUT_SEED + n, given.side).image).save(
                root / "in" / f"{n:04}.png"
            )
        memory = go_through(root / "in", root / "whole")
        summary = json.loads((root / "whole" / "summary.json").read_text())
        part = summary["seconds"] / (given.kills + 2)
        killed = go_through_killed(root / "in", root / "killed", given.kills, part)
        same = read_files(root / "whole") == read_files(root / "killed")
    tenths = np.array_split([mib for done, mib in memory.items() if done], 10)
    figures = {
        "pictures": summary["made"],
        "pixels": [given.side, given.side],
        "concepts": len(CONCEPTS.split(",")),
        "pictures a second": round(summary["made"] / summary["seconds"], 2),
        "MiB in each tenth of the run": [round(statistics.median(part)) for part in tenths],
        "times killed": killed,
        "same files after it": same,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(figures, indent=1)
    (RESULTS / "segmenting_cpu.json").write_text(text + "\n")
    print(text)
    if not same:
        sys.exit("the killed run left other files")


if __name__ == "__main__":
    main()
