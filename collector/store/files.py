"""The few file operations that durability rests on, in one place so that a test can make them fail."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from collector.errors import StoreBusy


class Files:
    """The file system. A test passes a subclass that is full, read-only or slow."""

    def make_folder(self, path: Path) -> None:
        """Make *path* and its parents; a new folder's entry is made durable in its parent."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        path.mkdir(exist_ok=True)
        self.sync_folder(path.parent)

    def commit(self, temporary: Path, final: Path) -> None:
        """Make *temporary* durable and give it its final name: from then on it is part of the store, whole."""
        self.sync(temporary)
        temporary.replace(final)
        self.sync_folder(final.parent)

    def sync(self, path: Path) -> None:
        """Flush a file's content to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Flush a folder's entries to the disk."""
        self.sync(path)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already."""
        path.unlink(missing_ok=True)


FILES = Files()


class WriterLock:
    """
    The right to write under one name; held by one process, freed by the kernel when it dies.

    Raises: StoreBusy when another holds it, OSError when the folder cannot be written.
    """

    def __init__(self, root: Path, writer: str, *, wait_s: float = 0.0, files: Files = FILES) -> None:
        folder = root / ".locks"
        files.make_folder(folder)
        path = folder / f"{writer}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.02)
                    continue
                holder = os.pread(self._descriptor, 32, 0).decode().strip() or "unknown"
                os.close(self._descriptor)
                raise StoreBusy(path, f"writer {writer!r} is open already, in process {holder}") from None
        try:
            # The holder's number is a courtesy to whoever is refused; a full disk must not cost the lock.
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Give the name back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
