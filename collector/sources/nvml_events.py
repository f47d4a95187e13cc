"""XID errors: what the driver says on a board's behalf when something broke, and what the codes mean."""

import ctypes
from typing import Any, Final

import pynvml

from collector.sample import Severity
from collector.sources.nvml_library import ask, bind

_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL

XIDS: Final[dict[int, tuple[Severity, str]]] = {
    13: (_INFO, "a program's kernel failed on the graphics engine"),
    31: (_INFO, "a program touched memory that is not its own"),
    32: (_WARNING, "a command buffer was corrupt: bus or driver"),
    38: (_WARNING, "driver firmware error"),
    43: (_INFO, "a program's work was stopped after a fault of its own"),
    45: (_INFO, "a program's work was cleaned up after it ended or failed"),
    48: (_CRITICAL, "memory error that ECC could not correct: reset the device"),
    61: (_WARNING, "internal micro-controller stopped at a breakpoint"),
    62: (_CRITICAL, "internal micro-controller halted: reset the device"),
    63: (_WARNING, "a memory row or page was set aside; it takes effect at the next reset"),
    64: (_CRITICAL, "a memory row or page could not be set aside: replace the device if it recurs"),
    68: (_WARNING, "video decoder error"),
    69: (_INFO, "a program gave the graphics engine a wrong command"),
    74: (_CRITICAL, "NVLink error: check the link, reset the device"),
    79: (_CRITICAL, "the device fell off the bus: power, heat, seating or hardware"),
    92: (_WARNING, "many memory errors that ECC corrected"),
    94: (_WARNING, "memory error contained to one program: restart it, reset the device when it is drained"),
    95: (_CRITICAL, "memory error not contained: reset the device"),
    109: (_WARNING, "a context did not switch in time"),
    110: (_CRITICAL, "security fault"),
    119: (_CRITICAL, "the GSP firmware did not answer: reset the device"),
    120: (_CRITICAL, "GSP firmware error: reset the device"),
    121: (_WARNING, "error on the link between chips that was corrected"),
    122: (_WARNING, "the board's flash memory did not answer (SPI RMU)"),
    123: (_WARNING, "the board's flash memory did not answer (SPI PMU)"),
    136: (_WARNING, "an NVLink could not be trained"),
    137: (_WARNING, "an NVLink peer's access was refused"),
    140: (_CRITICAL, "memory error that was not recovered: reset the device"),
    143: (_CRITICAL, "the device could not be initialised"),
    144: (_WARNING, "NVLink error (SAW)"),
    145: (_WARNING, "NVLink error (RLW)"),
    149: (_CRITICAL, "NVLink error (NETIR)"),
    154: (_WARNING, "what the device needs to recover has changed: see its recovery action"),
}


def xid(code: int) -> tuple[Severity, str]:
    """How much an XID asks of a person, and what it means; an unknown one is a warning."""
    return XIDS.get(code, (_WARNING, "XID error; see the driver's list of XIDs"))


class XidWatch:
    """
    The XIDs of one board, from an event set of its own: no board waits for another's.

    `works` is false where the driver does not give events to this process.
    """

    def __init__(self, library: ctypes.CDLL, handle: Any) -> None:
        self.works = False
        self._set = ask(pynvml.nvmlEventSetCreate)
        if self._set is None:
            return
        if ask(_register, handle, self._set):
            self.works = True
        else:
            self.close()
            return
        # Bound, because nothing to tell is an exception in nvidia-ml-py, and there is nothing at nearly every tick.
        self._event = pynvml.c_nvmlEventData_t()
        self._wait = bind(library, "nvmlEventSetWait_v2", self._set, ctypes.byref(self._event), ctypes.c_uint(0))

    def take(self) -> list[int]:
        """The codes that came since the last call; never waits."""
        codes: list[int] = []
        # A timeout means that there is nothing more; with any other error the reads of this tick fail and say why.
        while self._set is not None and self._wait() == pynvml.NVML_SUCCESS:
            if self._event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                codes.append(int(self._event.eventData))
        return codes

    def close(self) -> None:
        """Give the event set back."""
        if self._set is not None:
            events, self._set = self._set, None
            ask(pynvml.nvmlEventSetFree, events)


def _register(handle: Any, events: Any) -> bool:
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    return True
