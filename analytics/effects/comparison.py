"""
Did it work: the same work on the same kind of device, before and after a change, or side by side.

What a plain mean of before and after gets wrong, and what is done about it here:

* Load. Joules per token fall by half as a server fills. Served work is compared at equal load: only loads that both
  states have seen, and what load does within them is taken out (a broken line through log load, fitted within groups
  and states, so that it cannot take up the effect). Other work is compared within strata of utilisation.
* Mix. Workloads, SKUs and group sizes are compared each with its own kind (`CONTROL`), never across.
* Drift. Weather, demand and everything else that moves the whole fleet is taken from groups that did not change.
* Boards. A power sensor is off by up to 5 % a board, always by the same: it cancels where the same boards are compared
  with themselves, and widens the interval where they are not.
* Memory. Windows that follow each other are alike; see `analytics.effects.estimate` for where intervals come from.
* Selection. What was changed because it looked bad gets better by itself. How the groups moved against the others
  before the change is measured too; where that is more than chance, the interval is widened by it (Rambachan and Roth
  2023, relative magnitude 1) and said.
* Bundles. What changed together with what is compared is named; what else changed is held constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

import numpy as np
import polars as pl

from analytics.changes import DEVICE_SETTINGS, NO_LOCK
from analytics.effects import estimate as est
from analytics.effects.estimate import Estimate, Panel
from analytics.effects.matching import FEWEST, Adjusted, Design, Load, matched
from analytics.effects.windows import MIXED
from analytics.intervals import SIGMAS, UNCALIBRATED_RATIO

CONTROL: Final = ("model", "framework", "sku", "devices")
"""What is equal in all that is compared, unless asked otherwise; a workload without a model is known by its name."""
HELD: Final = (*DEVICE_SETTINGS, "framework", "framework_version")
"""What is held constant, or named where it cannot be."""
BY: Final = (*HELD, "model", "sku", "site", "host", "team", "user", "name")
"""What can be compared."""
CONTROLS: Final = ("workload", *BY, "devices")
"""What can be equal in all that is compared."""
PLACES: Final = ("host", "site", "sku")
"""What devices are not changed in, but are."""
MARGIN: Final = 0.01
"""Differences within this are none: a tenth of the repeats of MLPerf's measurements are further apart than 1.9 %."""
DEGREES: Final = 1.0
"""The same of temperatures."""
FEWEST_WINDOWS: Final = 6
"""Windows that a group needs in each state."""
FEWEST_GROUPS: Final = 2
"""Groups that either side needs where different groups are compared: one more board is not one more observation."""
REPEATED: Final = 0.0034
"""
Standard deviation of the difference between two measurements of the same, as a ratio.

884 pairs of MLPerf's wall power are apart by 0.23 % in the median, which is 0.6745 of it. No interval that comes from
time alone is narrower: it does not see what a restart does for no reason.
"""
NOT_ENOUGH: Final = "not enough data"


class Measure(NamedTuple):
    """
    What is compared: whether more of it is better (+1) or less (-1), its effect as a ratio or in its own unit, whether
    power sensors stand behind it, and whether it is a measure of work that nobody asks for by the request.
    """

    better: int
    unit: str = "ratio"
    sensed: bool = False
    unasked: bool = False


MEASURES: Final = {
    "joules_per_token": Measure(-1, sensed=True),
    "joules_per_sample": Measure(-1, sensed=True),
    "joules_per_step": Measure(-1, sensed=True),
    "samples_per_joule": Measure(+1, sensed=True),
    "tokens_per_s_per_w": Measure(+1, sensed=True),
    # At equal load the rate of a served workload is the load, not an achievement.
    "tokens_per_s": Measure(+1, unasked=True),
    "steps_per_s": Measure(+1, unasked=True),
    "latency_p50_s": Measure(-1),
    "power_mean_w": Measure(-1, sensed=True),
    "temperature_c": Measure(-1, unit="°C"),
    "clock_sm_hz": Measure(+1),
}

OUT: Final = pl.Schema(
    {
        **dict.fromkeys(("by", "reference", "value", "workload", "metric"), pl.String()),
        **dict.fromkeys(("effect", "effect_low", "effect_high"), pl.Float64()),
        **dict.fromkeys(("unit", "verdict"), pl.String()),
        "naive_effect": pl.Float64(),
        "design": pl.String(),
        **dict.fromkeys(("groups", "controls", "windows_reference", "windows_value"), pl.Int64()),
        "matched_ratio": pl.Float64(),
        **dict.fromkeys(("start", "end"), pl.Datetime("ns")),
        "together": pl.String(),
        **dict.fromkeys(("more_windows", "more_groups"), pl.Int64()),
        "note": pl.String(),
    }
)
"""The columns of `compare`."""


