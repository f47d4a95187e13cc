"""The store as the pages share it: where it is, what time it is, which sites there are, and what was worked out."""

import shutil
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any, Final, Generic, TypeVar

import polars as pl

from analytics.fleet import Fleet
from analytics.frames import PART_ROWS, boards, read_fleet
from collector.store import Store

ALL: Final = "all"
"""The site of every host while there is no fleet.toml."""
NS: Final = 1_000_000_000

_KEPT: Final = 128

T = TypeVar("T")


class Stored:
    """
    The store at *root*, which need not exist yet, and what the pages worked out from it.

    *part_rows* bounds the readings that are looked at at once; *alertmanagers* are asked what they know of incidents.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        part_rows: int = PART_ROWS,
        alertmanagers: Sequence[str] = (),
    ) -> None:
        self.root = Path(root)
        self.alertmanagers = tuple(alertmanagers)
        self.part_rows = part_rows
        self.now_ns = clock_ns
        self._kept: OrderedDict[object, _Answer[Any]] = OrderedDict()
        self._wanted: dict[str, int] = {}
        self._ready: dict[str, tuple[float, Any]] = {}
        self._lock = Lock()
        self._nothing = mkdtemp(prefix="perfwatt-")
        weakref.finalize(self, shutil.rmtree, self._nothing, ignore_errors=True)

    def store(self) -> Store:
        """The store; while there is none, an empty one."""
        return Store(self.root if self.root.is_dir() else self._nothing)

    def newest_ns(self, table: str = "device_samples") -> int | None:
        """The time of the newest row of *table*."""
        segments = self.store().segments(table)
        return max((segment.last_ns for segment in segments if segment.last_ns is not None), default=None)

    def version(self, tables: Iterable[str], start_ns: int | None, end_ns: int | None) -> object:
        """
        What changes when one of *tables* has more in the window, or fleet.toml another text.

        A table as ``<allocations`` counts from its beginning: what began before a window may hold in it.
        """
        store = self.store()
        names = [
            segment.path.name
            for table in tables
            for segment in store.segments(table.removeprefix("<"), None if table.startswith("<") else start_ns, end_ns)
        ]
        return store.root, hash(tuple(names)), _modified(self.root / "fleet.toml")

    def kept(self, key: object, work_out: Callable[[], T]) -> T:
        """What *work_out* gives for *key*: worked out once, by whoever asks first, while others wait for that."""
        with self._lock:
            answer: _Answer[T] = self._kept.setdefault(key, _Answer())
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return answer.given(work_out)

    def prepare(self, name: str, value: object) -> None:
        """Somebody works out *value* again and again, so that nobody who asks for *name* has to."""
        self._ready[name] = time.monotonic(), value

    def prepared(self, name: str, within_s: float) -> Any:
        """What was prepared of *name* in the last *within_s*, or None."""
        at_s, value = self._ready.get(name, (-inf, None))
        return value if time.monotonic() - at_s <= within_s else None

    def want(self, window: str) -> None:
        """Somebody looks at a *window* that takes long to work out."""
        with self._lock:
            self._wanted[window] = self.now_ns()

    def wanted(self, within_s: float) -> list[str]:
        """The windows that somebody looked at *within_s*."""
        since_ns = self.now_ns() - round(within_s * NS)
        with self._lock:
            return [window for window, at_ns in self._wanted.items() if at_ns >= since_ns]

    def boards(self) -> pl.LazyFrame:
        """
        All devices as they were ever observed: as `analytics.frames.boards`.

        Raises: StoreError.
        """
        key = ("boards", self.version(("<devices", "<calibrations"), None, None))
        return self.kept(key, lambda: boards(self.store()))

    def sites(self, hosts: Iterable[str]) -> dict[str, str]:
        """
        The site of each host.

        Raises: ConfigError (fleet.toml).
        """
        known, named = self.fleet(), tuple(hosts)
        return dict.fromkeys(named, ALL) if known is None else dict.fromkeys(named, "unknown") | known.site_of(named)

    def fleet(self) -> Fleet | None:
        """
        What the fleet is, where the store has a fleet.toml.

        Raises: ConfigError.
        """
        path = self.root / "fleet.toml"
        modified = _modified(path)
        return None if modified is None else self.kept(("fleet", modified), lambda: read_fleet(path))


class _Answer(Generic[T]):
    """A value that is worked out when it is first asked for; where that failed, at the next asking."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: list[T] = []

    def given(self, work_out: Callable[[], T]) -> T:
        with self._lock:
            if not self._found:
                self._found.append(work_out())
            return self._found[0]


def utc(ns: int) -> datetime:
    """A moment in nanoseconds as a datetime."""
    return datetime.fromtimestamp(ns / NS, tz=UTC)


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
