"""
Is everything well: configuration, sources, agent, store, clock; and what to do where it is not.

Nothing here repairs. Each source is opened and read once by a child of its own (this module, run as a program), because
a vendor's library may hang, and because the agent's own way of opening is what is to be tried.
"""

import ctypes
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from collector.catalogue import GAPS, ROWS_DROPPED, SOURCE_AGE, SOURCE_UP, STORE_ERRORS
from collector.config import Config, SourceConfig, load
from collector.errors import ConfigError, StoreError, TelemetryError

Status = Literal["pass", "warn", "fail"]
STATUSES: Final[tuple[Status, ...]] = ("pass", "warn", "fail")

_NS: Final = 1_000_000_000
_LITTLE: Final = 0.05
_NEXT_TO_NOTHING: Final = 0.01
_FUTURE_S: Final = 5.0
_OLD_PERIODS: Final = 10.0
_MOST_NAMED: Final = 5
_STA_UNSYNC: Final = 0x0040


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    status: Status
    check: str
    message: str
    advice: str = ""


def examine(
    *,
    env: Mapping[str, str],
    store: Path | None = None,
    url: str | None = None,
    targets: Sequence[str] = (),
    whole: bool = False,
    timeout_s: float = 15.0,
) -> Iterator[Finding]:
    """Look at everything in turn; a finding comes as soon as it is known."""
    try:
        config = load(env=env)
        yield Finding("pass", "configuration", _files(config))
    except ConfigError as error:
        advice = "mend the key; perfwatt config schema tells what is allowed"
        yield Finding("fail", "configuration", str(error), advice)
        config = None
    if config is not None:
        for source in config.sources:
            yield source_finding(source, timeout_s)
    for target in [*(_targets(config) if config else ()), *targets]:
        yield target_finding(target, timeout_s)
    listen = config.prometheus.listen if config else ""
    if url or listen:
        secured = bool(config and config.prometheus.web_config)
        yield from agent_findings(url or f"{'https' if secured else 'http'}://{listen}/metrics", timeout_s)
    root = store or (Path(config.store.root) if config and config.store.root else None)
    if root is not None:
        yield from store_findings(root, whole=whole)
    yield clock_finding()


def _files(config: Config) -> str:
    files = sorted({origin for origin in config.origins.values() if origin.startswith("file ")})
    names = ", ".join(sorted(f"{source.name} ({source.type})" for source in config.sources))
    return f"{', '.join(files) or 'defaults, no file'}; sources: {names}"


# ------------------------------------------------------------------------------------------------------------ sources


def source_finding(source: SourceConfig, timeout_s: float) -> Finding:
    """Open *source* and read it once, in a child that is killed after *timeout_s*."""
    check = f"source {source.name}"
    order = json.dumps({"type": source.type, "options": dict(source.options), "deadline_s": timeout_s}, default=str)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "collector.doctor"],
            input=order,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("fail", check, f"hangs: no answer in {timeout_s:g} s", "is the driver or the network well?")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Finding("fail", check, f"crashed: {last[0]}", "run the agent with --log-level debug for more")
    if "error" in answer:
        return Finding("fail", check, answer["error"], _advice(answer["kind"], source))
    gaps = ", ".join(f"{count} {reason}" for reason, count in answer["gaps"].items())
    what = f"{answer['samples']} samples of {answer['devices']} devices in {answer['read_s']:.2f} s"
    if not answer["samples"]:
        return Finding("fail", check, f"reads nothing: {gaps or 'no samples'}", answer["message"])
    return Finding("warn", check, f"{what}; gaps: {gaps}", answer["message"]) if gaps else Finding("pass", check, what)


def _advice(kind: str, source: SourceConfig) -> str:
    if kind == "ConfigError":
        return "mend the option of this [[source]]"
    if source.type == "nvml":
        return "is the NVIDIA driver installed, and nvidia-ml-py (pip install 'perfwatt[nvidia]')?"
    return "is what the source reads there, and may this user read it?"


