"""
What to change about a job: at most five findings, each a sentence with its number and the exact flag, dearest first.

A finding is made where its evidence passes a threshold that is written here, and nowhere else. What it costs is the
energy that goes into what it names: an upper bound of what the change can save. Where that cannot be told the finding
stands last. Of a run that was seen too short or too thinly there are none, and `thin` says why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from analytics.known import mean_of, sum_of
from analytics.report_records import DeviceUse, Finding, JobReport, Waste

MOST: Final = 5
SEEN_S: Final = 600.0
"""A run that was seen for less than this has no findings: warming up is not how it runs."""
COVERED: Final = 0.5
"""Nor has one of which less than this share of the time was measured."""
UNUSED: Final = 0.99
"""A device that was idle for this share of the time was not used."""
IDLE: Final = 0.1
STALLED: Final = 0.05
UNDERUSED: Final = 0.2
THROTTLED: Final = 0.05
"""Shares of the device time from which on waste of a cause is a finding."""
MEMORY: Final = 0.4
"""Memory that at most this share of was ever in use."""
CACHE: Final = 0.3
"""A key-value cache of which at most this share was ever in use."""
PREEMPTED: Final = 0.01
"""Requests put back for want of memory, over those answered."""
LOW_LOAD: Final = 0.3
BUSY_LOAD: Final = 0.7
"""Tokens per second over those of its own best windows: a finding below, and near what it can from there on."""
DEAR: Final = 1.25
"""Joules per token over the median of other runs."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How an engine is told: how many devices, how large a batch, how much memory."""

    devices: str
    batch: str
    memory: str
    powers: bool = False
    """Whether devices come in powers of two, as tensor parallelism wants it."""


ENGINES: Final = {
    "vllm": Engine("--tensor-parallel-size {n}", "--max-num-seqs", "--gpu-memory-utilization", powers=True),
    "sglang": Engine("--tp-size {n}", "--max-running-requests", "--mem-fraction-static", powers=True),
    "tgi": Engine("--num-shard {n}", "--max-batch-total-tokens", "--cuda-memory-fraction", powers=True),
    "triton": Engine("instance_group count: {n}", "max_batch_size", "instance_group count"),
    "pytorch": Engine("torchrun --nproc-per-node={n}", "per_device_train_batch_size", "per_device_train_batch_size"),
}
"""Flags by the first word of the framework's name, in lower case."""
ANY: Final = Engine("SLURM --gpus-per-node={n}, Kubernetes nvidia.com/gpu: {n}", "batch size", "memory limit")


def findings(report: JobReport) -> tuple[Finding, ...]:
    """The findings of a report, dearest first."""
    if _too_thin(report):
        return ()
    made = [one for rule in RULES if (one := rule(report)) is not None]
    found = [replace(one, cost=report.cost_of(one.energy_j, one.device_s)) for one in made]

    def dearest(one: Finding) -> tuple[bool, float, bool, float, str]:
        return one.cost is None, -(one.cost or 0.0), one.energy_j is None, -(one.energy_j or 0.0), one.kind

    return tuple(sorted(found, key=dearest)[:MOST])


def thin(report: JobReport) -> tuple[str, ...]:
    """What was not measured, so that it may hide a finding."""
    reasons = _too_thin(report)
    if not any(device.utilization_ratio is not None for device in report.devices):
        reasons.append("utilisation was not read: idle devices cannot be told")
    if not any(device.sm_ratio is not None for device in report.devices):
        reasons.append("activity of the compute units was not read: underuse is judged by utilisation alone")
    if report.work.tokens is None and report.work.steps is None and report.work.samples is None:
        reasons.append("no tokens, steps or samples were counted: what the energy brought is not known")
    elif report.standing is None:
        reasons.append("fewer than three other runs of the model on the same devices: no standing")
    return tuple(reasons)


def _too_thin(report: JobReport) -> list[str]:
    if report.seen_ns is None:
        return ["none of its devices was read while it held them"]
    seen_s = (report.seen_ns[1] - report.seen_ns[0]) / 1e9
    if seen_s < SEEN_S:
        return [f"it was seen for {seen_s / 60:.0f} min, {SEEN_S / 60:.0f} are needed for findings"]
    if report.energy.covered_ratio < COVERED:
        return [
            f"only {report.energy.covered_ratio:.0%} of its time was measured, {COVERED:.0%} is needed for findings"
        ]
    return []