def compare(
    windows: pl.LazyFrame,
    *,
    by: str,
    metrics: Sequence[str] | None = None,
    control: Sequence[str] = CONTROL,
    reference: str | None = None,
    value: str | None = None,
    margin: float = MARGIN,
    load: Load = "auto",
    fewest: int = FEWEST_WINDOWS,
) -> pl.LazyFrame:
    """
    What each value of *by* does, beside a reference.

    In:  windows, as `analytics.effects.windows.windows` gives them; *by*: one of `BY`; *metrics*: of `MEASURES`, else
         all that were measured; *control*: columns that are equal in all that is compared; *reference*: a value of
         *by*, else the one with the most windows; *value*: the one to compare, else each; *load* ``none``: not matched;
         *fewest*: windows (or rows of whatever they are) that a group needs in each state.
    Out: `OUT`, a row for each value and metric, over all workloads, and where there are several one for each:
         effect, effect_low, effect_high: value over reference less one, in *unit* ``ratio``, or a difference in °C,
         with its 95 % interval; verdict: ``better``, ``worse``, ``no difference within ±x %`` or ``not enough data``;
         naive_effect: what the plain means of both would say; design: how it was compared; groups and controls: device
         groups that changed (or have the value) and that did not (or have the reference); windows of both;
         matched_ratio: the share of the windows of the compared groups at loads that both states have; start, end: of
         the windows; together: what changed with it; more_windows, more_groups: what is missing for a verdict, as far
         as can be told; note: what to know.

    Raises: ValueError (*by*, a metric or a control that is none).
    """
    _known(by, BY, "by")
    for name in control:
        _known(name, CONTROLS, "control")
    for name in metrics or ():
        _known(name, MEASURES, "metric")
    frame = windows.with_columns(model=pl.coalesce("model", "name", "workload")).collect()
    found = frame.filter(pl.col(by).is_not_null() & (pl.col(by) != MIXED))
    counts = found.group_by(by).len().sort("len", by, descending=[True, False])
    values = counts[by].to_list()
    if reference is None and values:
        reference = next((name for name in values if name != value), values[0])
    rows: list[dict[str, Any]] = []
    for other in sorted(v for v in values if v != reference and value in {None, v}):
        told = found.filter(pl.col(by).is_in([reference, other])).with_columns(__state=pl.col(by) == other)
        for metric in metrics or MEASURES:
            asked = _Asked(by, metric, margin, load, fewest)
            found_rows = _rows(told, asked, [name for name in control if name != by], wanted=metrics is not None)
            rows += [{"by": by, "reference": reference, "value": other, "metric": metric, **row} for row in found_rows]
    return pl.LazyFrame(rows, schema=OUT)


def _known(name: str, known: Sequence[str] | dict[str, Measure], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}: one of {', '.join(known)} is wanted")


# ------------------------------------------------------------------------------------------------------- comparison


class _Asked(NamedTuple):
    """What is asked of one comparison."""

    by: str
    metric: str
    margin: float
    load: Load
    fewest: int

    @property
    def measure(self) -> Measure:
        return MEASURES[self.metric]

    @property
    def is_ratio(self) -> bool:
        return self.measure.unit == "ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A comparison in the measure's own scale; `rows` are the windows of the compared groups, `matched` those used."""

    estimate: Estimate | None = None
    design: Design = "nothing to compare"
    firm: bool = True
    rows: pl.DataFrame
    matched: pl.DataFrame
    together: str | None = None
    notes: tuple[str, ...] = ()


def _compared(work: pl.DataFrame, asked: _Asked) -> _Found:
    """Two states of *work*, by the best design that there is for them."""
    if work["__state"].n_unique() < 2:
        return _Found(rows=work, matched=work.clear(), notes=("measured in one of both only",))
    work = work.sort("window").with_columns(__cell=pl.struct("__label").rank("dense").cast(pl.Int64))
    # What became known did not change: it was so before.
    known = [pl.col(name).forward_fill().backward_fill().over("__cell", "boards", order_by="window") for name in HELD]
    # Of boards that were never busy enough to tell, no lock is known: that does not make them another kind.
    work = work.with_columns(name for name in known).with_columns(pl.col("clock_lock").fill_null(NO_LOCK))
    for unit in ("boards", "host"):
        together, held = _bundle(work, asked.by, unit)
        told = _grouped(work, [unit, *held])
        switched = _switched(told, asked.fewest)
        if switched.len():
            return _before_after(told, switched, asked, together, same_boards=unit == "boards")
        if asked.by in PLACES:
            break
    together, held = _bundle(work, asked.by, None)
    cell = pl.struct("__label", *held).rank("dense").cast(pl.Int64)
    return _side_by_side(_grouped(work.with_columns(__cell=cell), ["boards"]), asked, together)