def _read_once(order: Mapping[str, Any]) -> dict[str, Any]:
    """What one look at a source brings; in the child."""
    import socket
    from importlib import import_module

    from collector.config import opener_of

    module, _, function = (opener_of(order["type"]) or "").partition(":")
    try:
        opener = getattr(import_module(module), function)
    except ImportError as error:
        return {"error": f"its library is not installed: {error}", "kind": "ImportError"}
    try:
        with opener(order["options"], socket.gethostname()) as sources:
            readings = list(sources.tick(float(order["deadline_s"])))
    except TelemetryError as error:
        return {"error": str(error), "kind": type(error).__name__}
    gaps = [reading.gap for reading in readings if reading.gap is not None]
    return {
        "samples": sum(len(reading.samples) for reading in readings),
        "devices": len({sample.subject for r in readings for sample in r.samples if sample.scope.value == "device"}),
        "gaps": Counter(gap.reason for gap in gaps),
        "message": next((gap.message for gap in gaps if gap.message), ""),
        "read_s": max((reading.read_s for reading in readings), default=0.0),
    }


def _targets(config: Config) -> Iterator[str]:
    for source in config.sources:
        if source.type == "scrape":
            for target in source.options.get("targets", ()):
                if isinstance(target, str):
                    yield target


def target_finding(url: str, timeout_s: float) -> Finding:
    """What the scrape source makes of an exporter, and which of its names it does not know."""
    from collector.sources.scrape import doctor

    check = f"target {url}"
    try:
        report = doctor(url, timeout_s=timeout_s)
    except TelemetryError as error:
        return Finding("fail", check, str(error), "write the address as http://host:port/metrics")
    if report.gap is not None:
        return Finding(
            "fail", check, f"{report.gap.reason}: {report.gap.message}", "does it run, and may it be reached?"
        )
    what = f"{report.samples} values of {len(report.devices)} devices by {', '.join(report.mappings) or 'no mapping'}"
    if not report.samples:
        return Finding("fail", check, f"nothing known: {what}", "name a mapping file in the source's option mapping")
    if report.unknown:
        more = f" and {len(report.unknown) - _MOST_NAMED} more" if len(report.unknown) > _MOST_NAMED else ""
        names = ", ".join(report.unknown[:_MOST_NAMED]) + more
        return Finding("warn", check, f"{what}; unknown: {names}", "a mapping file of your own can take them in")
    return Finding("pass", check, what)


# -------------------------------------------------------------------------------------------------------------- agent


def agent_findings(url: str, timeout_s: float) -> Iterator[Finding]:
    """What a running agent says of itself."""
    try:
        text = _page(url, timeout_s)
    except urllib.error.HTTPError as error:
        status: Status = "warn" if error.code in (401, 403) else "fail"
        yield Finding(status, "agent", f"{url}: {error.code} {error.reason}", "it answers, but not to this user")
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield Finding("fail", "agent", f"{url}: {reason}", "does the agent run? systemctl status perfwatt; --url")
        return
    values = _series(text)
    up = values.get(SOURCE_UP.prometheus, [])
    yield Finding(
        "pass" if up else "warn", "agent", f"{url}: {len(up)} source(s)", "" if up else "no source was read yet"
    )
    ages = dict(values.get(SOURCE_AGE.prometheus, []))
    for labels, value in up:
        age_s = ages.get(labels)
        said = "" if age_s is None else f", read {age_s:.1f} s ago"
        good = value == 1.0
        advice = "" if good else "perfwatt_gaps_total tells the reason; the log tells more"
        yield Finding("pass" if good else "fail", f"agent {labels}", ("up" if good else "down") + said, advice)
    for metric, words, advice in (
        (GAPS, "gaps since it started", "single gaps are harmless; many of one reason are not"),
        (ROWS_DROPPED, "rows dropped", "the store could not take them: look at its disk"),
        (STORE_ERRORS, "errors of the store", "look at the disk and the permissions of the store"),
    ):
        bad = [(labels, value) for labels, value in values.get(metric.prometheus, []) if value > 0]
        if bad:
            listed = ", ".join(f"{value:g} {labels}".strip() for labels, value in bad[:_MOST_NAMED])
            yield Finding("warn", "agent", f"{words}: {listed}", advice)


def _page(url: str, timeout_s: float) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address begins with http:// or https://")
    # Who answers is shown, not trusted: an agent's own certificate is seldom signed by anybody.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(url, timeout=timeout_s, context=context) as answer:
        body: bytes = answer.read(64 << 20)
    return body.decode("utf-8", "replace")


