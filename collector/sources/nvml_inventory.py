"""Which NVIDIA boards there are: at opening, and again whenever asked, without waking one that sleeps."""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pynvml

from collector.errors import DeviceGone, ReadRetry, SourceError
from collector.sample import Reading
from collector.sources import Source
from collector.sources.nvml_board import PCI_DEVICES, Board, asleep, is_suspended, text_of
from collector.sources.nvml_library import ask, load
from collector.sources.nvml_settings import Settings

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"
_REOPEN_S: Final = 60.0
"""How often the library is opened anew while a board is missing: it lists boards when it is opened, not later."""


class Sleeper:
    """
    A board that slept when the agent started: the library was never asked about it, so its name is its address.

    It is opened when it is found awake, by whatever woke it.
    """

    def __init__(self, bus: str, power: Path, wake: Callable[[str], Board | None]) -> None:
        self.name = f"nvml:{bus}"
        self._bus, self._power, self._wake = bus, power, wake
        self._board: Board | None = None

    def read(self) -> Reading:
        """Read the board, once awake. Raises: as a board does."""
        if is_suspended(self._power):
            raise asleep(self.name)
        if self._board is None or self._board.gone:
            self._board = self._wake(self._bus)
        if self._board is None:
            raise ReadRetry(f"{self.name} is awake and cannot be opened")
        return replace(self._board.read(), source=self.name)


class Inventory:
    """The boards of this machine, and the library while any of them is awake."""

    def __init__(
        self, settings: Settings, host: str, *, monotonic: Callable[[], float], wall_ns: Callable[[], int]
    ) -> None:
        self._settings, self._host = settings, host
        self._monotonic, self._wall_ns = monotonic, wall_ns
        self._library: ctypes.CDLL | None = None
        self._boards: dict[str, Board] = {}
        self._sleepers: dict[str, Sleeper] = {}
        self._reopen_s = monotonic() + _REOPEN_S

    def scan(self) -> Sequence[Source]:
        """The boards there are: those known before as the same objects, new ones opened."""
        known = _pci_boards(self._settings.sysfs)
        sleeping = {bus for bus, power in known.items() if is_suspended(power)}
        for bus in sorted(sleeping - {board.bus for board in self._boards.values()} - set(self._sleepers)):
            self._sleepers[bus] = Sleeper(bus, known[bus], self._wake)
        sleepers = [sleeper for bus, sleeper in self._sleepers.items() if bus in known]
        if known and set(self._sleepers).issuperset(known):
            return sleepers  # the library is opened when the first one wakes: opening it may wake them
        self._open()
        found: list[Source] = []
        for handle in _handles(known, sleeping):
            board = self._board(handle)
            if board is not None and board.bus not in self._sleepers:
                found.append(board)
        # A board that sleeps was not asked for; it is still there.
        found += [board for board in self._boards.values() if board.bus in sleeping and not board.gone]
        return [*found, *sleepers]

    def _open(self) -> None:
        if self._library is None:
            self._library = load(self._settings.library)
        elif self._lacks_one() and self._monotonic() >= self._reopen_s:
            self._reopen()

    def _wake(self, bus: str) -> Board | None:
        self._open()
        handle = _try(pynvml.nvmlDeviceGetHandleByPciBusId, bus.encode())
        return None if handle is None else self._board(handle)

    def close(self) -> None:
        """Give everything back to the library."""
        for board in self._boards.values():
            _quietly(board.close)
        self._boards = {}
        if self._library is not None:
            self._library = None
            _quietly(pynvml.nvmlShutdown)

    def _board(self, handle: Any) -> Board | None:
        assert self._library is not None
        try:
            key = ask(pynvml.nvmlDeviceGetUUID, handle)
            board = self._boards.get(key)
            if board is None or board.gone:
                board = Board(
                    self._library,
                    handle,
                    host=self._host,
                    settings=self._settings,
                    monotonic=self._monotonic,
                    wall_ns=self._wall_ns,
                )
        except SourceError:
            return None  # lost, or not readable now: the next scan looks again
        self._boards[key] = board
        return board

    def _lacks_one(self) -> bool:
        return any(board.gone for board in self._boards.values())

    def _reopen(self) -> None:
        """Open the library anew, so that it lists what is there now; the boards in use keep what they integrated."""
        self._reopen_s = self._monotonic() + _REOPEN_S
        for board in self._boards.values():
            _quietly(board.close)
        _quietly(pynvml.nvmlShutdown)
        self._library = None
        self._library = load(self._settings.library)
        known_buses = _pci_boards(self._settings.sysfs)
        for handle in _handles(known_buses, {bus for bus, power in known_buses.items() if is_suspended(power)}):
            try:
                known = self._boards.get(ask(pynvml.nvmlDeviceGetUUID, handle))
                if known is not None and not known.gone:
                    known.attach(self._library, handle)
            except SourceError:
                continue  # its own read says why


def _quietly(close: Callable[[], Any]) -> None:
    try:
        close()
    except (SourceError, pynvml.NVMLError):
        return  # the driver is gone, and what it lent with it


def _pci_boards(sysfs: Path) -> Mapping[str, Path]:
    """The ``power`` folder of each NVIDIA display controller, by PCI address; empty where sysfs does not list them."""
    found: dict[str, Path] = {}
    for device in sorted((sysfs / PCI_DEVICES).glob("*")):
        if text_of(device / "vendor") == _NVIDIA and (text_of(device / "class") or "").startswith(_DISPLAY):
            found[device.name] = device / "power"
    return found


def _handles(known: Mapping[str, Path], sleeping: set[str]) -> Iterator[Any]:
    """A handle of each board that is awake. By address where sysfs knows them: by index, a sleeping one would wake."""
    if sleeping:
        for bus in known:
            if bus not in sleeping and (handle := _try(pynvml.nvmlDeviceGetHandleByPciBusId, bus.encode())) is not None:
                yield handle
        return
    for index in range(ask(pynvml.nvmlDeviceGetCount) or 0):
        if (handle := _try(pynvml.nvmlDeviceGetHandleByIndex, index)) is not None:
            yield handle


def _try(function: Callable[..., Any], argument: Any) -> Any:
    try:
        return ask(function, argument)
    except (DeviceGone, ReadRetry):
        return None
