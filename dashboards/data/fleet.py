"""
What the Fleet page shows, as frames: a window and a filter in, numbers with their coverage out.

Everything is computed by `analytics`; here the window is cut and downsampled on the server: mean, minimum and maximum
of each bucket, so that a spike survives.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Final

import polars as pl

from analytics.efficiency import joules_per_token, tokens_of_devices, tokens_per_joule
from analytics.energy import Windows, group_of, of_boards, over_time, regrouped
from analytics.frames import Spliced, by_device, latest, scan, spliced
from analytics.known import column_sum
from analytics.rollups import windows_of_rollups
from analytics.slots import SLOT_S
from analytics.steps import readings, usual_period_s
from collector.catalogue import POWER
from collector.gaps import GAP_PERIODS, GAP_S
from collector.store import Store
from dashboards.data.stored import NS, Stored, utc
from dashboards.selection import Selection

BUCKETS: Final = 240
"""Points of a line, at most: about one for each five pixels of a wide screen."""
FEWEST: Final = 72
CELLS: Final = 60_000
"""Devices times buckets, about: what a page takes a second or two for. Larger fleets have wider buckets."""
STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400)
NOW_S: Final = 30.0
"""How old a reading may be and still say what a device draws now; three periods where that is longer."""

_HOUR_NS: Final = 3600 * NS
_RECENT_NS: Final = _HOUR_NS // 6
"""What was read last is found in so long a time."""
_TABLES: Final = ("device_samples", "workload_samples", "<allocations")
_SURE: Final = 0.8
_PROBED_ROWS: Final = 250_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The selection as a whole; None is what was not measured."""

    devices: int
    power_now_w: float | None
    power_now_devices: int
    power_now_modelled_w: float
    power_now_at: datetime | None
    power_peak_w: float | None
    power_mean_w: float | None
    energy_j: float | None
    covered_ratio: float
    counter_ratio: float | None
    modelled_ratio: float | None
    utilization_ratio: float | None
    utilization_devices: int
    tokens: float | None
    tokens_per_joule: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """
    What one selection shows.

    power: window, power_mean_w, power_min_w, power_max_w, covered_ratio, modelled_ratio of the whole selection.
    groups: window, group, power_mean_w. utilization: window, group, utilization_ratio. efficiency: window, group,
    tokens_per_joule. table: group and its numbers, the one that used most energy first. max_gap_s: the longest time
    between two readings that is bridged, of any device. peaks_s: what the most and the least of a group is the mean of.
    """

    selection: Selection
    start: datetime
    end: datetime
    every_s: int
    max_gap_s: float
    peaks_s: float
    totals: Totals
    power: pl.DataFrame
    groups: pl.DataFrame
    utilization: pl.DataFrame
    efficiency: pl.DataFrame
    table: pl.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is to choose from: hosts and devices seen in the window, the sites they are in, the newest sample."""

    sites: tuple[str, ...]
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    newest: datetime | None


def view(stored: Stored, selection: Selection) -> View:
    """
    What *selection* shows now.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    end_ns = selection.at(stored.now_ns())
    devices, period_s = _size(stored, end_ns, selection.window_s)
    every_s = bucket_s(selection.window_s, devices=devices, least_s=period_s)
    start_ns = (end_ns - selection.window_s * NS) // (every_s * NS) * (every_s * NS)
    # Of a window that ends now the newest bucket is still growing, and the store says when it has grown.
    end_ns = end_ns if selection.until is not None else end_ns // NS * NS + NS
    boards_now = stored.version(("calibrations",), None, None)
    window = (selection.window, selection.until, start_ns, stored.version(_TABLES, start_ns, end_ns), boards_now)
    # Whatever is chosen of the hosts is a part of the same; a few devices are read by themselves, tokens for all.
    key = ("drawn", *window, tuple(sorted(selection.devices)))

    def tokens() -> pl.DataFrame:
        return stored.kept(("tokens", *window), lambda: _tokens(stored.store(), start_ns, end_ns, every_s))

    drawn = stored.kept(key, lambda: _drawn(stored, selection.devices, start_ns, end_ns, every_s, tokens))
    return stored.kept((selection, *key), lambda: _work_out(drawn, selection, start_ns, end_ns, every_s))


