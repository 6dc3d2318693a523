"""Other people's workflows, with and without recording: does any bit of a picture change?

    COMFYUI_PATH=... python -m bench.workflows FOLDER             # a table of all its *.json files
    COMFYUI_PATH=... python -m bench.workflows FOLDER --out table.json --custom-nodes PACKS

Runs in the Python of a ComfyUI (0.3.64 or newer), which it starts in a folder of its own. The
files may be in either form that ComfyUI's page saves. Loaders give tiny models of ComfyUI's real
classes, pictures and steps are made few and small. Each workflow runs as it is, without the pack's
own nodes; then with Record Concepts before every sampler; then Concept Maps are asked for every
latent that becomes a picture. Exit code 1: recording changed a picture or a latent.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from .graphs import Known, Prompt, UnusableError, read
from .rewriting import (
    PICTURE,
    kept,
    latents,
    made_small,
    maps_of,
    recorded,
    samplers,
    with_tiny_models,
    without_pack,
)

STAND_INS = Path(__file__).parent / "stand_ins"
YES, NO, IN_PART = "yes", "no", "in part"
UNTRIED = "-"


@dataclasses.dataclass(frozen=True)
class Row:
    """What one workflow did."""

    file: str
    baseline: str = UNTRIED
    """Whether it runs without recording: yes, no, in part."""
    recorded: str = UNTRIED
    """Whether it runs recorded: yes, no, in part."""
    maps: str = UNTRIED
    """Of how many latents there are maps: "2 of 2"."""
    bits: str = UNTRIED
    """same, changed, or "not repeatable" where the baseline differs from itself."""
    compared: int = 0
    """How many pictures and latents were compared."""
    reason: str = ""
    """Why something is not as it should be."""
    seconds: float = 0.0


class Bench:
    """A ComfyUI with the stand-ins, started anew where a workflow ended it."""

    def __init__(self, comfyui: Path, folder: Path, packs: Path | None = None):
        self.comfyui, self.folder, self.packs = comfyui, folder, packs
        self.starts = 0
        self.server: Any = self.start()
        self.known: Known = self.server.object_info()

    def start(self) -> Any:
        from tests.comfyui.server import Server

        self.starts += 1
        base = self.folder / f"server {self.starts}"
        own = self.folder / "packs"
        own.mkdir(exist_ok=True)
        names = [STAND_INS.name]
        if not (own / STAND_INS.name).exists():
            (own / STAND_INS.name).symlink_to(STAND_INS, target_is_directory=True)
        for pack in sorted(self.packs.iterdir()) if self.packs else ():
            if pack.name.startswith((".", "__")):
                continue
            names.append(pack.name)
            if not (own / pack.name).exists():
                (own / pack.name).symlink_to(pack.resolve(), target_is_directory=pack.is_dir())
        paths = self.folder / "paths.yaml"  # JSON is YAML
        paths.write_text(json.dumps({"bench": {"custom_nodes": str(own)}}))
        # The names go on with the list of packs that the server's command line ends in.
        server = Server(self.comfyui, base, *names, "--extra-model-paths-config", str(paths))
        down, right = np.mgrid[0:128, 0:128].astype(np.uint8)
        picture = np.stack([right * 2, down * 2, 255 - right], axis=-1)
        Image.fromarray(picture).save(base / "input" / PICTURE)
        return server

    def run(self, prompt: Prompt) -> tuple[dict[str, list[Any]], str]:
        """What the kept values were, and why the prompt failed, or an empty text."""
        from tests.comfyui.server import PromptError

        self.server = self.server or self.start()
        try:
            result = self.server.queue(prompt, check=False)
        except PromptError as error:
            if error.result is None:  # refused
                return {}, first_line(error)
            self.stop()  # it ended, or what it still does is in the way
            return {}, f"the server ended: {first_line(error).partition(' log ends')[0]}"
        except (aiohttp.ClientError, OSError) as error:
            self.stop()
            return {}, f"the server ended: {first_line(error)}"
        shown = {
            name: [json.loads(one) for one in output["kept"]]
            for name, output in result.outputs.items()
            if "kept" in output
        }
        reason = ""
        if result.error:
            kind = prompt.get(result.error_node or "", {}).get("class_type", "")
            reason = f"{kind} {result.error_node}: {first_line(result.error)}"
        return shown, reason

    def free(self) -> None:
        """Let nothing that ran before be used again."""
        if self.server:
            self.server.free()

    def stop(self) -> None:
        if self.server:
            self.server.stop()
        self.server = None


def first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " / ".join(lines[:3])[:300] or type(error).__name__


@contextmanager
def started(comfyui: Path, packs: Path | None = None) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(comfyui, Path(folder), packs)
        try:
            yield bench
        finally:
            bench.stop()


# --- one workflow ---------------------------------------------------------------------------------


def try_file(bench: Bench, file: Path) -> Row:
    """A row of the table; whatever the file holds, it is no exception."""
    start = time.monotonic()
    try:
        row = try_prompt(bench, file.name, read(file, bench.known))
    except (UnusableError, OSError) as error:
        row = Row(file.name, reason=first_line(error))
    except Exception as error:
        row = Row(file.name, reason=f"{type(error).__name__}: {first_line(error)}")
    return dataclasses.replace(row, seconds=round(time.monotonic() - start, 1))


def try_prompt(bench: Bench, name: str, prompt: Prompt) -> Row:
    known = bench.known
    whole = made_small(with_tiny_models(prompt), known)
    if not samplers(whole, known):
        return Row(name, reason="no sampler")
    plain = without_pack(whole)
    wanted = kept(plain, known)
    before, reason = bench.run({**plain, **wanted})
    if reason:
        return Row(name, NO, reason=reason)
    if lacking := sorted(wanted.keys() - before.keys()):  # ComfyUI runs the rest without a word
        return Row(name, IN_PART, reason=f"refused by ComfyUI: {', '.join(lacking)}")
    listening = recorded(whole, known)
    after, reason = bench.run({**listening, **kept(listening, known)})
    if lacking := sorted(before.keys() - after.keys() if not reason else ()):
        return Row(name, YES, IN_PART, reason=f"refused by ComfyUI: {', '.join(lacking)}")
    both = before.keys() & after.keys()
    row = Row(name, YES, NO if reason else YES, bits="same", compared=len(both), reason=reason)
    changed = sorted(one for one in both if before[one] != after[one])
    if changed:
        bench.free()
        again, _ = bench.run({**plain, **kept(plain, known)})
        repeatable = all(again.get(one) == before[one] for one in changed)
        bits, where = ("changed" if repeatable else "not repeatable"), ", ".join(changed)
        return dataclasses.replace(row, bits=bits, reason=f"{where} {reason}".strip())
    if not both:
        row = dataclasses.replace(row, bits=UNTRIED)
    return row if reason else with_maps(bench, row, listening, after)


def with_maps(bench: Bench, row: Row, prompt: Prompt, values: dict[str, list[Any]]) -> Row:
    """Ask for the maps of every latent, each alone: one without any must not hide the others."""
    wanted, reasons = latents(prompt, bench.known), []
    for latent in wanted:
        figures, reason = bench.run({**prompt, **maps_of(bench.known, latent)})
        pictures = figures.get("bench figures") or []
        count = sum(len(json.loads(one)) for one in pictures)
        samples = values.get(f"keep {latent[0]}:{latent[1]}") or []
        expected = sum(one["shape"][0] for one in samples if "shape" in one)
        if not reason and (not count or count % max(expected, 1)):
            reason = f"maps of {count} pictures for a latent of {expected}"
        if reason:
            reasons.append(reason)
    found = f"{len(wanted) - len(reasons)} of {len(wanted)}"
    return dataclasses.replace(row, maps=found, reason=reasons[0] if reasons else "")


# --- the table ------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """The rows for people."""
    columns = ("file", "baseline", "recorded", "maps", "bits", "compared", "seconds", "reason")
    cells = [columns, *(tuple(str(getattr(row, name)) for name in columns) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def exit_code(rows: list[Row]) -> int:
    return int(any(row.bits == "changed" for row in rows))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the workflow files (*.json) lie")
    parser.add_argument("--out", type=Path, help="write the table as JSON, too")
    parser.add_argument("--custom-nodes", type=Path, help="a folder of other packs to load")
    asked = parser.parse_args(arguments)
    if not (comfyui := os.environ.get("COMFYUI_PATH")):
        parser.error("set COMFYUI_PATH to a ComfyUI")
    files = sorted(asked.folder.rglob("*.json"))
    if not files:
        parser.error(f"{asked.folder} holds no *.json files")
    rows = []
    with started(Path(comfyui).expanduser(), asked.custom_nodes) as bench:
        for i, file in enumerate(files, 1):
            rows.append(try_file(bench, file))
            row = rows[-1]
            print(f"{i}/{len(files)} {row.file}: {row.seconds} s {row.reason}", file=sys.stderr)
    if asked.out:
        content = [dataclasses.asdict(row) for row in rows]
        asked.out.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(table(rows))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
