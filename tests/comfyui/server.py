"""A real ComfyUI server to queue prompts on, in a folder of its own, with only this pack loaded."""

import asyncio
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACK = "conceptattention"

START_SECONDS = 180
PROMPT_SECONDS = 180
PREVIEW_IMAGE = 1  # protocol.BinaryEventTypes of ComfyUI

Prompt = dict[str, dict[str, Any]]
OnMessage = Callable[[str, dict[str, Any]], object]
T = TypeVar("T")


@dataclass
class Result:
    """What one prompt did."""

    prompt_id: str
    executed: list[str] = field(default_factory=list)
    """Node ids that ran, in order."""
    cached: list[str] = field(default_factory=list)
    """Node ids whose earlier result was used."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What output nodes show, by node id: {"9": {"images": [{"filename": ...}]}}."""
    previews: list[bytes] = field(default_factory=list)
    """The pictures sent while it ran, as JPEG or PNG files."""
    error: str | None = None
    """The message of the exception that ended it, or "interrupted"."""
    error_node: str | None = None


class PromptError(Exception):
    """A prompt that ComfyUI refused, or that failed while it ran."""

    def __init__(self, message: str, result: Result | None = None):
        super().__init__(message)
        self.result = result


class Server:
    """Runs until `stop`; use the fixture `server` rather than making one.

    Its methods block. They may be called from any thread, one prompt at a time.
    """

    PromptError = PromptError

    def __init__(self, comfyui: Path, folder: Path, *options: str):
        self.folder = folder
        self.log_file = folder / "server.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        # Tests may sit inside another event loop (playwright runs one): this thread has its own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="comfyui client")
        for name in ("custom_nodes", "input", "output", "temp", "user"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        link_pack(folder / "custom_nodes" / PACK)
        stand_in = make_torchaudio_stand_in(folder / "stand-in")
        path = [str(stand_in) if stand_in else "", os.environ.get("PYTHONPATH", "")]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "main.py", "--cpu", "--disable-api-nodes"),
                    *("--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]),
                    *("--base-directory", str(folder), "--database-url", "sqlite:///:memory:"),
                    *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK),
                    *options,
                ],
                cwd=comfyui,
                # One thread: a tiny prompt takes 0.2 s, on busy cores 3 s with several.
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_ready()

    def queue(
        self, prompt: Prompt, *, check: bool = True, on_message: OnMessage | None = None
    ) -> Result:
        """Run a prompt in API format to its end.

        A refused prompt raises PromptError; so does one that fails or is interrupted, unless
        `check` is off. `on_message(kind, data)` sees every message of the run as it comes, for
        instance to interrupt at the first "progress".
        """
        result = self._do(self._run(prompt, on_message))
        if check and result.error:
            raise PromptError(f"node {result.error_node}: {result.error}", result)
        return result

    def upload(self, image: np.ndarray | bytes, name: str = "upload.png") -> str:
        """Put a PNG (its bytes, or H W C uint8) into input/; its name, as LoadImage wants it."""
        form = aiohttp.FormData()
        data = image if isinstance(image, bytes) else png(image)
        form.add_field("image", data, filename=name, content_type="image/png")
        form.add_field("overwrite", "true")
        return self._request("POST", "/upload/image", data=form)["name"]

    def image(self, output: dict[str, str]) -> np.ndarray:
        """The pixels (H W C, uint8) of one entry of `result.outputs[node]["images"]`."""
        keys = ("filename", "subfolder", "type")
        file = self._request("GET", "/view", params={key: output[key] for key in keys})
        return np.asarray(Image.open(io.BytesIO(file)))

    def get(self, path: str) -> Any:
        """What the server answers to a GET: parsed JSON, or the bytes of anything else."""
        return self._request("GET", path)

    def object_info(self) -> dict[str, Any]:
        """Every node class the server knows, with inputs and outputs."""
        return self._request("GET", "/object_info")

    def settings(self, **values: object) -> None:
        """Set frontend settings; dots are written as double underscores."""
        named = {key.replace("__", "."): value for key, value in values.items()}
        self._request("POST", "/settings", json=named)

    def interrupt(self) -> None:
        """Stop the prompt that runs; safe to call from `on_message`."""
        with ThreadPoolExecutor(1) as thread:
            call = self._send("POST", "/interrupt", json={})
            thread.submit(asyncio.run, call).result()

    def forget_history(self) -> None:
        """Drop what is remembered of prompts that have run."""
        self._request("POST", "/history", json={"clear": True})

    def free(self) -> None:
        """Drop models and cached results, as the menu entry does, once the server is idle."""
        self._request("POST", "/free", json={"unload_models": True, "free_memory": True})

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.shutdown()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self._request("GET", "/system_stats")
                return
            except aiohttp.ClientError:
                time.sleep(0.25)
        code = self._process.poll()
        self.stop()
        what = f"ended with exit code {code}" if code is not None else "did not answer in time"
        raise RuntimeError(f"The ComfyUI server {what}. Its log ends with\n{self.log()[-4000:]}")

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(asyncio.run, work).result()

    def _request(self, method: str, path: str, **content: Any) -> Any:
        return self._do(self._send(method, path, **content))

    async def _send(self, method: str, path: str, **content: Any) -> Any:
        """Parsed JSON, or the bytes of anything else."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, **content) as response,
        ):
            response.raise_for_status()
            if response.content_type == "application/json":
                return await response.json()
            return await response.read()

    async def _run(self, prompt: Prompt, on_message: OnMessage | None) -> Result:
        client = f"test-{time.monotonic_ns()}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as messages,
        ):
            body = {"prompt": prompt, "client_id": client}
            async with session.post(f"{self.url}/prompt", json=body) as response:
                answer = await response.json()
            if "prompt_id" not in answer:
                raise PromptError(refusal(answer))
            result = Result(answer["prompt_id"])
            following = self._follow(messages, result, on_message)
            try:
                await asyncio.wait_for(following, PROMPT_SECONDS)
                result.outputs = await asyncio.wait_for(self._outputs(result), PROMPT_SECONDS)
            except asyncio.TimeoutError as late:
                raise PromptError(
                    f"The prompt took more than {PROMPT_SECONDS} s. The server's log ends with\n"
                    + self.log()[-4000:],
                    result,
                ) from late
        return result

    async def _outputs(self, result: Result) -> dict[str, dict[str, Any]]:
        # The history is written a moment after the last message.
        while not (history := await self._send("GET", f"/history/{result.prompt_id}")):
            await asyncio.sleep(0.02)
        return history[result.prompt_id]["outputs"]

    async def _follow(
        self,
        messages: aiohttp.ClientWebSocketResponse,
        result: Result,
        on_message: OnMessage | None,
    ) -> None:
        async for message in messages:
            if message.type == aiohttp.WSMsgType.BINARY:
                if int.from_bytes(message.data[:4], "big") == PREVIEW_IMAGE:
                    result.previews.append(message.data[8:])
                continue
            kind, data = (event := message.json())["type"], event["data"]
            if data.get("prompt_id", result.prompt_id) != result.prompt_id:
                continue
            if on_message:
                on_message(kind, data)
            if kind == "execution_cached":
                result.cached = list(data["nodes"])
            elif kind == "executing" and data["node"] and data["node"] not in result.executed:
                result.executed.append(data["node"])
            elif kind == "execution_error":
                result.error, result.error_node = data["exception_message"], data["node_id"]
                return
            elif kind == "execution_interrupted":
                result.error, result.error_node = "interrupted", data["node_id"]
                return
            elif kind == "execution_success":
                return
        raise PromptError(f"The server hung up. Its log ends with\n{self.log()[-4000:]}", result)


def refusal(answer: dict[str, Any]) -> str:
    """The validation errors of a refused prompt as one text."""
    lines = [answer["error"]["message"]]
    for node, found in (answer.get("node_errors") or {}).items():
        for error in found["errors"]:
            lines.append(f"node {node}: {error['message']}: {error['details']}")
    return "\n".join(lines)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def link_pack(place: Path) -> None:
    try:
        place.symlink_to(ROOT, target_is_directory=True)
    except OSError:  # Windows allows links to developers only.
        leave = shutil.ignore_patterns(".git", ".venv", "__pycache__", "out")
        shutil.copytree(ROOT, place, ignore=leave)


def make_torchaudio_stand_in(folder: Path) -> Path | None:
    """An empty torchaudio for Pythons without one, or None where the real one works.

    ComfyUI 0.33 imports torchaudio when it starts, and there is none for every CPU build of
    torch. Nothing here makes sound, so names are enough.
    """
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        package = folder / "torchaudio"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from . import functional, transforms\n")
        (package / "functional.py").touch()
        classes = ("MelScale", "MelSpectrogram", "Resample")
        (package / "transforms.py").write_text("".join(f"class {c}: ...\n" for c in classes))
        return folder
    return None
