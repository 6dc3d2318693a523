"""What several tests of this folder share."""

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conceptattention.conceptattention_core.concepts import parse
from conceptattention.conceptattention_core.maps import ConceptMaps, ReadSpec, read_maps
from conceptattention.conceptattention_core.masks import MaskSpec, draw_masks, upsample
from conceptattention.conceptattention_core.recording import Grid, Recording, RecordSpec
from PIL import Image

CHROMIUM = os.environ.get("COMFYUI_BROWSER")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = "balloon, sky: blue sky, lake"
SIXTY_FOUR = ",".join(f"thing number {i}" for i in range(64))
ODD = Grid.of_latent(17, 9)
"""9 x 5 patches of 16 pixels over 136 x 72 pixels: padded at the bottom and at the right."""

SIZES = [(136, 72), (100, 90), (300, 110)]
"""h w of pictures: the grid's own, and two that the grid was stretched to look at."""

Open = Callable[..., Any]


def record(names: str = NAMES, grid: Grid = ODD, steps: int = 1, blocks: int = 1, seed: int = 0):
    """A recording in which neighbouring patches, steps and blocks have much in common."""
    concepts = parse(names)
    smooth = torch.randn(1, steps * blocks * len(concepts), grid.y, grid.x, generator=_seeded(seed))
    smooth = torch.nn.functional.avg_pool2d(smooth, 3, 1, 1, count_include_pad=False) * 6
    scores = smooth.view(1, steps, blocks, len(concepts), grid.y, grid.x)
    spans = [tuple((i, i) for i in range(count)) for count in (steps, blocks)]
    return Recording(scores, RecordSpec(concepts), grid, *spans, "Tiny")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paint(h: int, w: int) -> np.ndarray:
    """A smooth picture, which JPEG keeps."""
    y, x = np.mgrid[0:h, 0:w] / (h, w)[0], np.mgrid[0:h, 0:w] / (h, w)[1]
    return np.stack([60 + 120 * y[0], 200 - 90 * x[1], 90 + 60 * y[0]], -1).astype(np.uint8)


def at(page: Any, y: float, x: float, size: tuple[int, int]) -> tuple[float, float]:
    """Where on the screen a pixel of the picture is."""
    page.locator("#picture").scroll_into_view_if_needed()
    box = page.locator("#picture").bounding_box()
    h, w = size
    return box["x"] + (x + 0.5) / w * box["width"], box["y"] + (y + 0.5) / h * box["height"]


def bars(page: Any) -> dict[str, float]:
    """The values that the bars show, by name: their lengths, which have no rounding."""
    rows = page.locator("#concepts label")
    return dict(
        rows.evaluate_all(
            """rows => rows.map(row => [
                row.querySelector(".name span").textContent,
                Number(row.style.getPropertyValue("--value")),
            ])"""
        )
    )


def settled(page: Any) -> None:
    """After what was asked for is painted."""
    page.evaluate("() => new Promise(done => setTimeout(() => requestAnimationFrame(done), 50))")


def download(page: Any) -> np.ndarray:
    """The mask `h w` that the button gives."""
    settled(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download mask").click()
    image = Image.open(io.BytesIO(Path(caught.value.path()).read_bytes()))
    assert image.mode == "L"
    return np.asarray(image)


def shown(page: Any, size: tuple[int, int]) -> np.ndarray:
    """What the canvas shows at the middle of each pixel of the picture, `h w rgb`."""
    url = page.evaluate("canvas.toDataURL()")
    file = io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    (h, w), (high, wide) = size, pixels.shape[:2]
    rows, columns = (
        ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in ((h, high), (w, wide))
    )
    return pixels[rows][:, columns]


def close(mask: np.ndarray, expected: torch.Tensor | np.ndarray, share: float = 0.005) -> bool:
    """Whether hard masks are the same but for pixels that lie at the level."""
    assert set(np.unique(mask)) <= {0, 255}
    return bool(((mask > 127) != (np.asarray(expected) > 0.5)).mean() <= share)


def strongest(recording: Recording, size: tuple[int, int]) -> np.ndarray:
    """The position of the strongest concept at each pixel, `h w`."""
    return (
        upsample(read_maps(recording, ReadSpec(blocks="all")).maps, recording.grid, size)[0]
        .argmax(0)
        .numpy()
    )


def mask_of(
    maps: ConceptMaps, name: str, size: tuple[int, int], threshold: str, amount=0.5, soft=False
) -> torch.Tensor:
    """The mask `h w` of one concept on the bare maps."""
    spec = MaskSpec(edges=False, threshold=threshold, amount=amount, soft=soft, keep_absent=True)
    return draw_masks(maps, [name], spec, size=size)[0, 0]


def inside(region: np.ndarray) -> tuple[int, int]:
    """The pixel of a region that is farthest from its border."""
    import cv2

    depth = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(y), int(x)