def _bundle(work: pl.DataFrame, by: str, unit: str | None) -> tuple[str | None, list[str]]:
    """What else is other in the second state (in most units, else most cells), and what can be held constant."""
    place = ["__cell"] if unit is None else ["__cell", unit]
    together, held = [], []
    for name in HELD:
        if name == by or work[name].n_unique() == 1:
            continue
        usual = (
            work.filter(pl.col(name).is_not_null()).group_by(*place, "__state").agg(pl.col(name).mode().sort().first())
        )
        pairs = usual.filter(~pl.col("__state")).join(usual.filter("__state"), on=place, suffix="_after")
        differ = pairs.filter(pl.col(name) != pl.col(f"{name}_after"))
        if 2 * differ.height > pairs.height:
            most = differ.group_by(name, f"{name}_after").len().sort("len", name, descending=[True, False])
            together.append(f"{name} {most[name][0]} -> {most[f'{name}_after'][0]}")
        else:
            held.append(name)
    return ", ".join(together) or None, held


def _grouped(work: pl.DataFrame, unit: Sequence[str]) -> pl.DataFrame:
    return work.with_columns(
        __unit=pl.struct("__cell", *unit).rank("dense").cast(pl.Int64),
        __cluster=pl.col("host").fill_null("").rank("dense").cast(pl.Int64),
    )


def _switched(work: pl.DataFrame, fewest: int) -> pl.Series:
    """The groups with windows enough in both states."""
    states = work.group_by("__unit").agg(after=pl.col("__state").sum(), before=(~pl.col("__state")).sum())
    return states.filter(pl.min_horizontal("before", "after") >= fewest)["__unit"]


def _before_after(
    work: pl.DataFrame, switched: pl.Series, asked: _Asked, together: str | None, *, same_boards: bool
) -> _Found:
    """Groups that were in both states, against those that stayed in one where there are any."""
    notes = [] if same_boards else ["not the same boards before and after"]
    work = work.with_columns(__switched=pl.col("__unit").is_in(switched.implode()))
    cells = work.filter("__switched")["__cell"].unique()
    work = work.filter(pl.col("__cell").is_in(cells.implode()))
    nothing = _Found(rows=work.filter("__switched"), matched=work.clear(), together=together)
    told = _enough(matched(work, work["__switched"], asked.load, min(FEWEST, asked.fewest)), asked.fewest)
    told = told.with_columns(__switched=pl.col("__state").n_unique().over("__unit") > 1)
    if not told["__switched"].any():
        return replace(nothing, notes=(*notes, "no load that both had"))
    adjusted = Adjusted.of(told, asked.load)
    panel = adjusted.panel(adjusted.value)
    changed, stayed = panel.parted(panel.switched)
    held = np.isfinite(est.contrasts(changed, stayed)).any(axis=1)
    design: Design = "before and after"
    if 2 * held.sum() >= held.size:
        design = "against those that stayed"
        if not held.all():
            left = held.size - held.sum()
            notes.append(f"{left} of {held.size} groups have none to be held against, and are left out")
        changed = changed.only(np.asarray(held))
    else:
        few = f"only {held.sum()} of {held.size} groups have one to be held against" if held.any() else "nothing stayed"
        notes.append(f"{few}: whatever else moved meanwhile is in it")
        stayed = stayed.only(np.zeros(stayed.cell.size, dtype=bool))
    one, firm = _difference(changed, stayed), True
    if not np.isfinite(one.half):
        notes.append("too little time in one of both")
    elif one.basis == "time":
        if one.changed + max(one.stayed, 1) - 2 < est.FEWEST_FREE:
            notes.append("too few device groups: the interval does not cover how groups differ")
            firm = _same_runs(told.filter("__switched"))
            if not firm:
                notes.append("other runs before than after: how runs differ is not in it")
        one = _wider(one, SIGMAS * REPEATED / np.sqrt(one.changed) if asked.is_ratio else 0.0)
    before = est.halves(changed)
    if before.switched.all():
        drift = _difference(before, stayed)
        if abs(drift.value) > drift.half:
            # As if it had gone on: the states are further apart in time than the halves of one of them.
            further = max(1.0, est.time_apart(changed) / est.time_apart(before))
            one = replace(one, half=one.half + abs(drift.value) * further)
            size = f"{np.expm1(drift.value):+.1%}" if asked.is_ratio else f"{drift.value:+.1f} °C"
            notes.append(f"they moved by {size} before the change already, and the interval is wider for it")
    one = _wider(one, adjusted.uncertainty(design))
    if asked.measure.sensed and not same_boards:
        one = _wider(one, _sensors(told))
    used = told.filter("__switched")
    return replace(nothing, estimate=one, design=design, firm=firm, matched=used, notes=tuple(notes))


