"""New files in ComfyUI's output folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths

from ..conceptattention_core import ConceptAttentionError


@contextmanager
def writing(prefix: str) -> Iterator[None]:
    """What the system says of a file it does not take, as a sentence that names the folder."""
    try:
        yield
    except OSError as error:
        folder = (Path(folder_paths.get_output_directory()) / prefix).parent
        raise ConceptAttentionError(
            f"Nothing can be written to {folder}: {error.strerror or error}. Let ComfyUI write "
            "there and make room, or name another place in the output folder."
        ) from error


def next_path(prefix: str, ending: str) -> Path:
    """A new file in the output folder."""
    folder, name, counter, *_ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    return Path(folder) / f"{name}_{counter:05}_{ending}"
