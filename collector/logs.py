"""
Log lines for people and machines: logfmt or JSON, to stderr.

An event is a constant lower-case sentence and its fields come in ``extra=``. Under systemd (JOURNAL_STREAM) a line
begins with its priority and has no time, since the journal keeps both.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Lines(logging.Formatter):
    """One line for each record, whatever its fields hold; a traceback is one more field."""

    def __init__(self, *, form: str = "logfmt", journal: bool = False) -> None:
        super().__init__()
        self._form = form
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, object] = {}
        if not self._journal:
            moment = datetime.fromtimestamp(record.created, UTC)
            fields["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields |= {"level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        fields |= {key: value for key, value in record.__dict__.items() if key not in _OWN}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        line = json.dumps(fields, default=str) if self._form == "json" else logfmt(fields)
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._journal else line


def logfmt(fields: Mapping[str, object]) -> str:
    """
    *fields* as ``key=value`` words.

    >>> logfmt({"event": "source lost", "source": "nvml:GPU-1", "gaps": 3})
    'event="source lost" source=nvml:GPU-1 gaps=3'
    """
    return " ".join(f"{key}={_word(value)}" for key, value in fields.items())


def _word(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def configure(*, level: str, form: str, env: Mapping[str, str], stream: TextIO = sys.stderr) -> None:
    """Send every log line of this process to *stream*; called again, it replaces what was."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(form=form, journal="JOURNAL_STREAM" in env))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
