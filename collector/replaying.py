"""
A store's recording as a source: where the replay meets the store.

Sources know nothing of stores, and a worker loads its source by name; so the two are put together here.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from collector.errors import SourceUnavailable, StoreError
from collector.sources import Options, Sources
from collector.sources import replay as source
from collector.store import Store
from collector.store.recorded import extent, recorded


def check_options(options: Options) -> None:
    """
    Whether the options of a ``[[source]]`` table are right.

    Raises: ConfigError.
    """
    source.check_options(options)


@contextmanager
def open_replay(options: Options, host: str, *, clock_ns: Callable[[], int] = time.time_ns) -> Iterator[Sources]:
    """
    The recording in the store at the option *root*.

    Samples keep the hosts that they were recorded on; *host* is only the machine that replays them.
    Raises: ConfigError, SourceUnavailable.
    """
    del host
    chosen = source.parse(options)
    try:
        store = Store(chosen.root)
        ends = extent(store)
    except StoreError as error:
        raise SourceUnavailable(str(error)) from error

    def rows(table: str, start_ns: int, end_ns: int) -> Iterable[dict[str, Any]]:
        return recorded(store, table, start_ns, end_ns)

    with source.open_replay(chosen, rows, ends, clock_ns=clock_ns) as sources:
        yield sources