def _series(text: str) -> dict[str, list[tuple[str, float]]]:
    """The values of the agent's own metrics by name, with their labels as they are written."""
    found: dict[str, list[tuple[str, float]]] = {}
    for line in text.splitlines():
        if not line.startswith("perfwatt_"):
            continue
        head, _, value = line.rpartition(" ")
        name, _, labels = head.partition("{")
        found.setdefault(name, []).append((labels.removesuffix("}"), float(value)))
    return found


# -------------------------------------------------------------------------------------------------------------- store


def store_findings(root: Path, *, whole: bool, now_ns: int | None = None) -> Iterator[Finding]:
    """Whether the store is there, may be read and written, has room, is sound, and is fresh."""
    from collector.store import Store

    now_ns = time.time_ns() if now_ns is None else now_ns
    try:
        store = Store(root)
    except StoreError as error:
        yield Finding("fail", "store", str(error), "start the agent, import history, or give --store")
        return
    if not os.access(root, os.R_OK | os.X_OK):
        yield Finding("fail", "store", f"{root}: may not be read by this user", "chmod or chown it")
        return
    if os.access(root, os.W_OK):
        yield Finding("pass", "store", f"{root}: may be read and written")
    else:
        yield Finding("warn", "store", f"{root}: may be read, not written, by this user", "the agent's user must write")
    yield room_finding(root, shutil.disk_usage(root))
    yield from _content(store, whole, now_ns)


def room_finding(root: Path, usage: tuple[int, int, int]) -> Finding:
    """Whether the disk has room left."""
    total, _, free = usage
    share = free / total if total else 0.0
    message = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} ({share:.0%}) at {root}"
    if share < _LITTLE:
        status: Status = "fail" if share < _NEXT_TO_NOTHING else "warn"
        return Finding(status, "disk", message, "free some, or shorten store.retain_days")
    return Finding("pass", "disk", message)


def _content(store: Any, whole: bool, now_ns: int) -> Iterator[Finding]:
    from collector.store.presence import holdings

    try:
        problems = store.check(whole=whole)
    except StoreError as error:
        yield Finding("fail", "segments", str(error), "chmod or chown what cannot be read")
        return
    for problem in problems[:20]:
        yield Finding("fail", "segments", str(problem), "move it out of the store; the other segments are well")
    if len(problems) > 20:
        yield Finding("fail", "segments", f"and {len(problems) - 20} more", "perfwatt doctor -o json --whole")
    if problems:
        return
    held = holdings(store)
    rows = ", ".join(f"{holding.table} {holding.rows:,}" for holding in held)
    yield Finding("pass", "segments", f"{sum(h.segments for h in held)} sound; rows: {rows or 'none yet'}")
    last_ns = max((h.last_ns for h in held if h.table == "device_samples" and h.last_ns is not None), default=None)
    if last_ns is None:
        yield Finding("warn", "freshness", "no device was ever measured", "start the agent, or import history")
        return
    age_s = (now_ns - last_ns) / _NS
    if age_s < -_FUTURE_S:
        yield Finding(
            "warn", "freshness", f"the last row is {-age_s:.0f} s in the future", "is some host's clock wrong?"
        )
    elif age_s > 60 * _OLD_PERIODS:
        yield Finding("warn", "freshness", f"the last row is {age_s / 60:.0f} minutes old", "does the agent run?")
    else:
        yield Finding("pass", "freshness", f"the last row is {max(age_s, 0.0):.0f} s old")


# -------------------------------------------------------------------------------------------------------------- clock


class _Timex(ctypes.Structure):
    # struct timex of <sys/timex.h>; what follows `esterror` and `status` is padding enough for any kernel.
    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def clock_finding() -> Finding:
    """Whether the kernel holds the clock to be synchronised."""
    if sys.platform != "linux":
        return Finding("pass", "clock", "not checked on this system")
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return Finding("warn", "clock", f"cannot be asked: {os.strerror(ctypes.get_errno())}", "timedatectl tells more")
    if timex.status & _STA_UNSYNC:
        advice = "run chrony, ntpd or systemd-timesyncd; hosts are compared by their times"
        return Finding("warn", "clock", "not synchronised with any time server, says the kernel", advice)
    return Finding("pass", "clock", f"synchronised, within {timex.maxerror / 1e6:.3f} s")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_read_once(json.load(sys.stdin))) + "\n")
