"""
Whose energy it was: of each device to the workloads that held it, and what nobody used in lines of its own.

A device's time is cut wherever an allocation of it begins or ends. In each piece the shares of those who hold it are
known, so their parts, what was idle and what nobody held add up to the device, whatever overlaps. The levels above
(hosts, racks, sites) add what they draw beyond their parts.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import polars as pl

from analytics.boards import with_meters
from analytics.cells import CELLS, IDLE_RATIO
from analytics.efficiency import counted_edges, counted_times, current, energy_in, held_energy, of_workloads
from analytics.energy import (
    DEVICE_STEPS,
    device_cells,
    device_steps,
    energy_of_cells,
    integrate_power,
    of_boards,
    seconds,
    split,
    window_start,
)
from analytics.fleet import Fleet
from analytics.frames import each_part
from analytics.intervals import BOUNDS, bounds, measured, total
from analytics.steps import readings
from analytics.work import counters, work_of
from collector.catalogue import (
    ACTIVITY_GRAPHICS,
    ACTIVITY_SM,
    HOST_PLATFORM_ENERGY,
    HOST_PLATFORM_POWER,
    IT_POWER,
    METER_ENERGY,
    METER_POWER,
    TOKENS_OUT,
    UTILIZATION,
)

Basis = Literal["allocation", "activity"]
Per = Literal["workload", "name", "user", "team", "model", "device", "host", "site", "fleet"]

Samples = pl.LazyFrame | Sequence[pl.LazyFrame]
"""Readings, whole or in parts that hold devices whole."""

OWNER: Final = ("workload", "name", "user", "team")
OWNED: Final = (*OWNER, "model")
"""Of whom there are tokens: a place has none of its own."""
COUNTED: Final = 0.9
"""The share of the time in which a workload held devices that its counters must be read for."""
AMOUNTS: Final = ("span_s", "covered_s", "energy_j", "modelled_j", "error_j")
"""
What every line has, and what adds up: device-seconds, those of them with energy, joules, modelled joules, and (of one
device) half the interval.
"""
ENERGY: Final = ("energy_j", *BOUNDS)
ENDS: Final = ("", "_low", "_high")
ACTIVITY_S: Final = 300.0
"""How long the activity of a partition is averaged where it tells who used a shared device."""
STRETCH_S: Final = 300.0
"""Overhead is taken over stretches of this length, so that a gap in one part costs no more than its own stretch."""
MEASURED: Final = 0.99
"""The share of a stretch in which all parts must be measured before the rest of the whole is called overhead."""

_OWNED: Final = ("used", "idle")
_NS: Final = 1_000_000_000
_EXACT: Final = 1e-9
_SUMS: Final = (
    "energy_j", "modelled_j", "covered_s", "error_j", "idle_j", "idle_modelled_j", "idle_s", "idle_error_j",
)  # fmt: skip
ALLOCATED: Final = pl.Schema(
    {**dict.fromkeys(("workload", "device"), pl.String()), **dict.fromkeys(("start", "end"), pl.Datetime("ns"))}
)
# MIG slices of a whole board; the boards below have fewer than the usual seven.
_SLICES: Final = 7
_FOUR_SLICES: Final = r"(?i)\bA30\b|RTX PRO 6000"


class Account(NamedTuple):
    """
    What one pass over readings gives: energy by windows, as `analytics.energy.energy`, and lines of `attribute`.

    workloads: as `analytics.efficiency.efficiency`, where their samples were given.
    """

    windows: pl.DataFrame
    lines: pl.DataFrame
    workloads: pl.DataFrame | None = None


def attribute(
    device_samples: Samples,
    allocations: pl.LazyFrame,
    *,
    devices: pl.LazyFrame | None = None,
    host_samples: pl.LazyFrame | None = None,
    by: str | None = None,
    basis: Basis = "allocation",
    idle_ratio: float = IDLE_RATIO,
    max_gap_s: float | None = None,
) -> pl.LazyFrame:
    """
    The energy of each device in lines that add up to it.

    In:  device_samples as `analytics.energy.energy` takes them, whole or in parts (see `analytics.frames.by_device`);
         allocations as `analytics.efficiency.efficiency` does; *devices*: device, parent, partition, model, time, which
         tells partitions from whole devices; *host_samples*: for lines as `host_lines` gives them, from the same pass.
    Out: kind (``used``, ``idle``: held by somebody and not in use, ``unallocated``), device (whole), host, workload,
         name, user, team (null where unallocated), window (with *by*), span_s (device-seconds), covered_s (those of
         them with energy), energy_j (null where nothing was covered), energy_low_j and energy_high_j (as of
         `analytics.energy.energy`), modelled_j.

    Holders take their share; shares beyond one whole device are scaled down to it, so two that hold all of it have half
    each. A partition is its share of the board's compute slices. With *basis* ``activity`` the holders of partitions
    divide what they hold by share times measured activity, where that is known of all of them. Idle is judged by the
    device's utilisation; where that was not read, nothing is called idle. The time before a device's first reading and
    after its last is no part of it.
    """
    found = account(
        device_samples, allocations, devices=devices, host_samples=host_samples, by=by, basis=basis,
        idle_ratio=idle_ratio, max_gap_s=max_gap_s,
    )  # fmt: skip
    return found.lines.lazy()


def account(
    device_samples: Samples,
    allocations: pl.LazyFrame,
    *,
    devices: pl.LazyFrame | None = None,
    host_samples: pl.LazyFrame | None = None,
    workload_samples: pl.LazyFrame | None = None,
    windows: str | None = None,
    by: str | None = None,
    basis: Basis = "allocation",
    idle_ratio: float = IDLE_RATIO,
    max_gap_s: float | None = None,
    threads: int | None = None,
) -> Account:
    """
    Energy by *windows* (of whole devices without) and its attribution, in one pass over the readings.

    In, and what the lines are: as `attribute`; *workload_samples* for what it brought, too. *threads*: how many parts
    are looked at at once.
    """
    parts = [device_samples] if isinstance(device_samples, pl.LazyFrame) else list(device_samples)
    held = _once(held_parts(allocations, devices))
    active = None
    if basis == "activity" and devices is not None:
        active = _once(_activity(pl.concat(parts), devices))
    hosts = None if host_samples is None else _Stretches.of_machines(host_samples, by, max_gap_s)
    lengths_s = [seconds(window) for window in (windows, by) if window is not None]
    if hosts is not None and hosts.any:
        lengths_s.append(hosts.length_s)
    edges, allocated = _edges(held, active), _once(allocations)
    if workload_samples is not None:
        workload_samples = _once(counters(workload_samples))
        read = _once(counted_times(workload_samples))
        edges = pl.concat([edges, counted_edges(read, allocated)])

    def of_part(samples: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame, "_Inside", pl.DataFrame | None]:
        rows = readings(of_boards(samples, devices)).collect()
        own = edges if hosts is None else pl.concat([edges, hosts.edges(rows)])
        cells = device_cells(
            rows, edges=own, lengths_s=lengths_s, max_gap_s=max_gap_s, idle_ratio=idle_ratio, devices=devices
        )
        energy = energy_of_cells(cells.lazy(), None if windows is None else seconds(windows), devices).collect()
        lines = lines_of(cells.lazy(), held, active, by=by).collect()
        inside = _Inside.nothing() if hosts is None else hosts.inside(cells.lazy())
        if workload_samples is None:
            return energy, lines, inside, None
        theirs = allocated.join(cells.lazy().select("device").unique(), on="device", how="semi")
        return energy, lines, inside, held_energy(cells.lazy(), read, theirs, by=by).collect()

    done = each_part(of_part, parts, threads=threads)
    lines = [lines for _, lines, _, _ in done]
    if hosts is not None:
        lines.append(hosts.lines([inside for _, _, inside, _ in done]).collect())
    found = Account(pl.concat([energy for energy, _, _, _ in done]), pl.concat(lines))
    if workload_samples is None:
        return found
    # What was held and never read has no energy; it is a device all the same.
    unread = allocated.join(found.windows.lazy().select("device").unique(), on="device", how="anti")
    nothing = pl.LazyFrame(schema={**DEVICE_STEPS, **CELLS})
    drawn = [held_energy(nothing, read, unread, by=by).collect()]
    drawn += [drawn for _, _, _, drawn in done if drawn is not None]
    drawn_of_all = with_meters(pl.concat(drawn).lazy(), devices)
    return found._replace(workloads=of_workloads(drawn_of_all, workload_samples, by=by).collect())


def lines_of(
    steps: pl.LazyFrame, held: pl.LazyFrame, active: pl.LazyFrame | None = None, *, by: str | None = None
) -> pl.LazyFrame:
    """
    The lines of `attribute`.

    In:  steps, as `analytics.energy.device_cells` gives them, cut wherever who holds a device changes and at the edges
         of windows; steps that are not are shared by time. held: of `held_parts`.
    """
    steps = _once(steps)
    known = _once(
        steps.group_by("device").agg(
            pl.col("host").drop_nulls().last(), first=pl.col("begin").min(), last=pl.col("time").max()
        )
    )
    held = held.join(known.drop("host"), on="device")
    held = held.with_columns(start=pl.max_horizontal("start", "first"), end=pl.min_horizontal("end", "last")).filter(
        pl.col("start") < pl.col("end")
    )
    held = _once(held)
    pieces = _once(pieces_of(known, held, active))
    holders = _once(holders_of(pieces, held, active))
    wanted = pieces if by is None else pieces.with_columns(window_s=pl.lit(seconds(by)))
    found = _once(energy_in(wanted.with_columns(share=pl.lit(1.0)), steps, sums=_SUMS).drop("share"))
    window = [] if by is None else ["window"]
    lines = pl.concat([*_held_lines(found, holders, window), _free_lines(found, holders, window)])
    keys = ["kind", "device", *OWNER, *window]
    joules = pl.when(pl.col("covered_s") > 0).then("energy_j")
    return (
        lines.group_by(keys)
        .agg(pl.col(name).sum() for name in AMOUNTS)
        .filter(pl.col("span_s") > 0)
        .join(known.select("device", "host"), on="device", how="left")
        .select(
            "kind", "device", "host", *OWNER, *window, "span_s", "covered_s",
            joules.alias("energy_j"), *bounds(joules, measured(pl.col("error_j"), pl.col("modelled_j"))), "modelled_j",
        )
        .sort("device", "kind", "workload", *window)
    )  # fmt: skip


def attribution(
    lines: pl.LazyFrame,
    *,
    per: Per = "workload",
    workload_samples: pl.LazyFrame | None = None,
    hosts: Mapping[str, str] | None = None,
    by: str | None = None,
) -> pl.LazyFrame:
    """
    Lines of `attribute`, `host_lines` and `facility_lines` put together: for workloads, users, teams, models, places.

    In:  lines; *workload_samples* for models and tokens; *hosts* gives each host's site; *by* as the lines have it.
    Out: *per* (null for what is nobody's), kind, window (with *by*), devices, span_s, covered_s, covered_ratio,
         energy_j, energy_low_j and energy_high_j (boards are off independently: `analytics.intervals.total`),
         power_mean_w (of one device), modelled_ratio, tokens, counted_ratio, joules_per_token, joules_per_token_low and
         joules_per_token_high.

    Tokens are the group's, on its ``used`` row, never a device's: per device and place there are none. Joules per token
    divide the used and idle energy of its workloads whose tokens were counted (see `counted`; counted_ratio is their
    share of the group's device-seconds), since an engine that waits is there for its tokens, and a notebook beside it
    is not; they are on the ``used`` row, and absent where some of that energy is not covered.
    """
    window = [] if by is None else ["window"]
    told = _once(named(_once(lines), workload_samples, hosts))
    energy_j, covered_s, span_s = pl.col("energy_j"), pl.col("covered_s"), pl.col("span_s")
    found = told.group_by(per, "kind", *window).agg(
        devices=pl.col("device").drop_nulls().n_unique(),
        span_s=span_s.sum(),
        covered_s=covered_s.sum(),
        energy_j=pl.when(energy_j.count() > 0).then(energy_j.sum()),
        modelled_j=pl.col("modelled_j").sum(),
    )
    work = workload_samples if per in OWNED else None
    found, tokens = _once(found), _once(_tokens(told, work, per, by))
    keys, owned = [per, *window], pl.col("kind").is_in(_OWNED)
    # Where all of it was idle the tokens stand on the idle row.
    row = found.filter(owned).group_by(keys).agg(kind=pl.col("kind").sort(descending=True).first(), held_s=span_s.sum())
    board = sensor(told)
    mine = _once(of_counted(told, counted(told, work, by=by), window=window))
    groups = total(mine, keys, board=board).rename({name: f"group_{name}" for name in ENERGY})
    sums = mine.group_by(keys).agg(
        counted_s=span_s.sum(), whole=covered_s.sum() >= MEASURED * span_s.sum(),
        counted_tokens=pl.struct("workload", *window, "tokens").unique().struct.field("tokens").sum(),
    )  # fmt: skip
    groups = groups.join(sums, on=keys, nulls_equal=True)
    row = row.join(tokens, on=keys, nulls_equal=True).join(groups, on=keys, how="left", nulls_equal=True)
    intervals = total(told, [*keys, "kind"], board=board).drop("energy_j")
    amount = pl.col("counted_tokens")
    per_token = {f"joules_per_token{end}": pl.col(f"group_energy{end}_j") / amount for end in ENDS}
    return (
        found.join(intervals, on=[*keys, "kind"], nulls_equal=True)
        .join(row, on=[*keys, "kind"], how="left", nulls_equal=True)
        .select(
            per, "kind", *window, "devices", "span_s", "covered_s",
            covered_ratio=pl.when(span_s > 0).then(covered_s / span_s),
            energy_j=energy_j, **{name: pl.col(name) for name in BOUNDS},
            power_mean_w=pl.when(covered_s > 0).then(energy_j / covered_s),
            modelled_ratio=pl.when(energy_j > 0).then(pl.col("modelled_j") / energy_j),
            tokens=pl.col("tokens"),
            counted_ratio=pl.when(pl.col("tokens").is_not_null()).then(
                pl.col("counted_s").fill_null(0.0) / pl.col("held_s")
            ),
            **{n: pl.when((amount > 0) & pl.col("whole")).then(value) for n, value in per_token.items()},
        )
        .sort(per, "kind", *window, nulls_last=True)
    )  # fmt: skip


def sensor(lines: pl.LazyFrame) -> pl.Expr:
    """Whose sensor measured a line: the device's; of what hosts and racks draw beyond their parts, their own."""
    known = lines.collect_schema().names()
    return pl.coalesce(name for name in ("device", "host", "rack") if name in known)


def counted(lines: pl.LazyFrame, workload_samples: pl.LazyFrame | None, *, by: str | None = None) -> pl.LazyFrame:
    """
    The workloads whose counters were read for nearly all of the time in which they held devices.

    In:  lines of `attribute`, by windows of *by* if that is given; workload_samples.
    Out: workload, window (with *by*), tokens.

    Of the others joules over tokens would divide the energy of hours by the tokens of minutes.
    """
    window = [] if by is None else ["window"]
    if workload_samples is None:
        empty = {"workload": pl.String(), **dict.fromkeys(window, pl.Datetime("ns")), "tokens": pl.Float64()}
        return pl.LazyFrame(schema=empty)
    keys = ["workload", *window]
    held = (
        lines.filter(pl.col("kind").is_in(_OWNED))
        .group_by(*keys, "device")
        .agg(pl.col("span_s").sum())
        .group_by(keys)
        .agg(held_s=pl.col("span_s").max())
    )
    return (
        work_of(workload_samples, None if by is None else seconds(by))
        .join(held, on=keys)
        .filter(pl.col(TOKENS_OUT.column).is_not_null() & (pl.col("work_s") >= COUNTED * pl.col("held_s")))
        .select(*keys, tokens=TOKENS_OUT.column)
    )


def of_counted(lines: pl.LazyFrame, done: pl.LazyFrame, *, window: Sequence[str] = ()) -> pl.LazyFrame:
    """What the workloads of *done*, as `counted` gives them, used or held idle: those of *lines*, and their tokens."""
    return lines.filter(pl.col("kind").is_in(_OWNED)).join(done, on=["workload", *window])


# ------------------------------------------------------------------------------------------------- the levels above


def platform_steps(host_samples: pl.LazyFrame, *, max_gap_s: float | None = None) -> pl.LazyFrame:
    """
    The energy of whole machines, step by step, as `analytics.energy.device_steps` gives it; `device` is the host.

    In:  host_samples: host, time, source, platform_power_w, platform_energy_j.
    """
    return device_steps(_machines(host_samples), max_gap_s=max_gap_s)


def _machines(host_samples: pl.LazyFrame) -> pl.LazyFrame:
    """The samples of whole machines as if they were devices."""
    return host_samples.select(
        "time", "source", "host", device="host",
        power_w=HOST_PLATFORM_POWER.column, energy_j=HOST_PLATFORM_ENERGY.column,
    )  # fmt: skip


def meter_steps(facility_samples: pl.LazyFrame, *, max_gap_s: float | None = None) -> pl.LazyFrame:
    """
    The energy through meters, step by step; `device` is the meter.

    In:  facility_samples: meter, time, source, host, meter_power_w, meter_energy_j.
    """
    return device_steps(
        facility_samples.select(
            "time", "source", "host", device="meter",
            power_w=METER_POWER.column, energy_j=METER_ENERGY.column,
        ),
        max_gap_s=max_gap_s,
    )  # fmt: skip


def overhead(
    wholes: pl.LazyFrame, parts: pl.LazyFrame, belongs: pl.LazyFrame, *, by: str | None = None
) -> pl.LazyFrame:
    """
    What wholes draw beyond their parts: hosts beyond devices, racks beyond hosts, meters beyond racks.

    In:  wholes, parts: steps as `platform_steps`, `meter_steps` and `analytics.energy.device_steps` give them; belongs:
         part, whole.
    Out: whole, window (with *by*), whole_j, parts_j, whole_error_j and parts_error_j (half their intervals), overhead_j
         (whole_j - parts_j), error_j (half its interval: the sensors of the whole and of each part are off
         independently), covered_s: the seconds in which whole and parts were all measured, which alone count. Whole and
         parts thus always reconcile.

    An overhead below zero is two sensors that disagree; it is shown, not hidden by a zero.
    """
    stretches = _Stretches.of(wholes, by)
    return stretches.overhead(stretches.of_parts(_once(parts), belongs))


def host_lines(
    device_samples: Samples,
    host_samples: pl.LazyFrame,
    *,
    devices: pl.LazyFrame | None = None,
    by: str | None = None,
    max_gap_s: float | None = None,
) -> pl.LazyFrame:
    """
    The overhead of hosts (their CPUs, memory, fans, power supplies) as lines like those of `attribute`.

    Out: kind ``host``; span_s is how long the host's devices were seen, covered_s how much of that the overhead is
         known for. A host whose machine is not measured has no line, never one of 0.
    """
    nobody = pl.LazyFrame(schema=ALLOCATED)
    lines = attribute(
        device_samples, nobody, devices=devices, host_samples=host_samples, by=by, max_gap_s=max_gap_s
    )  # fmt: skip
    return lines.filter(pl.col("kind") == "host")


class _Inside(NamedTuple):
    """What the devices of a part drew in each stretch of their hosts, and from when to when each host's were seen."""

    stretches: pl.DataFrame
    seen: pl.DataFrame

    @staticmethod
    def nothing() -> "_Inside":
        return _Inside(pl.DataFrame(), pl.DataFrame())


class _Stretches(NamedTuple):
    """The time in which wholes were measured, in stretches: a gap in a part costs no more than its own."""

    frame: pl.LazyFrame
    by: str | None
    length_s: float

    @staticmethod
    def of(wholes: pl.LazyFrame, by: str | None) -> "_Stretches":
        """Of steps of wholes, or of cells that are cut at their gaps and at the edges of stretches."""
        length_s = _stretch_s(by)
        return _Stretches(_once(_stretches(_once(wholes), length_s)), by, length_s)

    @staticmethod
    def of_machines(host_samples: pl.LazyFrame, by: str | None, max_gap_s: float | None) -> "_Stretches":
        """Of whole machines."""
        rows = readings(_machines(host_samples)).collect()
        found = device_cells(rows, lengths_s=[_stretch_s(by)], max_gap_s=max_gap_s, at_gaps=True)
        return _Stretches.of(found.lazy(), by)

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self.frame.limit(1).collect().height > 0

    def edges(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Where stretches begin and end between two whole lengths, for the devices of their hosts."""
        # Readings come device by device, so few of them are looked at twice.
        new = pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in ("device", "host"))
        belongs = rows.lazy().filter(new).select("device", whole="host").drop_nulls().unique()
        edges = pl.concat([self.frame.select("whole", edge=edge) for edge in ("start", "end")]).unique()
        edges = edges.filter(pl.col("edge").to_physical() % round(self.length_s * _NS) != 0)
        return belongs.join(edges, on="whole").select("device", "edge").collect()

    def of_parts(self, parts: pl.LazyFrame, belongs: pl.LazyFrame, *, sign: float = 1.0) -> pl.LazyFrame:
        """The parts' joules, seconds and errors in each stretch; with *sign* -1 what the whole draws through others."""
        spans = self.frame.join(belongs, on="whole").select(
            "stretch", "start", "end", device="part", share=pl.lit(sign)
        )
        return energy_in(spans, parts, sums=("energy_j", "covered_s", "error_j")).group_by("stretch").agg(
            parts_j=pl.col("energy_j").sum(), parts_s=pl.col("covered_s").sum(), parts_span_s=pl.col("span_s").sum(),
            parts_error2=(pl.col("error_j") ** 2).sum(),
        )  # fmt: skip

    def inside(self, cells: pl.LazyFrame) -> _Inside:
        """`of_parts` of devices, by their hosts."""
        belongs = cells.select(part="device", whole="host").drop_nulls().unique()
        seen = cells.group_by(whole="host").agg(first=pl.col("begin").min(), last=pl.col("time").max())
        return _Inside(self.of_parts(cells, belongs).collect(), seen.collect())

    def overhead(self, inside: pl.LazyFrame) -> pl.LazyFrame:
        """What the wholes drew beyond their parts, of the stretches in which nearly all of these were measured."""
        sums = inside.group_by("stretch").agg(pl.all().sum())
        found = self.frame.join(sums.filter(pl.col("parts_s") >= MEASURED * pl.col("parts_span_s")), on="stretch")
        keys = ["whole"]
        if self.by is not None:
            found, keys = found.with_columns(window=window_start("start", seconds(self.by))), ["whole", "window"]
        return (
            found.with_columns(parts_error_j=pl.col("parts_error2").sqrt())
            .group_by(keys)
            .agg(pl.col("whole_j", "parts_j", "covered_s", "error_j", "parts_error_j").sum())
            .select(
                *keys, "whole_j", "parts_j", "covered_s", "parts_error_j", whole_error_j="error_j",
                overhead_j=pl.col("whole_j") - pl.col("parts_j"),
                error_j=(pl.col("error_j") ** 2 + pl.col("parts_error_j") ** 2).sqrt(),
            )
            .sort(keys)
        )  # fmt: skip

    def lines(self, parts: Sequence[_Inside]) -> pl.LazyFrame:
        """The lines of `host_lines`."""
        known = self.overhead(pl.concat([part.stretches for part in parts]).lazy())
        window = [] if self.by is None else ["window"]
        if self.by is None:
            seen = pl.concat([part.seen for part in parts]).lazy().group_by("whole").agg(
                span_s=(pl.col("last").max() - pl.col("first").min()).dt.total_nanoseconds() / _NS
            )  # fmt: skip
            known = known.join(seen, on="whole", how="left")
        else:
            known = known.with_columns(span_s=pl.lit(seconds(self.by)))
        low, high = bounds(pl.col("overhead_j"), pl.col("error_j"))
        return known.select(
            kind=pl.lit("host"), device=pl.lit(None, pl.String), host="whole",
            **{name: pl.lit(None, pl.String) for name in OWNER}, **{name: pl.col(name) for name in window},
            span_s=pl.max_horizontal("span_s", "covered_s"), covered_s="covered_s", energy_j="overhead_j",
            energy_low_j=low, energy_high_j=high, modelled_j=pl.lit(0.0),
        )  # fmt: skip


def rack_lines(
    machines: pl.LazyFrame,
    meters: pl.LazyFrame,
    fleet: Fleet,
    *,
    unmetered: pl.LazyFrame | None = None,
    by: str | None = None,
) -> pl.LazyFrame:
    """
    What racks draw beyond their hosts (switches, power shelves, losses), as lines like those of `attribute`.

    In:  machines: of `platform_steps`; meters: of `meter_steps`; *fleet*: which meters feed a rack, and its hosts;
         *unmetered*: device, host and steps of devices of hosts that are not among the machines, whose host's own
         overhead is in the rack's then.
    Out: kind ``rack``, rack, site, and null for device and host; span_s is how long the rack's meters were read. A rack
         of which one meter was not read, or that names none, has no line. Where it drew less than its hosts did two
         sensors disagree, and that is shown.
    """
    machines, meters = _once(machines), _once(meters)
    read = set(meters.select(pl.col("device").unique()).collect().to_series())
    racks = {rack.name: rack for rack in fleet.racks if rack.meters and read.issuperset(rack.meters)}
    first = {rack.meters[0]: name for name, rack in racks.items()}
    others = [(meter, name) for name, rack in racks.items() for meter in rack.meters[1:]]
    wholes = meters.filter(pl.col("device").is_in(list(first))).with_columns(pl.col("device").replace(first))
    stretches = _Stretches.of(wholes, by)
    parts = [(machines, "device", 1.0), (meters.filter(pl.col("device").is_in([m for m, _ in others])), "", -1.0)]
    if unmetered is not None:
        parts.append((unmetered, "host", 1.0))
    inside = []
    for steps, host, sign in parts:
        if host:
            hosts = steps.select(part="device", host=host).drop_nulls().unique()
            rack_of = fleet.rack_of(hosts.select("host").unique().collect().to_series())
            whole = pl.col("host").replace_strict(rack_of, default=None, return_dtype=pl.String)
            belongs = hosts.select("part", whole=whole).filter(pl.col("whole").is_in(list(racks)))
        else:
            belongs = pl.LazyFrame(others, orient="row", schema={"part": pl.String, "whole": pl.String})
        inside.append(stretches.of_parts(steps, belongs, sign=sign).collect())
    known = stretches.overhead(pl.concat(inside).lazy())
    window = [] if by is None else ["window"]
    seen = wholes.group_by(whole="device").agg(
        span_s=(pl.col("time").max() - pl.col("begin").min()).dt.total_nanoseconds() / _NS
    )
    span_s = pl.col("span_s") if by is None else pl.lit(seconds(by))
    sites = {name: rack.site for name, rack in racks.items()}
    return known.join(seen, on="whole").select(
        kind=pl.lit("rack"), site=pl.col("whole").replace_strict(sites, default=None, return_dtype=pl.String),
        rack="whole", device=pl.lit(None, pl.String), host=pl.lit(None, pl.String),
        **{name: pl.lit(None, pl.String) for name in OWNER}, **{name: pl.col(name) for name in window},
        span_s=pl.max_horizontal(span_s, "covered_s"), covered_s="covered_s", energy_j="overhead_j",
        **dict(zip(BOUNDS, bounds(pl.col("overhead_j"), pl.col("error_j")), strict=True)), modelled_j=pl.lit(0.0),
    )  # fmt: skip


def facility_lines(lines: pl.LazyFrame, hosts: Mapping[str, str], pue: Mapping[str, float]) -> pl.LazyFrame:
    """
    What sites draw beyond their hosts, as lines like those of `attribute`: energy times (PUE - 1), by site.

    In:  lines of `attribute` and, where measured, `host_lines` and `rack_lines`; *hosts*: each host's site; *pue*: each
         site's PUE.
    Out: kind ``facility``, site, and null for the host; of sites without a PUE there is no line.

    Energy stays that of IT in every other line: the factor is applied once, here.
    """
    known = lines.collect_schema().names()
    window = [name for name in ("window",) if name in known]
    site = pl.col("host").replace_strict(dict(hosts), default=None, return_dtype=pl.String)
    if "site" in known:
        site = pl.coalesce(site, "site")
    factor = pl.col("site").replace_strict(dict(pue), default=None, return_dtype=pl.Float64) - 1.0
    return (
        lines.with_columns(site=site)
        .filter(pl.col("site").is_in(list(pue)))
        .group_by("site", *window)
        .agg(
            pl.col("energy_j", "modelled_j").sum(),
            pl.col("span_s", "covered_s").filter(pl.col("device").is_not_null()).sum(),
        )
        .select(
            kind=pl.lit("facility"), site="site", device=pl.lit(None, pl.String), host=pl.lit(None, pl.String),
            **{name: pl.lit(None, pl.String) for name in OWNER}, **{name: pl.col(name) for name in window},
            span_s="span_s", covered_s="covered_s", energy_j=pl.col("energy_j") * factor,
            # Derived by a factor, so none of it was measured, and how sure it is nobody knows.
            **dict.fromkeys(BOUNDS, pl.lit(None, pl.Float64)), modelled_j=pl.col("energy_j") * factor,
        )
    )  # fmt: skip


def measured_pue(facility_samples: pl.LazyFrame, *, max_gap_s: float = 60.0) -> pl.LazyFrame:
    """
    PUE of each site from its meters: energy of the site over energy into IT, in the time in which both were read.

    In:  facility_samples: meter, source, site, time, meter_power_w, it_power_w.
    Out: site, pue, covered_s.
    """
    keys = ("site", "meter", "source")
    both = facility_samples.filter(
        pl.col(METER_POWER.column).is_not_null() & pl.col(IT_POWER.column).is_not_null() & pl.col("site").is_not_null()
    )
    whole = integrate_power(both, keys=keys, column=METER_POWER.column, max_gap_s=max_gap_s)
    it = integrate_power(both, keys=keys, column=IT_POWER.column, max_gap_s=max_gap_s)
    return (
        whole.join(it.select(*keys, it_j="energy_j"), on=keys, nulls_equal=True)
        .group_by("site")
        .agg(
            pue=pl.col("energy_j").sum() / pl.col("it_j").sum(),
            covered_s=pl.col("covered_s").max(),
            it_j=pl.col("it_j").sum(),
        )
        .filter(pl.col("it_j") > 0)
        .select("site", "pue", "covered_s")
        .sort("site")
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ pieces


def _once(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The frame, worked out: a plan repeats whatever is named twice, and what is built on it repeats that again."""
    return frame.collect().lazy()


def _edges(held: pl.LazyFrame, active: pl.LazyFrame | None) -> pl.DataFrame:
    """Where who holds a device, or how much of it, may change: device, edge."""
    edges = [held.select("device", edge=edge) for edge in ("start", "end")]
    if active is not None:
        for shift_ns in (0, round(ACTIVITY_S * _NS)):
            edge = (pl.col("bucket").to_physical() + shift_ns).cast(pl.Datetime("ns"))
            edges.append(active.select(device="parent", edge=edge))
    return pl.concat(edges).unique().collect()


def held_parts(allocations: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """Who held what of which whole device, when: device, part, start, end, `OWNER`, weight."""
    held = current(allocations).with_columns(
        # Far enough for any store and near enough that nanoseconds do not overflow.
        end=pl.col("end").fill_null(pl.lit(2**62).cast(pl.Datetime("ns"))),
        part=pl.col("device"),
    )
    if devices is None:
        return held.select("device", "part", "start", "end", *OWNER, weight="share")
    return held.join(partition_shares(devices), on="part", how="left").select(
        pl.coalesce("parent", "device").alias("device"), "part", "start", "end", *OWNER,
        weight=pl.col("share") * pl.col("fraction").fill_null(1.0),
    )  # fmt: skip


def partition_shares(devices: pl.LazyFrame) -> pl.LazyFrame:
    """
    The share that each partition is of its board.

    In:  devices: device, parent, and what there is of partition, model, time; the latest row of a device counts.
    Out: part, parent, fraction: compute slices over the board's (7, or 4 of boards that have so many); a partition
         whose profile tells no slices is an equal part among the board's.
    """
    names = devices.collect_schema().names()
    absent = [pl.lit(None, pl.String).alias(name) for name in ("partition", "model") if name not in names]
    latest = (devices.sort("time") if "time" in names else devices).with_columns(absent)
    parts = latest.unique("device", keep="last", maintain_order=True).filter(pl.col("parent").is_not_null())
    # 1c.3g.40gb is one of the three slices of an instance; 3g.40gb is all three.
    slices = pl.coalesce(
        pl.col("partition").str.extract(r"(\d+)c\.\d+g\b", 1), pl.col("partition").str.extract(r"(?:^|\s)(\d+)g\b", 1)
    ).cast(pl.Float64)
    whole = pl.when(pl.col("model").str.contains(_FOUR_SLICES)).then(4.0).otherwise(float(_SLICES))
    equal = 1.0 / pl.len().over("parent")
    return parts.select(part="device", parent="parent", fraction=pl.coalesce(slices / whole, equal))


def _activity(device_samples: pl.LazyFrame, devices: pl.LazyFrame) -> pl.LazyFrame:
    """How active each partition was: part, parent, bucket, activity."""
    names = device_samples.collect_schema().names()
    told = [m.column for m in (ACTIVITY_SM, ACTIVITY_GRAPHICS, UTILIZATION) if m.column in names]
    return (
        device_samples.join(partition_shares(devices), left_on="device", right_on="part")
        .select("parent", "time", part="device", activity=pl.coalesce(*told, pl.lit(None, pl.Float64)))
        .filter(pl.col("activity").is_not_null())
        .group_by("part", "parent", bucket=window_start("time", ACTIVITY_S))
        .agg(pl.col("activity").mean())
    )


def pieces_of(known: pl.LazyFrame, held: pl.LazyFrame, active: pl.LazyFrame | None) -> pl.LazyFrame:
    """Each device's time cut wherever who holds it changes: device, start, end, piece (a number)."""
    edges = [known.select("device", edge="first"), known.select("device", edge="last")]
    edges += [held.select("device", edge="start"), held.select("device", edge="end")]
    if active is not None:
        buckets = active.select("parent", "bucket").unique().join(known, left_on="parent", right_on="device")
        for shift_ns in (0, round(ACTIVITY_S * _NS)):
            edge = (pl.col("bucket").to_physical() + shift_ns).cast(pl.Datetime("ns"))
            inside = buckets.with_columns(edge=edge).filter(pl.col("edge").is_between("first", "last"))
            edges.append(inside.select(device="parent", edge="edge"))
    return (
        pl.concat(edges)
        .unique()
        .sort("device", "edge")
        .select(
            "device",
            start="edge",
            end=pl.when(pl.col("device") == pl.col("device").shift(-1)).then(pl.col("edge").shift(-1)),
        )
        .filter(pl.col("end").is_not_null())
        .with_row_index("piece")
        .with_columns(pl.col("piece").cast(pl.Int64))
    )  # fmt: skip


def holders_of(pieces: pl.LazyFrame, held: pl.LazyFrame, active: pl.LazyFrame | None) -> pl.LazyFrame:
    """Who holds what share of each piece: piece, part, `OWNER`, share (which add up to no more than 1)."""
    first = pieces.select("device", "start", at="piece")
    last = pieces.select("device", "end", to="piece")
    members = (
        held.join(first, on=["device", "start"])
        .join(last, on=["device", "end"])
        .with_columns(piece=pl.int_ranges("at", pl.col("to") + 1))
        .explode("piece", empty_as_null=True, keep_nulls=True)
        .with_columns(total=pl.col("weight").sum().over("piece"))
    )
    # Tenths add up to a little less than 1: what is missing is nobody's energy but rounding.
    share = pl.col("weight") / pl.when(pl.col("total") > 1.0 - _EXACT).then("total").otherwise(1.0)
    members = members.with_columns(share=share)
    if active is not None:
        begins = pieces.select("piece", bucket=window_start("start", ACTIVITY_S))
        used = pl.col("weight") * pl.col("activity")
        known = pl.col("activity").is_not_null().all().over("piece") & (used.sum().over("piece") > 0)
        members = (
            members.join(begins, on="piece")
            .join(active.select("part", "bucket", "activity"), on=["part", "bucket"], how="left")
            .with_columns(
                share=pl.when(known)
                .then(pl.col("share").sum().over("piece") * used / used.sum().over("piece"))
                .otherwise("share")
            )
        )
    return members.select("piece", "part", *OWNER, "share").filter(pl.col("share") > 0)


def _held_lines(found: pl.LazyFrame, holders: pl.LazyFrame, window: list[str]) -> list[pl.LazyFrame]:
    theirs = found.join(holders, on="piece")
    share = pl.col("share")
    ratio = pl.when(pl.col("covered_s") > 0).then(pl.col("idle_s") / pl.col("covered_s")).otherwise(0.0)
    # What rounding leaves of a device that was idle, or in use, all the time is no line.
    ratio = pl.when(ratio > 1.0 - _EXACT).then(1.0).when(ratio < _EXACT).then(0.0).otherwise(ratio)
    idle = {
        "span_s": pl.col("span_s") * ratio,
        "covered_s": pl.col("idle_s"),
        "energy_j": pl.col("idle_j"),
        "modelled_j": pl.col("idle_modelled_j"),
        "error_j": pl.col("idle_error_j"),
    }
    keep = ("device", *OWNER, *window)
    return [
        theirs.select(*keep, kind=pl.lit("idle"), **{name: part * share for name, part in idle.items()}),
        theirs.select(
            *keep, kind=pl.lit("used"), **{name: (pl.col(name) - part) * share for name, part in idle.items()}
        ),
    ]


def _free_lines(found: pl.LazyFrame, holders: pl.LazyFrame, window: list[str]) -> pl.LazyFrame:
    taken = holders.group_by("piece").agg(taken=pl.col("share").sum())
    free = 1.0 - pl.col("taken").fill_null(0.0)
    free = pl.when(free > _EXACT).then(free).otherwise(0.0)
    nobody = [pl.lit(None, pl.String).alias(name) for name in OWNER]
    return found.join(taken, on="piece", how="left").select(
        "device", *nobody, *window, kind=pl.lit("unallocated"), **{name: pl.col(name) * free for name in AMOUNTS}
    )


def _stretch_s(by: str | None) -> float:
    return STRETCH_S if by is None or seconds(by) % STRETCH_S == 0 else seconds(by)


def _stretches(steps: pl.LazyFrame, length_s: float) -> pl.LazyFrame:
    """What was covered without a break, cut every *length_s*: whole, start, end, stretch, whole_j, covered_s."""
    follows = (pl.col("device") == pl.col("device").shift(1)) & (pl.col("begin") == pl.col("time").shift(1))
    covered = steps.filter(pl.col("covered_s") > 0).sort("device", "time")
    covered = covered.with_columns(run=(~follows.fill_null(False)).cum_sum())
    chunk_end = (pl.col("chunk").to_physical() + round(length_s * _NS)).cast(pl.Datetime("ns"))
    return (
        split(covered, length_s, ("energy_j", "covered_s", "error_j"))
        .with_columns(begin=pl.max_horizontal("begin", "chunk"), time=pl.min_horizontal("time", chunk_end))
        .group_by("device", "run", "chunk")
        .agg(
            start=pl.col("begin").min(),
            end=pl.col("time").max(),
            whole_j=pl.col("energy_j").sum(),
            covered_s=pl.col("covered_s").sum(),
            error_j=pl.col("error_j").sum(),
        )
        .sort("device", "run", "chunk")
        .select("start", "end", "whole_j", "covered_s", "error_j", whole="device")
        .with_row_index("stretch")
    )


# ------------------------------------------------------------------------------------------------------------- names


def named(lines: pl.LazyFrame, workload_samples: pl.LazyFrame | None, hosts: Mapping[str, str] | None) -> pl.LazyFrame:
    """The lines with `model`, `site` and `fleet`."""
    place = pl.col("host").replace_strict(dict(hosts or {}), default="unknown", return_dtype=pl.String)
    place = pl.when(pl.col("host").is_not_null()).then(place)
    # A line of a facility or a rack belongs to no host and names its site itself.
    site = pl.coalesce("site", place) if "site" in lines.collect_schema().names() else place
    told = lines.with_columns(site=site, fleet=pl.lit("fleet"))
    if workload_samples is None:
        known = "model" in lines.collect_schema().names()
        return told if known else told.with_columns(model=pl.lit(None, pl.String))
    models = workload_samples.group_by("workload").agg(pl.col("model").drop_nulls().last())
    return told.drop("model", strict=False).join(models, on="workload", how="left")


def _tokens(told: pl.LazyFrame, workload_samples: pl.LazyFrame | None, per: Per, by: str | None) -> pl.LazyFrame:
    """Tokens of each group: its workloads' own, each counted once, by its last owner."""
    window = [] if by is None else ["window"]
    if workload_samples is None:
        empty = {per: pl.String(), **dict.fromkeys(window, pl.Datetime("ns")), "tokens": pl.Float64()}
        return pl.LazyFrame(schema=empty)
    owner = (
        told.filter(pl.col("workload").is_not_null()).group_by("workload").agg(pl.col(per).drop_nulls().last())
        if per != "workload"
        else told.select("workload").drop_nulls().unique()
    )
    tokens = pl.col(TOKENS_OUT.column)
    return (
        owner.join(work_of(workload_samples, None if by is None else seconds(by)), on="workload")
        .group_by(per, *window)
        .agg(tokens=pl.when(tokens.count() > 0).then(tokens.sum()))
    )