def known(stored: Stored, selection: Selection) -> Known:
    """
    What there is to choose from in the window of *selection*, whatever is filtered.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    end_ns = selection.at(stored.now_ns())
    start_ns = end_ns - selection.window_s * NS
    key = (
        "known", selection.window, selection.until, stored.newest_ns(),
        stored.version(("device_samples", "device_rollups"), start_ns, end_ns),
    )  # fmt: skip
    return stored.kept(key, lambda: _known(stored, start_ns, end_ns))


def _known(stored: Stored, start_ns: int, end_ns: int) -> Known:
    newest_ns = stored.newest_ns()
    seen = _seen(stored.store(), start_ns, end_ns + NS)
    hosts = sorted(set(seen["host"].drop_nulls()))
    return Known(
        sites=tuple(sorted(set(stored.sites(hosts).values()))),
        hosts=tuple(hosts),
        devices=tuple(sorted(set(seen["device"].drop_nulls()))),
        newest=None if newest_ns is None else utc(newest_ns),
    )


def _size(stored: Stored, end_ns: int, window_s: int) -> tuple[int, float]:
    """About how many devices there are, and how often each is read: those of the window's last hour."""
    start_ns = end_ns - min(window_s, 3600) * NS
    # About: what is read in some minutes makes it no other.
    key = ("size", end_ns // _RECENT_NS, start_ns // _RECENT_NS, stored.version(("device_samples",), start_ns, end_ns))
    return stored.kept(key, lambda: _sized(stored, start_ns, end_ns))


def _sized(stored: Stored, start_ns: int, end_ns: int) -> tuple[int, float]:
    seen = scan(stored.store(), "device_samples", start_ns, end_ns)
    time = pl.col("time").to_physical()
    devices, series, rows, span_ns = (
        seen.select(
            pl.col("device").n_unique(), series=pl.struct("device", "source").n_unique(), rows=pl.len(),
            span=time.max() - time.min(),
        ).collect().row(0)
    )  # fmt: skip
    # Gaps and late comers make the interval seem longer than it is.
    return devices, _SURE * span_ns / NS * series / rows if rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """
    A window of the store, whatever is chosen of its hosts.

    found: by host and device. tokens: device, window, tokens, alone. now: device, host, time, power_w, modelled. sites:
    of each host. peaks_s: what a peak of a group is the mean of.
    """

    found: Windows
    tokens: pl.DataFrame
    now: pl.DataFrame
    sites: Mapping[str, str]
    peaks_s: float

    def of(self, selection: Selection) -> "_Drawn":
        """The same of the hosts that are chosen; of none chosen, all."""
        if not selection.hosts and not selection.sites:
            return self
        hosts = [
            host for host, site in self.sites.items()
            if (not selection.hosts or host in selection.hosts) and (not selection.sites or site in selection.sites)
        ]  # fmt: skip
        here, found = pl.col("host").is_in(hosts), self.found
        devices = found.devices.filter(here)
        own = pl.col("group").is_in(devices["device"].unique().implode())
        assert found.swings is not None
        swings = found.swings._replace(of={host: watts for host, watts in found.swings.of.items() if host in hosts})
        narrowed = Windows(
            devices, {"device": found.power["device"].filter(own)}, found.utilization.filter(here), swings
        )
        return replace(self, found=narrowed, now=self.now.filter(here))


def _drawn(
    stored: Stored,
    chosen: Sequence[str],
    start_ns: int,
    end_ns: int,
    every_s: int,
    tokens_of_all: Callable[[], pl.DataFrame],
) -> _Drawn:
    only = pl.col("device").is_in(list(chosen)) if chosen else pl.lit(value=True)
    # What workloads did is in other segments, which another core reads.
    with ThreadPoolExecutor(1) as pool:
        tokens = pool.submit(tokens_of_all)
        found, last, peaks_s = _measured(stored, only, start_ns, end_ns, every_s)
    return _Drawn(
        found=found,
        tokens=tokens.result(),
        now=_now(last),
        sites=stored.sites(sorted(set(found.devices["host"].drop_nulls()))),
        peaks_s=peaks_s,
    )


def _measured(
    stored: Stored, only: pl.Expr, start_ns: int, end_ns: int, every_s: int
) -> tuple[Windows, pl.DataFrame, float]:
    """What devices drew, their last readings of power, and what a peak of a group is the mean of."""
    store, known = stored.store(), stored.boards()
    rolled = None
    if every_s % SLOT_S == 0:
        # Where most of the window is rolled up, the rest is soon read.
        rolled = spliced(store, start_ns, end_ns, window_s=SLOT_S, least_hours=(end_ns - start_ns) // (2 * _HOUR_NS))
    if rolled is not None:
        narrowed = Spliced(
            rolled.rollups.filter(only), rolled.hours_ns,
            [part.filter(only) for part in rolled.before], [part.filter(only) for part in rolled.after],
        )  # fmt: skip
        found = windows_of_rollups(narrowed, every_s=every_s, within_ns=(start_ns, end_ns), devices=known)
        recent = scan(store, "device_samples", end_ns - _RECENT_NS, end_ns, only)
        rows = readings(of_boards(recent, known)).collect()
        period_s = usual_period_s(rows.head(_PROBED_ROWS))
        return found, rows.filter(_since(_edge_ns(period_s, end_ns))), float(SLOT_S)
    parts = _readings(stored, known, only, start_ns, end_ns)
    first = next(parts)
    # No coarser than the readings, so that a peak of one stays one; no finer, so that each device is in a step.
    period_s = usual_period_s(first.head(_PROBED_ROWS))
    peaks_s, last = max(1.0, period_s), list[pl.DataFrame]()
    # One pass over the readings: sums and ratios of groups are taken of devices and buckets, which are few.
    found = over_time(
        _watched(chain([first], parts), _edge_ns(period_s, end_ns), last),
        every_s=every_s, by=("host", "device"), step_s=peaks_s, within_ns=(start_ns, end_ns), devices=known,
    )  # fmt: skip
    return found, pl.concat(last), peaks_s


def _readings(stored: Stored, known: pl.LazyFrame, only: pl.Expr, start_ns: int, end_ns: int) -> Iterator[pl.DataFrame]:
    """The readings of whole devices, a part at a time."""
    parts = by_device(stored.store(), "device_samples", start_ns, end_ns, rows=stored.part_rows)
    for part in parts:
        yield readings(of_boards(part.filter(only), known)).collect()


def _tokens(store: Store, start_ns: int, end_ns: int, every_s: int) -> pl.DataFrame:
    """Tokens of each device in each bucket: as `analytics.efficiency.tokens_of_devices`."""
    work = scan(store, "workload_samples", start_ns, end_ns).collect()
    edge = [pl.lit(ns, dtype=pl.Int64).cast(pl.Datetime("ns")) for ns in (start_ns, end_ns)]
    held = (pl.col("start") < edge[1]) & (pl.col("end").is_null() | (pl.col("end") > edge[0]))
    # The last word on each first: an allocation that has ended since began as one without an end.
    allocations = latest(store, "allocations", None, end_ns).filter(held).collect()
    if work.is_empty() or allocations.is_empty():
        words = {"device": pl.String(), "window": pl.Datetime("ns")}
        return pl.DataFrame(schema={**words, "tokens": pl.Float64(), "alone": pl.Boolean()})
    return tokens_of_devices(work.lazy(), allocations.lazy(), by=f"{every_s}s").collect()


def _work_out(drawn: _Drawn, selection: Selection, start_ns: int, end_ns: int, every_s: int) -> View:
    drawn, by = drawn.of(selection), selection.by
    found, group = drawn.found, group_of(by, drawn.sites)
    used = found.devices.join(drawn.tokens, on=["device", "window"], how="left").with_columns(group=group)
    # A device of a group has no tokens of its own.
    told = used.with_columns(tokens=pl.when("alone").then("tokens")) if by == "device" else used
    busy = found.utilization.with_columns(group=group).sort("window", "device")
    now = drawn.now.with_columns(group=group)
    power = regrouped(found, by="fleet")
    groups = found.power["device"] if by == "device" else regrouped(found, by=by, hosts=drawn.sites)
    length_s = (end_ns - start_ns) / NS
    return View(
        selection=selection,
        start=utc(start_ns),
        end=utc(end_ns),
        every_s=every_s,
        max_gap_s=_number(found.devices["max_gap_s"].max()) or GAP_S,
        peaks_s=drawn.peaks_s,
        totals=_totals(power, used, busy, now, length_s),
        power=power,
        groups=groups.select("window", "group", "power_mean_w"),
        utilization=busy.group_by("window", "group").agg(pl.col("utilization_ratio").mean()).sort("window", "group"),
        efficiency=_per_joule(told, "window", "group").select("window", "group", "tokens_per_joule").drop_nulls(),
        table=_table(groups, told, busy, now, length_s),
    )


def bucket_s(window_s: float, *, devices: int = 0, least_s: float = 0.0) -> int:
    """
    The shortest step that divides *window_s* into no more parts than suit a screen and so many devices.

    It is no shorter than *least_s*, the time between two readings: what lies between these is not a gap.
    """
    wanted = min(BUCKETS, max(FEWEST, CELLS // max(devices, 1)))
    return next((step for step in STEPS_S if window_s / step <= wanted and step >= least_s), STEPS_S[-1])


def _seen(store: Store, start_ns: int, end_ns: int) -> pl.DataFrame:
    """Hosts and devices of a stretch: of hours that are rolled up by the rollup, of the last one by its readings."""
    recent_ns = max(start_ns, end_ns - _HOUR_NS)
    if not store.segments("device_rollups", start_ns, recent_ns):
        recent_ns = start_ns
    rows = [scan(store, "device_samples", recent_ns, end_ns)]
    if recent_ns > start_ns:
        # A rollup's time is the start of its hour.
        first_ns = start_ns // _HOUR_NS * _HOUR_NS
        rows.append(scan(store, "device_rollups", first_ns, end_ns, pl.col("window_s") == _HOUR_NS // NS))
    return pl.concat([some.select("host", "device") for some in rows]).unique().collect()


def _edge_ns(period_s: float, end_ns: int) -> int:
    """Since when a reading says what a device draws now."""
    return end_ns - round(max(NOW_S, GAP_PERIODS * period_s) * NS)


def _since(edge_ns: int) -> pl.Expr:
    edge = pl.lit(edge_ns, dtype=pl.Int64).cast(pl.Datetime("ns"))
    return (pl.col("time") >= edge) & pl.col(POWER.column).is_not_null()


def _watched(parts: Iterable[pl.DataFrame], edge_ns: int, kept: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The parts as they are; their power readings since *edge_ns* are *kept*."""
    for rows in parts:
        kept.append(rows.filter(_since(edge_ns)))
        yield rows


def _now(rows: pl.DataFrame) -> pl.DataFrame:
    """The last power of each device: a measured one before a modelled one."""
    return (
        rows.with_columns(modelled=(pl.col("power_method") == "modelled").fill_null(False))
        .sort("modelled", "time", descending=[True, False])
        .group_by("device")
        .agg(pl.col(POWER.column, "modelled", "host", "time").last())
    )


def _per_joule(used: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Sums over devices and buckets; null where nothing was covered, or no token counted."""
    tokens, joules = pl.col("tokens"), pl.col("energy_j")
    sums = used.group_by(keys).agg(
        pl.col("device").n_unique().alias("devices"),
        pl.when(joules.count() > 0).then(joules.sum()).alias("energy_j"),
        pl.when(tokens.count() > 0).then(tokens.sum()).alias("tokens"),
        pl.col("covered_s", "modelled_j").sum(),
    )
    return sums.with_columns(
        tokens_per_joule=tokens_per_joule(tokens, joules), joules_per_token=joules_per_token(tokens, joules)
    ).sort(keys)


def _totals(power: pl.DataFrame, used: pl.DataFrame, busy: pl.DataFrame, now: pl.DataFrame, length_s: float) -> Totals:
    joules, covered_s = column_sum(used, "energy_j"), float(used["covered_s"].sum() or 0.0)
    tokens, devices = column_sum(used, "tokens"), used["device"].n_unique()
    of_devices = busy.group_by("device").agg(pl.col("utilization_ratio").mean())
    return Totals(
        devices=devices,
        power_now_w=column_sum(now, POWER.column),
        power_now_devices=now.height,
        power_now_modelled_w=float(now.filter(pl.col("modelled"))[POWER.column].sum() or 0.0),
        power_now_at=None if now.is_empty() else utc(now["time"].cast(pl.Int64).sort()[-1]),
        power_peak_w=_number(power["power_max_w"].max()),
        power_mean_w=None if joules is None or not covered_s else joules / covered_s * devices,
        energy_j=joules,
        covered_ratio=covered_s / (devices * length_s) if devices else 0.0,
        counter_ratio=_share(used, "counter_j", joules),
        modelled_ratio=_share(used, "modelled_j", joules),
        utilization_ratio=_number(of_devices["utilization_ratio"].mean()),
        utilization_devices=of_devices.height,
        tokens=tokens,
        tokens_per_joule=tokens / joules if tokens is not None and joules else None,
    )


def _table(
    groups: pl.DataFrame, used: pl.DataFrame, busy: pl.DataFrame, now: pl.DataFrame, length_s: float
) -> pl.DataFrame:
    """One row for each group: what the tiles say of the whole."""
    joules, covered = pl.col("energy_j"), pl.col("covered_s")
    return (
        _per_joule(used, "group")
        .join(now.group_by("group").agg(power_now_w=pl.col(POWER.column).sum()), on="group", how="left")
        .join(groups.group_by("group").agg(pl.col("power_max_w").max()), on="group", how="left")
        .join(busy.group_by("group").agg(pl.col("utilization_ratio").mean()), on="group", how="left")
        .select(
            "group",
            "devices",
            "power_now_w",
            pl.when(covered > 0).then(joules / covered * pl.col("devices")).alias("power_mean_w"),
            "power_max_w",
            "energy_j",
            (covered / (pl.col("devices") * length_s)).alias("covered_ratio"),
            pl.when(joules > 0).then(pl.col("modelled_j") / joules).alias("modelled_ratio"),
            "utilization_ratio",
            "tokens",
            "tokens_per_joule",
            "joules_per_token",
        )
        .sort("energy_j", "group", descending=[True, False], nulls_last=True)
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _share(frame: pl.DataFrame, column: str, whole: float | None) -> float | None:
    return float(frame[column].sum() or 0.0) / whole if whole else None
