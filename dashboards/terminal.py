"""``perfwatt top``: what the fleet does now, on a terminal of 80 by 24 or larger."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from analytics.subjects import By, Sort
from analytics.top import Line, Overview
from collector.errors import TelemetryError
from collector.options import warn
from collector.output import printable, width

_BARS: Final = "▁▂▃▄▅▆▇█"
_BARS_ASCII: Final = "_.-=+*%#"
_NEAR_LIMIT: Final = 0.97
_WAIT_S: Final = 0.1
_VIEWS: Final = {"d": By.DEVICE, "h": By.HOST, "w": By.WORKLOAD}


_SORTS: Final = {
    By.DEVICE: (Sort.POWER, Sort.UTILIZATION, Sort.TEMPERATURE, Sort.AGE, Sort.NAME),
    By.HOST: (Sort.POWER, Sort.UTILIZATION, Sort.TEMPERATURE, Sort.AGE, Sort.NAME),
    By.WORKLOAD: (Sort.POWER, Sort.TOKENS, Sort.JOULES, Sort.UTILIZATION, Sort.AGE, Sort.NAME),
}
_VALUE: Final[dict[Sort, Callable[[Line], float | None]]] = {
    Sort.POWER: lambda line: line.power_w,
    Sort.UTILIZATION: lambda line: line.utilization_ratio,
    Sort.TEMPERATURE: lambda line: line.temperature_c,
    Sort.TOKENS: lambda line: line.tokens_per_s,
    Sort.JOULES: lambda line: line.joules_per_token,
    Sort.AGE: lambda line: line.age_s,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a person chose to see."""

    by: By = By.DEVICE
    sort: Sort = Sort.POWER
    reverse: bool = False
    match: str = ""
    typing: bool = False
    first: int = 0


# ------------------------------------------------------------------------------------------------------------ a frame


def frame(
    seen: Overview, view: View, *, columns: int = 80, rows: int = 24, unicode: bool = True, tz: tzinfo = UTC
) -> Group:
    """One screen of at most *columns* by *rows*."""
    lines = chosen(seen.lines, view)
    room = max(rows - 4, 1)
    first = min(view.first, max(len(lines) - room, 0))
    shown = lines[first : first + room]
    grid = _grid(seen.by, columns, lines)
    body = [_head(seen, columns, tz), Text(grid.row(grid.titles, ""), style="bold reverse", overflow="crop")]
    top = max((value for line in lines for value in line.trend if value is not None), default=0.0)
    for line in shown:
        # Watts compare between lines; tokens of one model and another do not.
        own = top if seen.by is not By.WORKLOAD else max((v for v in line.trend if v is not None), default=0.0)
        trend = sparkline(line.trend, own, grid.trend, unicode=unicode)
        style = "red" if line.stale else "yellow" if _near_limit(line) else ""
        body.append(Text(grid.row(grid.cells(line), trend), style=style, overflow="crop"))
    if not lines:
        body.append(
            Text(f"nothing {'matches ' + view.match if view.match else 'was measured'} in {_span(seen.window_s)}")
        )
    body.append(Text())
    body.append(_foot(view, first, len(shown), len(lines)))
    for text in body:
        text.no_wrap = True
        text.truncate(columns)
    return Group(*body)


def chosen(lines: Sequence[Line], view: View) -> list[Line]:
    """The lines that match, in order; what has no value comes last either way."""
    match = view.match.lower()
    found = [line for line in lines if match in f"{line.name} {line.about}".lower()]
    if view.sort is Sort.NAME:
        return sorted(found, key=lambda line: line.name, reverse=view.reverse)
    value = _VALUE[view.sort]
    known = [(number, line) for line in found if (number := value(line)) is not None]
    known.sort(key=lambda pair: (pair[0] if view.reverse else -pair[0], pair[1].name))
    return [line for _, line in known] + [line for line in found if value(line) is None]


def sparkline(values: Sequence[float | None], top: float, columns: int, *, unicode: bool = True) -> str:
    """*values* as bars from 0 to *top*, the newest *columns* of them; a gap is a space, never a low bar."""
    bars = _BARS if unicode else _BARS_ASCII
    tail = values[-columns:] if columns > 0 else ()
    return "".join(
        " " if value is None else bars[min(int(value / top * len(bars)), len(bars) - 1) if top > 0 else 0]
        for value in tail
    )


def _head(seen: Overview, columns: int, tz: tzinfo) -> Text:
    parts = [watts(seen.power_w) if seen.power_w is not None else "power unknown"]
    parts.append(f"{seen.devices} device{'s' if seen.devices != 1 else ''}")
    parts += [f"{seen.stale} stale"] if seen.stale else []
    parts += [f"{seen.modelled} modelled"] if seen.modelled else []
    when = datetime.fromtimestamp(seen.now_ns / 1e9, tz).strftime("%H:%M:%S %Z")
    left = f"perfwatt top  {'  '.join(parts)}"
    right = f"by {seen.by.value}, {_span(seen.window_s)}  {when}"
    if len(left) + len(right) + 2 > columns:
        right = when
    text = Text(left + " " * max(columns - len(left) - len(right), 2) + right, style="bold")
    if seen.stale:
        at = left.index(f"{seen.stale} stale")
        text.stylize("red", at, at + len(f"{seen.stale} stale"))
    return text