# ------------------------------------------------------------------------------------------------------------- rules


def unused(report: JobReport) -> Finding | None:
    """Devices that never did anything."""
    idle = [device for device in report.devices if _never_used(device)]
    used = len(report.devices) - len(idle)
    if not idle:
        return None
    names = ", ".join(_place(device) for device in idle[:4]) + (" ..." if len(idle) > 4 else "")
    hours = sum(device.allocated_s for device in idle) / 3600.0
    text = f"{len(idle)} of {len(report.devices)} devices never ran a kernel in {hours:.1f} device-hours ({names})."
    change = f"ask for the used ones only: {_devices(report, used)}" if used else "end it: scancel, kubectl delete"
    return Finding(
        kind="unused", text=text, change=change, value=float(len(idle)), energy_j=_energy(idle), device_s=3600.0 * hours
    )


def idle(report: JobReport) -> Finding | None:
    """Time in which devices were held without a kernel running, at the end or throughout."""
    spent = [device for device in report.devices if not _never_used(device)]
    idle_s = sum(device.idle_s for device in spent)
    whole_s = sum(device.allocated_s for device in spent)
    if not spent or idle_s < IDLE * whole_s:
        return None
    text = f"No kernel ran in {idle_s / whole_s:.0%} of the {whole_s / 3600:.1f} device-hours that it held"
    at_the_end = report.idle_end_s >= 0.5 * idle_s
    if at_the_end:
        text += f", the last {_span(report.idle_end_s / len(report.devices))} altogether"
    if at_the_end and report.end_ns is not None:
        change = "end the job with its work: a shorter SLURM --time, or exit after the last step"
    elif at_the_end:
        change = "if its work is done, end it: scancel, kubectl delete"
    elif report.work.requests is not None:
        change = "fewer replicas while requests are few: minReplicas, or scale to zero (KEDA, Knative)"
    else:
        change = "shorter jobs, or a partition of a device for interactive work: SLURM --gres=gpu:1g.10gb:1"
    joules, all_idle_s = _of(report.waste, "idle"), sum(device.idle_s for device in report.devices)
    mine = None if joules is None else joules * idle_s / all_idle_s
    return Finding(kind="idle", text=text + ".", change=change, value=idle_s / whole_s, energy_j=mine, device_s=idle_s)


def stalled(report: JobReport) -> Finding | None:
    """Waiting for input or for other devices."""
    lines = [line for line in report.waste if line.cause == "stalled"]
    ratio = sum(line.ratio for line in lines)
    if ratio < STALLED:
        return None
    worst = max(lines, key=lambda line: line.ratio)
    if worst.reason == "network":
        text = f"For {worst.ratio:.0%} of the time its devices waited for each other over the fabric."
        change = "place the group closer together (SLURM --switches=1), overlap communication (bucket_cap_mb)"
    else:
        text = f"For {worst.ratio:.0%} of the time its devices waited for input from the host."
        change = "DataLoader num_workers up, pin_memory=True, SLURM --cpus-per-task up"
    return Finding(
        kind="stalled", text=text, change=change, value=worst.ratio, energy_j=worst.energy_j, device_s=worst.device_s
    )


def underused(report: JobReport) -> Finding | None:
    """Kernels that ran with few of the compute units at work."""
    lines = [line for line in report.waste if line.cause == "underused"]
    ratio = sum(line.ratio for line in lines)
    if ratio < UNDERUSED:
        return None
    sm = mean_of(device.sm_ratio for device in report.devices)
    seen = "" if sm is None else f": {sm:.0%} of the compute units were active on average"
    text = f"For {ratio:.0%} of the time kernels ran at low activity{seen}."
    engine, work = _engine(report), report.work
    if work.requests is None:
        change = f"{engine.batch} twice as large, until memory is full"
    elif (work.queue_length or 0.0) >= 1.0 and (work.load_ratio or 0.0) >= BUSY_LOAD:
        change = f"requests wait, so let more run at once: {engine.batch} above {work.requests_running or 0:.0f}"
    else:
        change = "requests are too few for it: fewer replicas (kubectl scale --replicas)"
        if len(report.devices) > 1:
            change += f", or fewer devices: {_devices(report, len(report.devices) // 2)}"
    return Finding(
        kind="underused", text=text, change=change, value=ratio, energy_j=_of(lines, "underused"),
        device_s=sum(line.device_s for line in lines),
    )  # fmt: skip