def _enough(rows: pl.DataFrame, fewest: int) -> pl.DataFrame:
    """Without the states of which a group has only a few windows: it would count as changed, or its boards twice."""
    return rows.filter(pl.len().over("__unit", "__state") >= fewest)


def _same_runs(rows: pl.DataFrame) -> bool:
    """Whether what ran before ran after, too: a service under its name, a job as itself."""
    run = pl.when("asked").then(pl.coalesce("name", "workload")).otherwise("workload")
    states = rows.group_by("__cell", run=run).agg(pl.col("__state").n_unique())
    return bool((states["__state"] > 1).any())


def _difference(changed: Panel, stayed: Panel) -> Estimate:
    """
    Groups that changed, against those that stayed where there are any; from time where groups are too few.

    Without any, the wider of both intervals: what moves all groups at once shows over time only.
    """
    over_time = est.over_time(changed, stayed)
    if stayed.cell.size:
        one = est.over_groups(est.contrasts(changed, stayed), changed, stayed)
        return one if one.free >= est.FEWEST_FREE else over_time
    one = est.of_groups(est.moved(changed), changed.cluster)
    if one.free < est.FEWEST_FREE:
        return over_time
    return max(one, over_time, key=lambda found: found.half if np.isfinite(found.half) else -1.0)


def _side_by_side(work: pl.DataFrame, asked: _Asked, together: str | None) -> _Found:
    """Groups of one state beside groups of the other, over the time that both have."""
    sides = work.group_by("__cell").agg(pl.col("__state").n_unique()).filter(pl.col("__state") > 1)["__cell"]
    work = work.filter(pl.col("__cell").is_in(sides.implode()))
    nothing = _Found(rows=work, matched=work.clear(), together=together)
    if sides.is_empty():
        return replace(nothing, notes=("nothing of one kind in both",))
    told = _enough(matched(work, None, asked.load, min(FEWEST, asked.fewest)), asked.fewest)
    if told["__state"].n_unique() < 2:
        return replace(nothing, notes=("no load that both had",))
    adjusted = Adjusted.of(told, asked.load)
    panel = adjusted.panel(adjusted.value)
    right, left = panel.parted(np.asarray((panel.count[1] > 0).any(axis=1)))
    apart = est.side_by_side(left, right)
    if not np.isfinite(apart).any():
        return replace(nothing, notes=("different devices at different times: nothing tells both apart",))
    one, notes = est.over_groups(apart, right, left), []
    firm = min(one.changed, one.stayed) >= FEWEST_GROUPS and one.free >= est.FEWEST_FREE
    if not firm:
        one = replace(est.apart_over_time(left, right), value=one.value)
        notes.append("too few device groups: the interval is of these devices, not of how others differ")
    one = _wider(one, adjusted.uncertainty("side by side"))
    if asked.measure.sensed:
        one = _wider(one, _sensors(told))
        notes.append("different boards: the interval holds what their sensors may be off")
    # A host is itself what is compared, so that one on either side is all there can be.
    firm = firm or asked.by == "host"
    return replace(nothing, estimate=one, design="side by side", firm=firm, matched=told, notes=tuple(notes))


def _wider(one: Estimate, half: float) -> Estimate:
    """The interval with another independent error in it."""
    return replace(one, half=float(np.hypot(one.half, half)))


def _sensors(told: pl.DataFrame) -> float:
    """Half the interval of what the sensors of the boards on either side are off, each board independently."""
    of_boards = told.group_by("__state", "boards").agg(pl.col("devices").first())
    boards = of_boards.group_by("__state").agg(pl.col("devices").sum())["devices"].to_numpy()
    return float(UNCALIBRATED_RATIO * np.sqrt((1.0 / boards).sum()))


# ------------------------------------------------------------------------------------------------------------- rows