def _foot(view: View, first: int, shown: int, lines: int) -> Text:
    if view.typing:
        return Text(f"filter: {view.match}_   Enter keeps it, Esc drops it", style="bold")
    place = f"{first + 1}-{first + shown} of {lines}" if shown < lines else f"{lines}"
    order = f"s sort: {view.sort.value}{' (least first)' if view.reverse else ''}"
    match = f"/ filter: {view.match}" if view.match else "/ filter"
    return Text(f"d h w view   {order}   r reverse   {match}   q quit   {place}", style="dim")


def _near_limit(line: Line) -> bool:
    return (
        line.power_w is not None
        and bool(line.power_limit_w)
        and line.power_w >= _NEAR_LIMIT * (line.power_limit_w or 0)
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Columns with their widths; what is left of the screen is for the trend."""

    titles: tuple[str, ...]
    widths: tuple[int, ...]
    trend: int
    trend_title: str
    make: Callable[[Line], tuple[str, ...]]

    def cells(self, line: Line) -> tuple[str, ...]:
        """The cells of *line*."""
        return self.make(line)

    def row(self, cells: tuple[str, ...], trend: str) -> str:
        """A row of the screen; the first two columns stand left, numbers right."""
        parts = []
        for at, (cell, wide) in enumerate(zip(cells, self.widths, strict=True)):
            text = cut(cell, wide) if at == 1 else shortened(cell, wide)
            pad = " " * (wide - width(text))
            parts.append(text + pad if at < 2 else pad + text)
        last = self.trend_title.ljust(self.trend)[: self.trend] if cells is self.titles else trend.rjust(self.trend)
        return " ".join([*parts, last])


def _grid(by: By, columns: int, lines: Sequence[Line]) -> _Grid:
    if by is By.WORKLOAD:
        titles: tuple[str, ...] = ("WORKLOAD", "WHOSE", "DEV", "POWER", "UTIL", "TOKENS/S", "J/TOKEN", "AGE")
        numbers, name = (3, 7, 4, 8, 7, 5), "TOKENS/S"
    else:
        what = ("DEVICE", "WHERE") if by is By.DEVICE else ("HOST", "WHAT")
        titles = (*what, "POWER", "%LIM", "UTIL", "°C", "MEM", "AGE")
        numbers, name = (7, 4, 4, 3, 4, 5), "POWER"
    free = columns - sum(numbers) - len(titles)
    # The trend gets a quarter of what the numbers leave, and what the names do not need.
    room = free - max(min(free // 4, 60), 8)
    named = max((width(printable(line.name)) for line in lines), default=8)
    told = max((width(printable(line.about)) for line in lines), default=8)
    first = min(max(named, 6), 44, max(room - min(told, room // 2), 6))
    second = max(min(told, 44, room - first), 4)
    trend = min(max(free - first - second, 0), 60)
    make = _workload_cells if by is By.WORKLOAD else _device_cells
    return _Grid(titles, (first, second, *numbers), trend, name, make)


def _device_cells(line: Line) -> tuple[str, ...]:
    share = line.power_w / line.power_limit_w if line.power_w is not None and line.power_limit_w else None
    return (
        line.name,
        line.about,
        watts(line.power_w),
        percent(share),
        percent(line.utilization_ratio),
        "-" if line.temperature_c is None else f"{line.temperature_c:.0f}",
        percent(line.memory_ratio),
        _age(line),
    )


def _workload_cells(line: Line) -> tuple[str, ...]:
    return (
        line.name,
        line.about,
        str(line.devices),
        watts(line.power_w),
        percent(line.utilization_ratio),
        "-" if line.tokens_per_s is None else f"{line.tokens_per_s:,.0f}",
        "-" if line.joules_per_token is None else f"{line.joules_per_token:.3g}",
        _age(line),
    )


def watts(value: float | None) -> str:
    """A power with its unit, in seven columns."""
    if value is None:
        return "-"
    for size, unit in ((1e6, "MW"), (1e3, "kW")):
        if value >= 0.99995 * size:
            return f"{value / size:.{2 if value < 100 * size else 1}f}{unit}"
    return f"{value:.0f} W" if value >= 10 else f"{value:.1f} W"


def percent(ratio: float | None) -> str:
    """A share as people read it."""
    return "-" if ratio is None else f"{ratio * 100:.0f}%"


def shortened(text: str, columns: int) -> str:
    """*text* in at most *columns*, its middle left out: ids differ at their ends."""
    text = printable(text)
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        middle = len(text) // 2
        text = text[:middle] + text[middle + 1 :]
    return text[: (len(text) + 1) // 2] + "…" + text[(len(text) + 1) // 2 :]


def cut(text: str, columns: int) -> str:
    """*text* in at most *columns*, its end left out."""
    text = printable(text)
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def _age(line: Line) -> str:
    return "never" if line.age_s is None else _span(line.age_s)


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


# -------------------------------------------------------------------------------------------------------------- live


def pressed(view: View, key: str) -> View | None:
    """What *view* becomes by a key; None to quit."""
    if view.typing:
        if key in ("\r", "\n"):
            return replace(view, typing=False)
        if key == "\x1b":
            return replace(view, typing=False, match="")
        if key in ("\x7f", "\b"):
            return replace(view, match=view.match[:-1], first=0)
        return replace(view, match=view.match + key, first=0) if key.isprintable() and len(key) == 1 else view
    if key in ("q", "Q", "\x1b"):
        return None
    if key in _VIEWS:
        by = _VIEWS[key]
        return replace(view, by=by, first=0, sort=view.sort if view.sort in _SORTS[by] else Sort.POWER)
    if key == "s":
        sorts = _SORTS[view.by]
        return replace(view, sort=sorts[(sorts.index(view.sort) + 1) % len(sorts)], first=0)
    if key == "r":
        return replace(view, reverse=not view.reverse, first=0)
    if key == "/":
        return replace(view, typing=True)
    moves = {"\x1b[B": 1, "j": 1, "\x1b[A": -1, "k": -1, "\x1b[6~": 15, " ": 15, "\x1b[5~": -15, "g": -(10**9)}
    return replace(view, first=max(view.first + moves[key], 0)) if key in moves else view


def once(fetch: Callable[[By], Overview], view: View, *, tz: tzinfo = UTC) -> None:
    """
    Print one frame, as wide as the terminal or 80 columns, with every line.

    Raises: TelemetryError, from *fetch*.
    """
    console = Console(highlight=False, soft_wrap=True)
    seen = fetch(view.by)
    if seen.trouble:
        warn(printable(seen.trouble))
    columns = console.width if console.is_terminal else int(os.environ.get("COLUMNS", "80"))
    rows = len(seen.lines) + 4
    console.print(
        frame(seen, view, columns=columns, rows=rows, unicode=_speaks_unicode(console), tz=tz), soft_wrap=True
    )


def live(fetch: Callable[[By], Overview], view: View, *, every_s: float = 2.0, tz: tzinfo = UTC) -> None:
    """
    Show frames until q is pressed; an error of *fetch* is shown, and the next try may do better.

    Raises: TelemetryError, from the first *fetch*.
    """
    console = Console(highlight=False)
    seen, due, trouble = fetch(view.by), time.monotonic() + every_s, ""
    pending: Future[Overview] | None = None
    with (
        ThreadPoolExecutor(max_workers=1) as worker,
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False) as display,
    ):
        while True:
            display.update(_screen(console, seen, view, trouble or seen.trouble, tz), refresh=True)
            for key in keys():
                changed = pressed(view, key)
                if changed is None:
                    return
                if changed.by is not view.by:
                    due = 0.0
                view = changed
            if pending is not None and pending.done():
                try:
                    seen, trouble = pending.result(), ""
                except TelemetryError as error:
                    trouble = str(error)
                pending = None
            if pending is None and (time.monotonic() >= due or seen.by is not view.by):
                pending, due = worker.submit(fetch, view.by), time.monotonic() + every_s


def _screen(console: Console, seen: Overview, view: View, trouble: str, tz: tzinfo) -> Group:
    size = console.size
    # Until the other view's data is there, the old is drawn under its own name.
    shown = replace(view, by=seen.by, sort=view.sort if view.sort in _SORTS[seen.by] else Sort.POWER)
    drawn = frame(
        seen, shown, columns=size.width, rows=size.height - bool(trouble), unicode=_speaks_unicode(console), tz=tz
    )
    return Group(Text(printable(trouble), style="red", overflow="ellipsis", no_wrap=True), drawn) if trouble else drawn


def _speaks_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


@contextmanager
def _keys() -> Iterator[Callable[[], list[str]]]:
    """Single keys from the terminal, which gets its old manners back afterwards."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> list[str]:
        ready, _, _ = select.select([descriptor], [], [], _WAIT_S)
        return list(_split(os.read(descriptor, 1024).decode("utf-8", "replace"))) if ready else []

    try:
        tty.setcbreak(descriptor)
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _split(text: str) -> Iterator[str]:
    """Keys out of what was read at once: an arrow is three characters or more."""
    while text:
        size = 1
        if text.startswith("\x1b[") and len(text) > 2:
            size = 3 if text[2].isalpha() else text.find("~") + 1 or len(text)
        yield text[:size]
        text = text[size:]
