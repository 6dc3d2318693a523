"""Queue a workflow on a running ComfyUI and collect its masks, with the standard library alone.

    python collect_masks.py first_masks.json --out masks
    python collect_masks.py first_masks.json --set "Record Concepts.concepts=balloon, sky"
    python collect_masks.py photo_to_masks.json --set "The picture.image=holiday.jpg"

The workflow is one in API format, from this folder or from ComfyUI's menu (Export API). `--set`
changes an input of the node with this title. What the workflow saves or previews is fetched, and
in place of previews of masks each mask comes under its concept's name.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]


def change(prompt: Prompt, setting: str) -> None:
    """Apply one "title.input=value"; the value is read as JSON where it can be."""
    where, _, text = setting.partition("=")
    title, _, name = where.rpartition(".")
    nodes = [node for node in prompt.values() if node["_meta"]["title"] == title]
    if not nodes or name not in nodes[0]["inputs"]:
        known = sorted({f"{n['_meta']['title']}.{i}" for n in prompt.values() for i in n["inputs"]})
        sys.exit(f"Nothing is called '{where}'. There are: {', '.join(known)}.")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for node in nodes:
        node["inputs"][name] = value


def save_masks_by_name(prompt: Prompt) -> None:
    """Add a node that saves every mask under its concept's name."""
    for name, node in list(prompt.items()):
        if node["class_type"] == "ConceptAttentionMasks":
            prompt[f"{name}:save"] = {
                "class_type": "ConceptAttentionSaveMasks",
                "inputs": {"mask": [name, 0], "name": [name, 1], "folder": "collected"},
            }


def ask(url: str, data: Any = None) -> Any:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        told = json.loads(error.read() or b"{}")
        sys.exit(f"ComfyUI refused: {json.dumps(told.get('node_errors') or told, indent=1)}")
    except urllib.error.URLError as error:
        sys.exit(f"No ComfyUI answers at {url}: {error.reason}")


def wait(server: str, prompt_id: str) -> dict[str, Any]:
    """What a prompt left in ComfyUI's history, once it has run."""
    while True:
        history = ask(f"{server}/history/{prompt_id}")
        if prompt_id in history:
            entry = history[prompt_id]
            for kind, message in entry["status"].get("messages", []):
                if kind == "execution_error":
                    sys.exit(f"{message['node_type']}: {message['exception_message'].strip()}")
            return entry["outputs"]
        time.sleep(0.5)


def fetch(server: str, file: dict[str, str], out: Path) -> Path:
    with urllib.request.urlopen(f"{server}/view?{urllib.parse.urlencode(file)}") as answer:
        path = out / file["filename"]
        path.write_bytes(answer.read())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Queue a workflow and collect its masks.")
    parser.add_argument("workflow", type=Path, help="a workflow in API format")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="where ComfyUI runs")
    parser.add_argument("--set", action="append", default=[], metavar="TITLE.INPUT=VALUE")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="where files go")
    given = parser.parse_args()
    prompt = json.loads(given.workflow.read_text("utf-8"))
    for setting in given.set:
        change(prompt, setting)
    save_masks_by_name(prompt)
    queued = ask(f"{given.server}/prompt", {"prompt": prompt, "client_id": str(uuid.uuid4())})
    given.out.mkdir(parents=True, exist_ok=True)
    for output in wait(given.server, queued["prompt_id"]).values():
        for file in output.get("images", []):
            if file["type"] == "output":
                print(fetch(given.server, file, given.out))


if __name__ == "__main__":
    main()
