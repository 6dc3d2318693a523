"""Files that are whole or not there, and claims by which processes share the work on a folder.

What is promised to be whole is on the disk before it gets its name: a power cut leaves the earlier
file or the later one. A claim is a lock of the system on a small file: it ends with its process,
however that ends, and holds on shared disks that have locks.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ConceptAttentionError

PARTIAL, CLAIMS = ".partial", ".claims"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WAIT = 0.2  # seconds between two tries for what another process holds


def quote(path: Path | str) -> str:
    """A path as text that can be printed and encoded, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_regular(path: Path) -> None:
    """Refuse what would be waited on for ever, or has no end: pipes, sockets, devices."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConceptAttentionError(f"{quote(path)} is no regular file.")


def hash_file(path: Path) -> str:
    """A name for what a file holds: SHA-256, in hex."""
    check_regular(path)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


# --- JSON -----------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """JSON that every reader takes: numbers that are not finite are an error."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    except ValueError:
        raise ConceptAttentionError(
            "A result is not finite (NaN or infinite), so it is not written."
        ) from None


def read_json(file: Path) -> Any:
    """What a JSON file holds; None where there is none, or one that is torn."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def write_json(file: Path, value: Any) -> None:
    write_text(file, to_json(value))


def write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all, safe from a power cut afterwards."""
    partial = name_partial(file)
    try:
        with naming(file), partial.open("wb") as opened:
            # what no encoding has becomes an escape that JSON reads back
            opened.write(text.encode("utf-8", "backslashreplace"))
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(file.parent)


# --- partial files and folders --------------------------------------------------------------------


def name_partial(place: Path) -> Path:
    """Where something is written before it gets its place: a name that no other process has."""
    return place.with_name(f"{_digest(place.name)[:12]}.{secrets.token_hex(4)}{PARTIAL}")


def remove_partials(place: Path) -> None:
    """Remove what ended runs left beside `place`; only for who has claimed it."""
    own = f"{_digest(place.name)[:12]}."
    earlier = f"{place.name}{PARTIAL}"  # as version 0.1.0 called it
    for left in place.parent.glob(f"*{PARTIAL}"):
        if left.name == earlier or left.name.startswith(own):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on, where the system can."""
    if sys.platform == "win32" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)


def list_sizes(folder: Path) -> dict[str, int]:
    """Every file below a folder by its relative path, with its bytes."""
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def have_sizes(folder: Path, sizes: Any) -> bool:
    """Whether all files of a list by `list_sizes` are there as large as it says."""
    try:
        return bool(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files below a folder, then the folders that they leave empty; nothing else."""
    top = folder.resolve()
    for name in names:
        file = folder / name
        if top not in file.resolve().parents:
            continue  # a list that somebody has altered
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            file.unlink()
        for parent in file.parents:
            if parent == folder:
                break
            with suppress(OSError):  # something is left in it
                parent.rmdir()


def move_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Move files below one folder to the same places below another."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target / name)
    for folder in {(target / name).parent for name in names}:
        sync(folder)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Give errors of the disk the name of the file that was being written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and not error.filename:
            error.filename = str(file)
        raise


def explain_os_error(error: OSError) -> str:
    """An error of the disk in a sentence: which file, and how much room is left."""
    if not error.filename:
        return str(error)
    text = f"{quote(error.filename)}: {error.strerror}"
    if error.errno in FULL:
        for folder in Path(os.fsdecode(error.filename)).absolute().parents:
            if folder.is_dir():
                free = shutil.disk_usage(folder).free / 2**20
                return f"{text}; {free:,.0f} MB are free there."
    return text


# --- claims ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """The right of this process alone to write something in a folder."""

    file: Path
    handle: int
    alone: bool
    """Whether the disk has locks; if not, everybody gets a claim."""

    def release(self) -> None:
        with suppress(OSError):  # Windows keeps files that another process has open
            self.file.unlink()
        os.close(self.handle)
        with suppress(OSError):  # others hold claims
            self.file.parent.rmdir()


def claim(out: Path, name: str) -> Claim | None:
    """Claim `name` in the folder `out`, or None while another process has it.

    Where a disk has no locks everyone gets one: then work may be done twice.
    """
    return _claim(out / CLAIMS / _digest(name)[:24])


def _claim(file: Path) -> Claim | None:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its folder was removed meanwhile
            continue
        try:
            alone = _lock(handle)
            if os.fstat(handle).st_ino == file.stat().st_ino:
                return Claim(file, handle, alone)
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # of a file that its last owner has removed


@contextmanager
def claimed(out: Path, name: str) -> Iterator[None]:
    """Wait for a claim and hold it."""
    while (held := claim(out, name)) is None:
        time.sleep(WAIT)
    try:
        yield
    finally:
        held.release()


def sweep_claims(out: Path) -> None:
    """Remove the files of claims whose processes ended without releasing them."""
    for file in (out / CLAIMS).glob("*"):
        if held := _claim(file):
            held.release()
    with suppress(OSError):
        (out / CLAIMS).rmdir()


def _lock(handle: int) -> bool:
    """Lock an open file against other processes; whether its disk has locks.

    Raises BlockingIOError while another process has it.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise
        return False
    return True
