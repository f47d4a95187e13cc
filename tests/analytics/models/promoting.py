"""
A process that promotes a version, to be killed: ``promoting.py ROOT NAME VERSION POINT``.

POINT is how many file operations it may do before it kills itself.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

from analytics.models import versions
from collector.store.files import Files

done = count(1)


def step() -> None:
    if next(done) > int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)


sync = Files.sync


def killed_before(self: Files, path: Path) -> None:
    step()
    sync(self, path)


def commit(self: Files, temporary: Path, final: Path) -> None:
    step()
    self.sync(temporary)
    step()
    temporary.replace(final)
    step()
    self.sync_folder(final.parent)


Files.sync = killed_before  # type: ignore[method-assign]
Files.commit = commit  # type: ignore[method-assign]
versions.promote(sys.argv[1], sys.argv[2], sys.argv[3], by="test", reason="to be killed", force=True)
