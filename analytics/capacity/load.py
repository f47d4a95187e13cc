"""
What racks drew in each minute: means of a minute, all of a site at the same minutes, so that peaks are joint.

A rack's own meters count before its hosts' platform sensors, those before its accelerators with what their server draws
besides, and those before nameplates; how much of a load is which goes with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.capacity.tree import Floats, Pool, Tree
from analytics.fleet import Fleet, Rack, Sku, is_pattern
from collector.catalogue import HOST_PLATFORM_POWER, METER_POWER, POWER

MEASURED: Final = 0.95
"""A minute counts where so much of what ever was measured is; what lacks in it is at its own mean."""
WALL: Final = 0.8
"""A platform sensor counts where it was read in so many of the minutes in which the accelerators were."""
MINUTES_A_DAY: Final = 1440.0

_MINUTE_NS: Final = 60_000_000_000

Ints = NDArray[np.int64]


def device_minutes(device_samples: pl.LazyFrame, partitions: Sequence[str] = ()) -> pl.LazyFrame:
    """
    The accelerators of each host in each minute.

    In:  device_samples: device, host, source, time, power_w, power_method, each device whole; *partitions*: devices
         whose power is their parent's.
    Out: host, time (start of the minute), power_w (of those read), modelled_w (the part that is modelled), devices.

    Of several sources of a device the one with most readings counts, a measured one before a modelled one.
    """
    rows = device_samples.filter(pl.col("host").is_not_null())
    if partitions:
        rows = rows.filter(~pl.col("device").is_in(partitions))
    modelled = (pl.col("power_method") == "modelled").fill_null(False)
    best = _best(_means(rows, ["device", "host", "source"], POWER.column, modelled), "device")
    hosts, number = _numbered(best.heads["host"])
    subject, by_model = number[best.subject], best.heads["modelled"].to_numpy()[best.subject]
    modelled_w = np.where(by_model, best.value, 0.0)
    host, minute, (power_w, of_model), count = _summed(subject, best.minute, [best.value, modelled_w])
    return pl.LazyFrame(
        {
            "host": hosts.gather(host),
            "time": _times(minute),
            POWER.column: power_w,
            "modelled_w": of_model,
            "devices": count,
        }
    )


def host_minutes(host_samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    The whole machine in each minute, by its platform sensor.

    In:  host_samples: host, source, time, platform_power_w. Out: host, time, power_w.
    """
    return _minutes(host_samples, "host", HOST_PLATFORM_POWER.column)


