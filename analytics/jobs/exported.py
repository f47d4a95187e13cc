"""How jobs stand, for Prometheus: a file for node_exporter's textfile collector, replaced in one rename."""

import os
import time
from pathlib import Path

import polars as pl

from collector.catalogue import (
    JOB_DUE_WINDOWS,
    JOB_FAILED_WINDOWS,
    JOB_LAST_SUCCESS,
    JOB_SECONDS,
    JOBS_LAST_RUN,
    Metric,
)
from collector.errors import ConfigError

_SHOWN: tuple[tuple[Metric, str], ...] = (
    (JOB_LAST_SUCCESS, "last_success_s"),
    (JOB_DUE_WINDOWS, "due"),
    (JOB_FAILED_WINDOWS, "failed"),
    (JOB_SECONDS, "took_s"),
)


def metrics_page(status: pl.DataFrame, now_ns: int) -> str:
    """
    The exposition of *status*, as `analytics.jobs.running.status` gives it; what has no value has no series.

    The label is ``name``, because Prometheus keeps ``job`` for itself.
    """
    told = status.with_columns(last_success_s=pl.col("last_success").to_physical() / 1e9)
    lines = [*_head(JOBS_LAST_RUN), f"{JOBS_LAST_RUN.prometheus} {now_ns / 1e9!r}"]
    for metric, column in _SHOWN:
        lines += _head(metric)
        lines += [
            f'{metric.prometheus}{{name="{name}"}} {value!r}'
            for name, value in told.select("job", column).iter_rows()
            if value is not None
        ]
    return "\n".join(lines) + "\n"


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.prometheus} {metric.help}", f"# TYPE {metric.prometheus} {metric.kind.value}"]


def write_metrics(path: Path, status: pl.DataFrame) -> None:
    """
    Write the page to *path*.

    Raises: ConfigError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(metrics_page(status, time.time_ns()), encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError("--metrics", f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
