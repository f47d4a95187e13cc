"""
The error tree.

    TelemetryError
    ├── SourceError
    │   ├── SourceUnavailable   the library, endpoint or file is not there: try to open again later
    │   ├── ReadRetry           this read failed, the next may not: a gap with a reason
    │   └── DeviceGone          the device left: an event and an ended series
    ├── ConfigError             a key of a configuration file is wrong
    ├── StoreError              a path of the store cannot be read or written
    │   └── StoreBusy           another process writes under that name now: try again later
    ├── ImportFailed            a file of history cannot be taken in as it is
    ├── QueryError              a statement was refused, failed or ran over a limit
    ├── NotEnoughData           the measurements do not suffice for an answer: measure more, or otherwise
    └── OverBudget              a change would cost more than its limits allow: what is in use stays

A class exists because a caller acts differently on it.
"""

from pathlib import Path


class TelemetryError(Exception):
    """Something a user can act on; its text says what, where, and the limit."""


class SourceError(TelemetryError):
    """A source could not answer."""

    reason = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class SourceUnavailable(SourceError):
    """The library, endpoint or file behind a source is not there."""

    reason = "unavailable"


class ReadRetry(SourceError):
    """One read failed; the source stays."""

    reason = "read_failed"


class DeviceGone(SourceError):
    """The device left (fell off the bus, was unplugged, its partition was destroyed)."""

    reason = "device_gone"


class ConfigError(TelemetryError):
    """A configuration key has an unknown name, a wrong type or a value out of range."""

    def __init__(self, key: str, message: str, *, path: Path | str | None = None) -> None:
        self.key = key
        self.path = path
        super().__init__(f"{path}: {key}: {message}" if path else f"{key}: {message}")


class StoreError(TelemetryError):
    """A path of the store cannot be read or written, or was written by a newer perfwatt."""

    def __init__(self, path: Path | str, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class StoreBusy(StoreError):
    """Another process writes under the same name now."""


class ImportFailed(TelemetryError):
    """A file cannot be imported as it is; nothing of it was stored."""

    def __init__(self, path: Path | str, message: str, *, line: int | None = None) -> None:
        self.path = path
        self.line = line
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")


class QueryError(TelemetryError):
    """A statement over the store was refused, failed, or ran over a limit."""


class NotEnoughData(TelemetryError):
    """The measurements do not suffice for an answer; its text says what is there and what is needed."""


class OverBudget(TelemetryError):
    """A change would cost more than its limits allow, so that what is in use stays; its text says which."""