def memory(report: JobReport) -> Finding | None:
    """Device memory that was never in use, of work that could take a larger batch."""
    peaks = [device.memory_ratio for device in report.devices if not _never_used(device)]
    known = [peak for peak in peaks if peak is not None]
    if not known or len(known) < len(peaks) or max(known) > MEMORY or report.work.requests is not None:
        return None
    most = max(report.devices, key=lambda device: device.memory_ratio or 0.0)
    used, whole = (most.memory_used_bytes or 0.0) / 2**30, (most.memory_total_bytes or 0.0) / 2**30
    text = f"At most {max(known):.0%} of the device memory was in use ({used:.0f} of {whole:.0f} GiB)."
    change = f"{_engine(report).batch} up to {int(1.0 / max(known))} times as large"
    if len(report.devices) > 1:
        change += f", or half the devices: {_devices(report, len(report.devices) // 2)}"
    # What it costs shows as underuse; where there is none, memory that is free costs nothing.
    return Finding(kind="memory", text=text, change=change, value=max(known))


def cache(report: JobReport) -> Finding | None:
    """A key-value cache that was never full, while nothing waited."""
    most = report.work.cache_used_max_ratio
    if most is None or most > CACHE or (report.work.queue_length or 0.0) >= 1.0:
        return None
    engine = _engine(report)
    text = f"At most {most:.0%} of the key-value cache was in use, and nothing waited."
    change = f"{engine.memory} down, and share the device"
    if len(report.devices) > 1:
        change = f"half the devices: {_devices(report, len(report.devices) // 2)}"
    return Finding(kind="cache", text=text, change=change, value=most)


def preempted(report: JobReport) -> Finding | None:
    """Requests that were put back and computed again."""
    counted, answered = report.work.preemptions, report.work.requests
    if not counted or not answered or counted < PREEMPTED * answered:
        return None
    engine = _engine(report)
    text = f"{counted:,.0f} requests were put back for want of memory, {counted / answered:.1%} of those answered."
    change = f"{engine.memory} up, or {engine.batch} down"
    return Finding(kind="preempted", text=text, change=change, value=counted / answered)


def throttled(report: JobReport) -> Finding | None:
    """Clocks held down by heat, supply or a limit below the default."""
    lines = [line for line in report.waste if line.cause == "throttled"]
    ratio = sum(line.ratio for line in lines)
    if ratio < THROTTLED:
        return None
    worst = max(lines, key=lambda line: line.ratio)
    hosts = _hosts_throttled(report, worst.reason)
    if worst.reason == "power_cap":
        limit = max((device.power_limit_w or 0.0) for device in report.devices)
        text = f"A power limit of {limit:.0f} W, below the default, cost {worst.ratio:.0%} of its work."
        change = "nvidia-smi -pl with the default; perfwatt compare --by power_limit tells what the limit saves"
    elif worst.reason == "sync":
        text = f"Clocks that followed the slowest device cost {worst.ratio:.0%} of its work."
        change = f"SLURM --exclude={hosts} until the slow device there is mended"
    else:
        what = {"thermal": "heat", "power_brake": "an external power brake", "hardware": "a hardware slowdown"}
        text = f"Clocks held down by {what.get(worst.reason or '', 'the hardware')} cost {worst.ratio:.0%} of its work."
        change = f"SLURM --exclude={hosts} until cooling and supply there are checked"
    return Finding(
        kind="throttled", text=text, change=change, value=worst.ratio, energy_j=worst.energy_j, device_s=worst.device_s
    )


