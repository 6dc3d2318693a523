"""segment --ray: the files of a single process, even when an actor dies midway."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("ray", reason="Ray is not installed")

import ray

from conceptattention_core.cli import main

ROOT = Path(__file__).resolve().parents[2]
COUNT = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(COUNT):
        noise = np.random.default_rng(n).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{n:02}.png")
    (folder / "broken.jpg").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def cluster():
    # actors import the package from the repository
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


def segment(pictures: Path, out: Path, *more: str) -> int:
    command = ["segment", str(pictures), "--concepts", "sky, water", "--device", "cpu"]
    return main([*command, "--model", str(ROOT / "demo" / "model"), "--out", str(out), *more])


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob("*")
        if file.is_file() and file.name != "summary.json"
    }


def kill_an_actor_midway(out: Path, killed: list[int]) -> None:
    """Once a few pictures are done, kill the process of one of the actors."""
    while len(list(out.glob("*/report.json"))) < 3:
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if title.startswith(b"ray::") and b"MapBatches(Actor)" in title:
            os.kill(int(process.name), signal.SIGKILL)
            killed.append(int(process.name))
            return


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the actor's process in /proc")
def test_two_actors_one_of_them_killed_leave_the_files_of_one_process(
    pictures, cluster, tmp_path, capsys
):
    assert segment(pictures, tmp_path / "alone") == 1  # one is broken
    killed = []
    killer = threading.Thread(target=kill_an_actor_midway, args=(tmp_path / "many", killed))
    (tmp_path / "many").mkdir()
    killer.start()
    assert segment(pictures, tmp_path / "many", "--ray") == 1
    killer.join(60)
    assert killed
    many, alone = contents(tmp_path / "many"), contents(tmp_path / "alone")
    assert many.keys() == alone.keys()
    for name in many:
        if name.endswith(".png"):  # with other threads sums come in another order
            first, second = (
                np.asarray(Image.open(tmp_path / run / name), float) for run in ("many", "alone")
            )
            assert np.abs(first - second).mean() < 1, name
        else:
            assert json.loads(many[name]).keys() == json.loads(alone[name]).keys()
    summary = json.loads((tmp_path / "many" / "summary.json").read_text())
    # what the killed actor had made, and could not tell of, was found done by the next one
    assert summary["made"] + summary["done before"] == COUNT and len(summary["failed"]) == 1
    assert "broken.jpg is no picture" in capsys.readouterr().out


def test_two_actors_judge_what_one_process_judges(cluster, tmp_path):
    command = ["evaluate", "scenes", "--limit", "6", "--size", "64", "--figures", "0"]
    command += ["--model", str(ROOT / "demo" / "model"), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "alone")]) == 0
    assert main([*command, "--out", str(tmp_path / "many"), "--ray"]) == 0
    many, alone = (
        json.loads((tmp_path / run / "report.json").read_text()) for run in ("many", "alone")
    )
    assert many["pictures"] == alone["pictures"] == 6
    for name, value in alone["figures"]["output space"].items():
        assert many["figures"]["output space"][name] == pytest.approx(value, abs=0.5), name