def _rows(told: pl.DataFrame, asked: _Asked, control: Sequence[str], *, wanted: bool) -> list[dict[str, Any]]:
    """The rows of one metric: of all workloads, and where there are several of each."""
    number = pl.col(asked.metric)
    work = told.filter(number.is_finite() & ((number > 0) | pl.lit(not asked.is_ratio)))
    if asked.measure.unasked:
        work = work.filter(~pl.col("asked"))
    if work["__state"].n_unique() < 2 and not wanted:
        return []
    label = pl.concat_str(
        [pl.lit(""), *(pl.col(name).cast(pl.String) for name in control)], separator=", ", ignore_nulls=True
    ).str.strip_prefix(", ")
    work = work.with_columns(__y=number.log() if asked.is_ratio else number, __label=label)
    states = work.group_by("__label").agg(pl.col("__state").n_unique())
    labels = states.filter(pl.col("__state") > 1)["__label"].sort()
    parts = {name: work.filter(pl.col("__label") == name) for name in labels}
    if len(parts) != 1:
        parts = {"all": work, **parts}
    return [{"workload": name, **_row(_compared(part, asked), asked)} for name, part in parts.items()]


def _row(found: _Found, asked: _Asked) -> dict[str, Any]:
    one, verdict = found.estimate, NOT_ENOUGH
    effect = low = high = None
    if one is not None and np.isfinite(one.half):
        effect, low, high = (_scaled(one.value + sign * one.half, asked) for sign in (0, -1, 1))
        verdict = _verdict(low, high, asked) if found.firm else NOT_ENOUGH
    windows = dict(found.matched.group_by("__state").len().iter_rows())
    used = sum(windows.values())
    more_windows, more_groups = _more(one, used, asked) if verdict == NOT_ENOUGH else (None, None)
    start, end = cast("tuple[datetime, datetime]", (found.matched["window"].min(), found.matched["window"].max()))
    notes = list(found.notes)
    if more_windows:
        days = (end - start).total_seconds() / 86_400.0 * more_windows / used
        notes.append(f"a verdict needs {more_windows:,} more windows, about {days:.1f} days as it goes")
    if more_groups:
        notes.append(f"a verdict needs {more_groups:,} more device groups")
    return {
        "effect": effect, "effect_low": low, "effect_high": high, "unit": asked.measure.unit,
        "verdict": verdict, "naive_effect": _naive(found.rows, asked), "design": found.design,
        "groups": one.changed if one else 0, "controls": one.stayed if one else 0,
        "windows_reference": windows.get(False, 0), "windows_value": windows.get(True, 0),
        "matched_ratio": used / found.rows.height if found.rows.height else None, "start": start, "end": end,
        "together": found.together, "more_windows": more_windows, "more_groups": more_groups,
        "note": "; ".join(notes) or None,
    }  # fmt: skip


def _scaled(value: float, asked: _Asked) -> float:
    """A difference in the measure's own scale as an effect: of logarithms as a ratio less one."""
    return float(np.expm1(np.clip(value, -50.0, 50.0))) if asked.is_ratio else value


def _naive(rows: pl.DataFrame, asked: _Asked) -> float | None:
    """What the plain means of both states say."""
    means = dict(rows.group_by("__state").agg(pl.col(asked.metric).mean()).iter_rows())
    if len(means) < 2:
        return None
    return float(means[True] / means[False] - 1.0) if asked.is_ratio else float(means[True] - means[False])


def _verdict(low: float, high: float, asked: _Asked) -> str:
    """What the interval says."""
    within = asked.margin if asked.is_ratio else DEGREES
    if -within <= low and high <= within:
        return (
            f"no difference within ±{100 * within:.3g} %" if asked.is_ratio else f"no difference within ±{within:g} °C"
        )
    if low > 0 or high < 0:
        return "better" if (low > 0) == (asked.measure.better > 0) else "worse"
    return NOT_ENOUGH


def _more(one: Estimate | None, windows: int, asked: _Asked) -> tuple[int | None, int | None]:
    """
    How many more windows, or device groups, a verdict needs if things stay as they are.

    An interval narrows by the root of what it rests on. It has to become narrower than the effect, or than what is
    left between the effect and the margin.
    """
    if one is None or not np.isfinite(one.half) or one.half == 0.0:
        return None, None
    within = asked.margin if asked.is_ratio else DEGREES
    times = max(1.0, (one.half / max(abs(one.value), within - abs(one.value))) ** 2) - 1.0
    if one.basis == "time":
        return int(np.ceil(times * windows)), None
    return None, int(np.ceil(times * (one.changed + one.stayed)))