def imbalance(report: JobReport) -> Finding | None:
    """A device that holds its group back."""
    slow = report.imbalance
    if slow is None or len(report.devices) < 2:
        return None
    why = f", throttled by {slow.throttled[0].reason.replace('_', ' ')}" if slow.throttled else ""
    behind = f"{slow.behind_ratio:.0%} below the median of its group"
    text = f"{slow.device} ran at {slow.clock_hz / 1e6:.0f} MHz, {behind}{why}."
    rest = _energy([device for device in report.devices if device.device != slow.device])
    change = f"SLURM --exclude={slow.host or slow.device} until it is mended: in step, the others wait for it"
    return Finding(
        kind="imbalance", text=text, change=change, value=slow.behind_ratio,
        device_s=slow.behind_ratio * sum(device.allocated_s for device in report.devices),
        energy_j=None if rest is None else rest * slow.behind_ratio,
    )  # fmt: skip


def low_load(report: JobReport) -> Finding | None:
    """Requests so few that most of the energy kept the engine ready."""
    work = report.work
    if work.load_ratio is None or work.requests is None or work.load_ratio > LOW_LOAD:
        return None
    text = f"It served {work.load_ratio:.0%} of the tokens per second of its own best windows"
    if work.joules_per_token and work.best_joules_per_token:
        text += f", at {work.joules_per_token:.3g} J/token against {work.best_joules_per_token:.3g} there"
    saved = None
    if work.joules_per_token and work.best_joules_per_token and report.energy.energy_j is not None:
        saved = report.energy.energy_j * (1.0 - work.best_joules_per_token / work.joules_per_token)
    change = "fewer replicas in quiet hours: minReplicas of the HorizontalPodAutoscaler, or KEDA"
    return Finding(kind="low_load", text=text + ".", change=change, value=work.load_ratio, energy_j=saved)


def dear(report: JobReport) -> Finding | None:
    """More joules for the same than other runs need."""
    standing = report.standing
    if standing is None or standing.value < DEAR * standing.median:
        return None
    unit = standing.metric.removeprefix("joules_per_")
    text = (
        f"It needs {standing.value / standing.median:.1f} times the joules per {unit} of the median of {standing.runs} "
        f"other runs of {standing.of}."
    )
    engine = _engine(report)
    change = f"set {engine.batch} and {engine.devices.format(n='N')} as the best run has them, {standing.best_run}"
    whole = report.energy.energy_j
    saved = None if whole is None else whole * (1.0 - standing.median / standing.value)
    return Finding(kind="dear", text=text, change=change, value=standing.value / standing.median, energy_j=saved)


RULES: Final[Sequence[Callable[[JobReport], Finding | None]]] = (
    unused, idle, stalled, underused, memory, cache, preempted, throttled, imbalance, low_load, dear,
)  # fmt: skip


# ----------------------------------------------------------------------------------------------------- what they share


def _hosts_throttled(report: JobReport, reason: str | None) -> str:
    """The hosts of the devices that were throttled for a reason, or of the most throttled one."""
    ratios = {
        device.device: max((one.ratio for one in device.throttled if one.reason.startswith(reason or "")), default=0.0)
        for device in report.devices
    }
    least = min(THROTTLED, max(ratios.values(), default=0.0))
    hosts = {d.host for d in report.devices if d.host and ratios[d.device] >= least > 0}
    return ",".join(sorted(hosts)) or "its hosts"


def _never_used(device: DeviceUse) -> bool:
    return device.allocated_s > 0 and device.idle_s >= UNUSED * device.allocated_s


def _energy(devices: Sequence[DeviceUse]) -> float | None:
    return sum_of(device.energy_j for device in devices)


def _of(waste: Sequence[Waste], cause: str) -> float | None:
    return sum_of(line.energy_j for line in waste if line.cause == cause)


def _engine(report: JobReport) -> Engine:
    words = (report.framework or "").lower().replace("-", " ").replace("/", " ").split()
    return ENGINES.get(words[0] if words else "", ANY)


def _devices(report: JobReport, wanted: int) -> str:
    """The flag for *wanted* devices of the job altogether; a host's share where it has several."""
    engine = _engine(report)
    hosts = max(len(report.hosts), 1)
    number = max(1, wanted // hosts) if hosts > 1 else max(1, wanted)
    if engine.powers:
        number = 1 << (number.bit_length() - 1)
    return engine.devices.format(n=number)


def _place(device: DeviceUse) -> str:
    if device.host is None or device.ordinal is None:
        return device.device
    return f"{device.host}:{device.ordinal}"


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