def meter_minutes(facility_samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    Meters in each minute.

    In:  facility_samples: meter, source, time, meter_power_w. Out: meter, time, power_w.
    """
    return _minutes(facility_samples, "meter", METER_POWER.column)


def _minutes(samples: pl.LazyFrame, subject: str, column: str) -> pl.LazyFrame:
    best = _best(_means(samples, [subject, "source"], column, pl.lit(False)), subject)
    names = best.heads[subject].gather(best.subject)
    return pl.LazyFrame({subject: names, "time": _times(best.minute), POWER.column: best.value})


class _Means(NamedTuple):
    """
    Means of minutes: `value` of `readings`, of whom `subject` tells, by its place in `heads`, in which `minute`.

    heads: the keys of each, and whether it is modelled.
    """

    heads: pl.DataFrame
    subject: Ints
    minute: Ints
    value: Floats
    readings: Ints

    def chosen(self, rows: NDArray[Any]) -> "_Means":
        """Some rows."""
        return _Means(self.heads, self.subject[rows], self.minute[rows], self.value[rows], self.readings[rows])


def _means(samples: pl.LazyFrame, keys: Sequence[str], column: str, modelled: pl.Expr) -> _Means:
    """
    The means of each minute.

    A store holds series in order, so a minute is mostly one run of rows: words are compared with those of the row
    before, and only what is left by the minute is sorted.
    """
    told = (
        samples.filter(pl.col(column).is_not_null())
        .select(*keys, pl.col(column).cast(pl.Float64), modelled=modelled, time=pl.col("time").cast(pl.Datetime("ns")))
        .with_columns(minute=pl.col("time").to_physical() // _MINUTE_NS)
        .with_columns(
            other=pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in (*keys, "modelled"))
        )
        .collect()
    )
    minute, other = told["minute"].to_numpy(), told["other"].to_numpy().copy()
    other[:1] = True
    of_run = np.flatnonzero(other)
    heads = told.select(*keys, "modelled").select(pl.all().gather(of_run))
    heads, number = _numbered(heads)
    starts = np.flatnonzero(other | np.append(True, minute[1:] != minute[:-1])[: other.size])
    subject = number[np.searchsorted(of_run, starts, side="right") - 1]
    found = _Means(
        heads, subject, minute[starts], _sums(told[column].to_numpy(), starts), np.diff(np.append(starts, minute.size))
    )
    order = np.lexsort((found.minute, found.subject))
    found = found.chosen(order)
    again = (found.subject[1:] == found.subject[:-1]) & (found.minute[1:] == found.minute[:-1])
    starts = np.flatnonzero(np.append(True, ~again)[: order.size])
    readings = _sums(found.readings, starts)
    return _Means(heads, found.subject[starts], found.minute[starts], _sums(found.value, starts) / readings, readings)


def _sums(values: NDArray[Any], starts: Ints) -> NDArray[Any]:
    return np.add.reduceat(values, starts) if starts.size else values[:0]


def _numbered(of: Any) -> tuple[Any, Ints]:
    """What different values (or rows) there are, and of each row which it has."""
    frame = of.to_frame() if isinstance(of, pl.Series) else of
    known = frame.unique(maintain_order=True)
    number = frame.join(
        known.with_row_index("number"), on=frame.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    return known.to_series() if isinstance(of, pl.Series) else known, number["number"].to_numpy().astype(np.int64)


def _summed(subject: Ints, minute: Ints, values: Sequence[Floats]) -> tuple[Ints, Ints, list[Floats], Ints]:
    """The sums of *values* of each subject in each minute that it has rows of, and how many rows those are."""
    count = int(subject.max(initial=-1)) + 1
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(first, subject, minute)
    np.maximum.at(last, subject, minute)
    # Each has places for its own minutes, one after another.
    ends = np.cumsum(np.where(last >= 0, last - first + 1, 0))
    begin = np.append(0, ends[:-1])[:count]
    place = begin[subject] + minute - first[subject]
    rows = np.bincount(place, minlength=int(ends[-1]) if count else 0)
    there = np.flatnonzero(rows)
    of = np.searchsorted(ends, there, side="right")
    # Of no rows at all numpy counts, whatever the weights are.
    sums = [np.bincount(place, some, rows.size)[there].astype(np.float64) for some in values]
    return of, there - begin[of] + first[of], sums, rows[there]


def _times(minute: Ints) -> pl.Series:
    return pl.Series(minute * _MINUTE_NS).cast(pl.Datetime("ns"))


def _best(means: _Means, subject: str) -> _Means:
    """The minutes of the one source of each subject that says most."""
    readings = np.bincount(means.subject, means.readings, means.heads.height)
    best = (
        means.heads.with_row_index("number")
        .with_columns(readings=pl.Series(readings))
        .group_by(subject, "source", "modelled")
        .agg(pl.col("readings").sum(), pl.col("number"))
        .sort("modelled", "readings", "source", descending=[False, True, False])
        .unique(subject, keep="first")
    )
    chosen = np.zeros(means.heads.height, bool)
    chosen[best["number"].explode().to_numpy()] = True
    return means.chosen(np.flatnonzero(chosen[means.subject]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """
    What hangs on the tree: a rack, what else a domain feeds, or hosts in no rack.

    The shares are of its mean load: measured at the wall, modelled from accelerators, or the nameplate. `nameplate_w`
    is None where some of its hosts have none, and `unknown` are hosts of which neither power nor nameplate is known.
    """

    name: str
    pool: Pool
    measured_w: float = 0.0
    modelled_w: float = 0.0
    assumed_w: float = 0.0
    nameplate_w: float | None = None
    unknown: tuple[str, ...] = ()
    rack_units: int | None = None
    ports: int | None = None
    """Rack units and ports that its hosts take, where their SKU tells."""
    hosts: int = 0
    """How many hosts stand in it, where it is a rack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """
    The load of a site: `power_w` is leaves by minutes.

    `covered_ratio` is the share of minutes and hosts of the window that was measured; `days` is how many days of
    minutes count; `partial` are hosts that count with their accelerators only, since nobody told what else they draw.
    """

    leaves: tuple[Leaf, ...]
    times: np.ndarray
    power_w: Floats
    covered_ratio: float
    start_ns: int
    end_ns: int
    partial: tuple[str, ...] = ()

    @property
    def days(self) -> float:
        """Days of minutes that count."""
        return float(len(self.times) / MINUTES_A_DAY)

    @property
    def measured(self) -> bool:
        """Whether anything was measured; otherwise there is one minute, of nameplates."""
        return any(leaf.measured_w or leaf.modelled_w for leaf in self.leaves)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minutes:
    """What was measured in a window: `device_minutes`, `host_minutes`, `meter_minutes`, and each device's model."""

    devices: pl.DataFrame
    hosts: pl.DataFrame
    meters: pl.DataFrame
    models: Mapping[str, tuple[str | None, int]]
    """Of each host the model of its accelerators and how many there are."""
    start_ns: int
    end_ns: int


def minutes_of(
    devices: pl.DataFrame,
    host_samples: pl.LazyFrame,
    facility_samples: pl.LazyFrame,
    known: pl.LazyFrame,
    *,
    start_ns: int,
    end_ns: int,
) -> Minutes:
    """
    What was measured in [start_ns, end_ns).

    In:  devices: rows of `device_minutes`, of which a host may have several for a minute; known: the table devices.
    """
    hosts, number = _numbered(devices["host"])
    host, minute, sums, _ = _summed(
        number,
        devices["time"].to_physical().to_numpy() // _MINUTE_NS,
        [devices[name].to_numpy() for name in (POWER.column, "modelled_w", "devices")],
    )
    latest = known.sort("time").unique("device", keep="last").filter(pl.col("parent").is_null()).drop_nulls("host")
    models = latest.group_by("host").agg(pl.col("model").drop_nulls().sort().first(), devices=pl.len()).collect()
    return Minutes(
        devices=pl.DataFrame(
            {
                "host": hosts.gather(host),
                "time": _times(minute),
                POWER.column: sums[0],
                "modelled_w": sums[1],
                "devices": sums[2].astype(np.int64),
            }
        ),
        hosts=host_minutes(host_samples).collect(),
        meters=meter_minutes(facility_samples).collect(),
        models={host: (model, count) for host, model, count in models.iter_rows()},
        start_ns=start_ns,
        end_ns=end_ns,
    )


def no_minutes(now_ns: int) -> Minutes:
    """Nothing measured: what is planned by nameplates alone."""
    schema = {"time": pl.Datetime("ns"), POWER.column: pl.Float64(), "modelled_w": pl.Float64(), "devices": pl.Int64()}
    hosts, meters = (pl.DataFrame(schema={name: pl.String(), **schema}) for name in ("host", "meter"))
    return Minutes(devices=hosts, hosts=hosts, meters=meters, models={}, start_ns=now_ns, end_ns=now_ns)


def load_of(tree: Tree, fleet: Fleet, told: Minutes) -> Load:
    """
    The load of each leaf of *tree*.

    A minute counts where at least `MEASURED` of the hosts and meters that were there are measured. A host is there from
    its first reading on; one that is silent afterwards still draws, and is taken at its mean.
    """
    series = _Series(tree, fleet, told)
    leaves = [series.rack(rack) for rack in fleet.racks if rack.site == tree.site.name]
    loose = series.loose()
    if loose is not None:
        leaves.append(loose)
    leaves += series.others()
    keep = series.counted
    if not any(leaf.measured_w or leaf.modelled_w for leaf in leaves):
        keep = np.arange(keep.size) == 0
    rows = [series.row(leaf.name)[keep] for leaf in leaves]
    power_w = np.vstack(rows) if rows else np.zeros((0, int(keep.sum())))
    first = told.start_ns // _MINUTE_NS
    return Load(
        leaves=tuple(leaves),
        times=(np.flatnonzero(keep) + first).astype("datetime64[m]"),
        power_w=power_w,
        covered_ratio=series.covered_ratio,
        start_ns=told.start_ns,
        end_ns=told.end_ns,
        partial=tuple(series.partial),
    )


class _Series:
    """Minutes of a site's hosts and meters as arrays, and the leaves that are made of them."""

    def __init__(self, tree: Tree, fleet: Fleet, told: Minutes) -> None:
        self._tree, self._fleet, self._told = tree, fleet, told
        self._first = told.start_ns // _MINUTE_NS
        self._length = max(1, -(-told.end_ns // _MINUTE_NS) - self._first)
        names = sorted({*told.devices["host"], *told.hosts["host"], *told.models})
        site_of = fleet.site_of(names)
        self._hosts = [name for name in names if site_of.get(name) == tree.site.name]
        self._rack_of = fleet.rack_of(self._hosts)
        self._devices = self._grid(told.devices, "host", POWER.column)
        self._counted = self._grid(told.devices, "host", "devices")
        self._modelled = self._grid(told.devices, "host", "modelled_w")
        self._wall = self._grid(told.hosts, "host", POWER.column)
        self._meters = self._grid(told.meters, "meter", POWER.column)
        self._rows: dict[str, Floats] = {}
        self.partial: list[str] = []
        self.counted, self.covered_ratio = self._coverage()

    def row(self, leaf: str) -> Floats:
        """The minutes of a leaf."""
        return self._rows[leaf]

    def rack(self, rack: Rack) -> Leaf:
        """A rack: its meters, or its hosts, or its nameplate."""
        hosts = [host for host in self._hosts if self._rack_of.get(host) == rack.name]
        hosts += [host for host in rack.hosts if host not in hosts and not is_pattern(host)]
        plates = [self._nameplate(host, rack) for host in hosts]
        nameplate = rack.nameplate_w if rack.nameplate_w is not None else _sum(plates)
        leaf, row = self._of_hosts(rack.name, self._tree.racks[rack.name], hosts, nameplate, rack)
        if rack.meters and all(name in self._meters for name in rack.meters):
            row = np.sum([self._filled(self._meters[name]) for name in rack.meters], axis=0)
            leaf = replace(leaf, measured_w=self._mean(row), modelled_w=0.0, assumed_w=0.0, unknown=())
        elif not hosts and rack.nameplate_w:
            row = np.full(self._length, rack.nameplate_w)
            leaf = replace(leaf, assumed_w=rack.nameplate_w)
        self._rows[rack.name] = row
        servers = [sku.server if sku is not None else None for sku in (self._server(host, rack) for host in hosts)]
        return replace(
            leaf,
            hosts=len(hosts),
            rack_units=rack.units_used
            if rack.units_used is not None
            else _whole(None if s is None else s.rack_units for s in servers),
            ports=rack.ports_used
            if rack.ports_used is not None
            else _whole(None if s is None else s.ports for s in servers),
        )

    def loose(self) -> Leaf | None:
        """The site's hosts that stand in no rack; None where there are none."""
        hosts = [host for host in self._hosts if host not in self._rack_of]
        if not hosts:
            return None
        nameplate = _sum([self._nameplate(host, None) for host in hosts])
        leaf, row = self._of_hosts(f"{self._tree.site.name} (no rack)", (), hosts, nameplate, None)
        self._rows[leaf.name] = row
        return leaf

    def others(self) -> list[Leaf]:
        """What domains feed besides racks: as told, or as their meter has it beyond what is below it."""
        found: list[Leaf] = []
        whole = self._tree.weights(self._tree.cases[0])
        below = {name: np.zeros(self._length) for name in self._tree.at}
        columns = {pool: whole[:, at] for at, pool in enumerate(self._tree.pools)}

        def hang(leaf: Leaf, row: Floats) -> None:
            for name, at in self._tree.at.items():
                below[name] = below[name] + columns[leaf.pool][at] * row

        for rack in self._tree.racks:
            hang(Leaf(name=rack, pool=self._tree.racks[rack]), self._rows[rack])
        # Leaves of the tree first: what a meter finds there is known to those above it.
        for domain in reversed([d for d in self._fleet.domains if d.site == self._tree.site.name]):
            name = f"{domain.name} (other)"
            if domain.meter is not None and domain.meter in self._meters:
                row = self._filled(self._meters[domain.meter]) - below[domain.name]
                leaf = Leaf(name=name, pool=(domain.name,), measured_w=self._mean(row), nameplate_w=domain.other_w)
            elif domain.other_w:
                row = np.full(self._length, domain.other_w)
                leaf = Leaf(name=name, pool=(domain.name,), assumed_w=domain.other_w, nameplate_w=domain.other_w)
            else:
                continue
            self._rows[name] = row
            hang(leaf, row)
            found.append(leaf)
        return found

    # --------------------------------------------------------------------------------------------------- hosts

    def _of_hosts(
        self, name: str, pool: Pool, hosts: Sequence[str], nameplate: float | None, rack: Rack | None
    ) -> tuple[Leaf, Floats]:
        total = np.zeros(self._length)
        measured = modelled = assumed = 0.0
        unknown: list[str] = []
        for host in hosts:
            row, at_wall, by_model = self._host(host, rack)
            if row is not None:
                total += row
                measured += at_wall
                modelled += by_model
            elif (plate := self._assumed(host, rack, len(hosts))) is not None:
                total += plate
                assumed += plate
            else:
                unknown.append(host)
        leaf = Leaf(
            name=name, pool=pool, measured_w=measured, modelled_w=modelled, assumed_w=assumed, nameplate_w=nameplate,
            unknown=tuple(unknown),
        )  # fmt: skip
        return leaf, total

    def _host(self, host: str, rack: Rack | None) -> tuple[Floats | None, float, float]:
        """The minutes of a host, and the means of what of it is measured and modelled; None where it was not read."""
        devices, wall = self._devices.get(host), self._wall.get(host)
        read = 0 if devices is None else int(np.isfinite(devices).sum())
        if wall is not None and np.isfinite(wall).sum() >= WALL * read:
            row = self._filled(wall)
            return row, self._mean(row), 0.0
        if devices is None:
            return None, 0.0, 0.0
        # Devices of a host are alike: those that were not read in a minute are taken as those that were.
        count = max(self._told.models.get(host, (None, 0))[1], float(np.nanmax(self._counted[host])))
        scale = count / self._counted[host]
        there = np.isfinite(devices)
        row = self._filled(devices * scale)
        made = float(np.nansum((self._modelled[host] * scale)[there]) / max(1, there.sum()))
        rest = self._overhead(host, rack)
        if rest is None:
            self.partial.append(host)
            rest = 0.0
        whole = row + np.where(row > 0, rest, 0.0)
        return whole, self._mean(row) - made, made + rest

    def _server(self, host: str, rack: Rack | None) -> Sku | None:
        model = self._told.models.get(host, (None, 0))[0]
        sku = self._fleet.sku_of(model)
        if (sku is None or sku.server is None) and rack is not None and rack.sku is not None:
            return self._fleet.sku(rack.sku)
        return sku

    def _overhead(self, host: str, rack: Rack | None) -> float | None:
        """What a server draws beside its accelerators: its peak less theirs."""
        sku = self._server(host, rack)
        if sku is None or sku.server is None or sku.tdp_w is None:
            return None
        most = sku.server.peak_w or sku.server.nameplate_w
        return None if most is None else max(0.0, most - sku.server.accelerators * sku.tdp_w)

    def _nameplate(self, host: str, rack: Rack | None) -> float | None:
        """What is written on a host."""
        if rack is not None and rack.nameplate_w is not None:
            return None
        sku = self._server(host, rack)
        return None if sku is None or sku.server is None else sku.server.nameplate_w or sku.server.peak_w

    def _assumed(self, host: str, rack: Rack | None, count: int) -> float | None:
        if rack is not None and rack.nameplate_w is not None:
            return rack.nameplate_w / count
        return self._nameplate(host, rack)

    # --------------------------------------------------------------------------------------------------- minutes

    def _grid(self, frame: pl.DataFrame, subject: str, column: str) -> dict[str, Floats]:
        """Each subject's minutes of the window, NaN where it was not read."""
        wanted = self._hosts if subject == "host" else None
        rows = frame if wanted is None else frame.filter(pl.col(subject).is_in(wanted))
        found: dict[str, Floats] = {}
        for (name,), part in rows.group_by(subject):
            at = part["time"].cast(pl.Datetime("ns")).to_physical().to_numpy() // _MINUTE_NS - self._first
            inside = (at >= 0) & (at < self._length)
            grid = np.full(self._length, np.nan)
            grid[at[inside]] = part[column].to_numpy()[inside]
            found[str(name)] = grid
        return found

    def _coverage(self) -> tuple[np.ndarray, float]:
        """The minutes that count, and the share of minutes and hosts that was measured."""
        ours = {meter for rack in self._fleet.racks if rack.name in self._tree.racks for meter in rack.meters}
        metered = {rack.name for rack in self._fleet.racks if rack.meters and set(rack.meters) <= set(self._meters)}
        grids = [self._meters[name] for name in sorted(ours) if name in self._meters]
        for host in self._hosts:
            if self._rack_of.get(host) not in metered:
                known = [grid[host] for grid in (self._devices, self._wall) if host in grid]
                grids += [np.where(np.isfinite(known[0]), known[0], known[-1])] if known else []
        there, read = np.zeros(self._length), np.zeros(self._length)
        for grid in grids:
            finite = np.isfinite(grid)
            there[int(np.argmax(finite)) if finite.any() else self._length :] += 1
            read += finite
        counted = (there > 0) & (read >= MEASURED * there)
        return counted, float(read.sum() / (there.max(initial=0.0) * self._length)) if there.any() else 0.0

    def _filled(self, grid: Floats) -> Floats:
        """0 before the first reading; what lacks afterwards is at the mean."""
        finite = np.isfinite(grid)
        if not finite.any():
            return np.zeros(self._length)
        filled = np.where(finite, grid, float(np.nanmean(grid)))
        filled[: int(np.argmax(finite))] = 0.0
        return filled

    def _mean(self, row: Floats) -> float:
        return float(row.mean()) if row.size else 0.0


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum; None where one is not known."""
    return None if any(value is None for value in values) else sum(value or 0.0 for value in values)


def _whole(values: Iterable[int | None]) -> int | None:
    """The sum of whole numbers; None where one is not known."""
    total = _sum(list(values))
    return None if total is None else round(total)
