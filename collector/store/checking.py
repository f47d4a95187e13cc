"""What is wrong with a store, segment by segment; `perfwatt doctor` shows it."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from collector.errors import StoreError
from collector.store import sql
from collector.store.engine import Engine, as_store_error, check_version
from collector.store.parquet import is_whole
from collector.store.schema import TABLES
from collector.store.segments import EXPIRED, day_folder, days, present, visible


@dataclass(frozen=True, slots=True)
class Problem:
    """A file of a store, and what is wrong with it."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def check(root: Path, *, whole: bool = False) -> list[Problem]:
    """
    Look at every segment that makes up a table: readable, of a known schema version, within the time its name says.

    With *whole* every value is decoded, which finds damage within a file; without, only footers are read.
    """
    problems: list[Problem] = []
    engine = Engine()
    try:
        for table in TABLES.values():
            for day in days(root, table.name):
                for segment in visible(present(root, table.name, day)):
                    try:
                        with as_store_error(segment.path):
                            check_version(segment.path, engine.versions([segment.path])[str(segment.path)])
                            if whole:
                                engine.run(f"SELECT max(hash(row_)) FROM {sql.read_segments([segment.path])} AS row_")
                                _verify(engine, segment.path)
                    except StoreError as error:
                        problems.append(Problem(segment.path, str(error).removeprefix(f"{segment.path}: ")))
                problems += _foreign(root, table.name, day)
    finally:
        engine.close()
    return problems


def _verify(engine: Engine, path: Path) -> None:
    """Compare the checksums of pages: no reader does, and what is not compressed decodes to something in any case."""
    content = path.read_bytes()
    for column, words_at, data_at, start, size in engine.run(sql.pages(path)):
        pages = [content[data_at : start + size], *([content[words_at:data_at]] if words_at is not None else [])]
        if not all(map(is_whole, pages)):
            raise StoreError(path, f"column {column} is damaged: its checksum is another")


def _foreign(root: Path, table: str, day: date) -> list[Problem]:
    known = {segment.path for segment in present(root, table, day)}
    folder = day_folder(root, table, day)
    if (folder / EXPIRED).exists():
        return []
    return [
        Problem(path, "not named as a segment is; nothing reads it")
        for path in sorted(folder.iterdir())
        if path not in known and not path.name.startswith(".")
    ]
