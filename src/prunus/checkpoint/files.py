"""The files of a checkpoint: where they may lie, how they are put in place, and how they are read.

A checkpoint is replaced as a whole. The weights go into a file named by their content, next to the old one;
then the manifest, which names that file, is replaced in one step; then the old weights are removed. Whatever
stops a save on the way, the manifest names complete weights that belong to it. Other files that have to be
there as a whole or not at all are written here too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import ArgumentTypeError, CheckpointError

_OWN_WEIGHTS = re.compile(r"model-[0-9a-f]{16}\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_DAY = 24 * 60 * 60
_CHUNK = 2**22

D = TypeVar("D", bound="Drafts")


def as_folder(folder: str | os.PathLike[str]) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError(f"folder must be a path, got {type(folder).__name__}")
    path = Path(folder)
    if "\0" in str(path):
        raise CheckpointError(f"{str(path)!r} is not a path")
    return path


def writable_folder(path: Path) -> Path:
    """Make the folder if it is not there.

    Raises:
        CheckpointError: it cannot be made or written to, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{path} cannot be a folder, there is a file of that name: choose another"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise CheckpointError(f"the folder {path} is not writable: change its permissions or choose another")
    return path


def regular_file(folder: Path, name: str) -> Path:
    """A file of a checkpoint, which has to lie in its folder.

    Raises:
        CheckpointError: there is no folder or file, or it is no ordinary file inside the folder.
    """
    path = folder / name
    try:
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}: give the folder that prunus.save wrote")
        if not os.path.lexists(path):
            raise CheckpointError(
                f"{folder} has no {name}: it is no checkpoint, or an incomplete copy of one"
            )
        if path.resolve().parent != folder.resolve():
            raise CheckpointError(
                f"{path} is a link that leads out of the checkpoint's folder: if you trust it, put a copy of "
                "the file in its place"
            )
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not an ordinary file: the checkpoint is damaged")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return path


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a small file.

    Raises:
        CheckpointError: it is larger than `limit` bytes, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > limit:
        raise CheckpointError(
            f"{path} is larger than {limit:,} bytes, which no manifest is: the checkpoint is damaged"
        )
    return content


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Make sure that a file is on the disk and not just on its way there."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_names(folder: Path) -> None:
    """The same for the names in a folder, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network drives
        pass
    finally:
        os.close(descriptor)


class Drafts:
    """Files under passing names, each in the folder where it is going to lie.

    A context manager: leaving it removes those that have not been put in their places.
    """

    def __init__(self) -> None:
        self._written: list[Path] = []

    def __enter__(self: D) -> D:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._written:
            path.unlink(missing_ok=True)

    def write(self, folder: Path, write: Callable[[Path], None]) -> Path:
        """Have a file written, and see to it that it is on the disk; returns where."""
        path = folder / f".{uuid.uuid4().hex}.tmp"
        self._written.append(path)
        path.touch()
        mode = path.stat().st_mode  # what the user's umask gives; safetensors makes files for the owner alone
        write(path)
        path.chmod(stat.S_IMODE(mode))
        _flush(path)
        return path


def write_together(writers: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write files so that what goes wrong while one is written leaves none of them changed."""
    with Drafts() as drafts:
        places = {drafts.write(path.parent, write): path for path, write in writers.items()}
        for draft, path in places.items():
            os.replace(draft, path)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    write_together({path: lambda draft: _write_text(draft, text)})


class Writer(Drafts):
    """Writes the two files of a checkpoint into a folder; nothing is visible before `commit`.

    A context manager: leaving it removes whatever did not become part of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._new: Path | None = None

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._new is not None:
            self._new.unlink(missing_ok=True)

    def weights(self, write: Callable[[Path], None]) -> tuple[str, int, str]:
        """Write the weights; returns the name that they have from now on, their size and their SHA-256."""
        path = self.write(self.folder, write)
        digest, size = sha256(path), path.stat().st_size
        final = self.folder / f"model-{digest[:16]}.safetensors"
        new = not os.path.lexists(final)
        os.replace(path, final)
        if new:
            self._new = final
        return final.name, size, digest

    def commit(self, name: str, content: str, previous: str | None) -> None:
        """Put the manifest in place, which makes the new checkpoint valid, and drop the old weights."""
        path = self.write(self.folder, lambda draft: _write_text(draft, content))
        _flush_names(self.folder)
        os.replace(path, self.folder / name)
        kept, self._new = self._new, None
        _flush_names(self.folder)
        old = None if previous is None or not _OWN_WEIGHTS.fullmatch(previous) else self.folder / previous
        if old is not None and kept is not None and old != kept:
            _remove(old)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Files of saves that were killed; a day old, since others may be saving here as well."""
        for path in self.folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                _remove(path, older_than=_DAY)


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def _remove(path: Path, older_than: float = 0) -> None:
    try:
        if not older_than or time.time() - path.lstat().st_mtime > older_than:
            path.unlink(missing_ok=True)
    except OSError:  # on Windows a file in use stays; it does no harm
        pass
