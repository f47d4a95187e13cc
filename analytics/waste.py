"""
What the ledger says to people: waste by cause with what to do about it, and the funnel of the fleet.

Both are sums over the lines of `analytics.ledger`, so both add up to the devices' time, energy and money.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal

import polars as pl

from analytics.attribution import ENERGY, named
from analytics.cost import COST
from analytics.intervals import total

Per = Literal["cause", "workload", "name", "user", "team", "model", "host", "sku", "site", "fleet"]

_ACTIVE: Final = ("stalled", "underused", "throttled", "useful")
STEPS: Final = ("total", "allocated", "active", "effective")
"""Of the funnel."""
_EFFECTIVE: Final = ("throttled", "useful")
_ADVICE: Final = {
    ("failed", "lost"): "while devices were lost: reset or replace them; the events device_gone name them.",
    ("failed", "xid"): "after an XID that asks for a reset: drain and reset the devices, replace what fails again.",
    ("failed", "row_remap"): "after a row remap failed: have the boards replaced.",
    ("unallocated", None): "held by nobody: place what waits there, or power hosts down until it comes.",
    (
        "unmeasured",
        None,
    ): "of which nothing tells the use: mend gaps, read activity; 'perfwatt doctor' says what lacks.",
    (
        "idle",
        None,
    ): "held without a kernel running: end jobs when they are done (--time), ask for fewer devices (--gpus, "
    "nvidia.com/gpu).",
    (
        "stalled",
        "input",
    ): "waiting for input: more loader workers and CPUs (num_workers, --cpus-per-task), data near the "
    "host, pinned memory.",
    ("stalled", "network"): "waiting for other devices: look for stragglers and fabric errors, place the group closer "
    "together, overlap communication.",
    (
        "underused",
        None,
    ): "at low activity: a larger batch (--max-num-seqs, per_device_train_batch_size), or a part of a "
    "device (MIG, MPS).",
    ("throttled", "thermal"): "lost to heat: look at fans, filters and inlet temperature.",
    ("throttled", "power_brake"): "lost to an external power brake: look at the power supplies and the PDU.",
    ("throttled", "hardware"): "lost to a hardware slowdown: look at supply and cooling of the boards.",
    ("throttled", "power_cap"): "lost to a power limit below the default: raise it (nvidia-smi -pl) where there is "
    "headroom, or keep it where joules per token fell by more.",
    ("throttled", "sync"): "lost following the slowest device of a group: find and mend that one.",
}
"""What to do about each cause and reason; a sentence goes on from a number of device-hours."""


def placed(
    lines: pl.LazyFrame,
    *,
    hosts: Mapping[str, str] | None = None,
    types: pl.LazyFrame | None = None,
    workload_samples: pl.LazyFrame | None = None,
) -> pl.LazyFrame:
    """
    Lines of `ledger` with what they can be summed by.

    In:  *hosts*: each host's site; *types*: device, sku, as `analytics.inventory.device_types` gives them;
         *workload_samples*: workload, model.
    Out: the lines and site, sku, model (the workload's), fleet; null where it is not known.
    """
    told = named(lines, workload_samples, hosts)
    if types is None:
        return told.with_columns(sku=pl.lit(None, pl.String))
    return told.join(types.select("device", "sku"), on="device", how="left")


def over_windows(lines: pl.LazyFrame) -> pl.LazyFrame:
    """
    The lines with their windows summed: for `waste` and `funnel` the same, in a small part of the rows.

    In:  lines of `ledger`, `placed` and, where there are prices, with the costs of `analytics.cost.priced`.
    Out: the lines without window. What would be null for the whole is null: an interval of which a part is not known,
         costs of which one has no price. The parts of a line are of one board, whose errors add up as the joules do.
    """
    columns = lines.collect_schema().names()
    priced = "currency" in columns
    sums = ("span_s", "covered_s", "modelled_j", "judged_s")
    figures = ((ENERGY, pl.lit(value=False)), *(((COST, pl.col("energy_j").is_null()),) if priced else ()))
    amounts = {name: pl.col(name).sum() for name in sums}
    for (value, low, high), excused in figures:
        known = (pl.col(value).is_not_null() | excused).all() if value != ENERGY[0] else pl.lit(value=True)
        whole = pl.when(known & (pl.col(value).count() > 0)).then(pl.col(value).sum())
        sure = (pl.col(high).is_not_null() | pl.col(value).is_null()).all()
        half = pl.when(sure).then((pl.col(high) - pl.col(value)).sum())
        amounts |= {value: whole, low: whole - half, high: whole + half}
    if priced:
        fixed = pl.col("fixed_cost")
        amounts["fixed_cost"] = pl.when(fixed.is_not_null().all()).then(fixed.sum())
    keys = [name for name in columns if name not in amounts and name != "window"]
    return lines.group_by(keys).agg(**amounts)


def waste(lines: pl.LazyFrame, *, per: Per = "cause") -> pl.LazyFrame:
    """
    The ledger summed: what each cause took of each workload, user, team, host, site or SKU, and what to do about it.

    In:  lines of `ledger`, with the column *per* (see `placed`), and the costs of `analytics.cost.priced` where they
         have prices; windows are summed over.
    Out: *per* (null for nobody's), cause, reason, devices, device_h, time_ratio (of the device-hours of *per*; of all
         where *per* is cause), covered_ratio, energy_j, energy_low_j, energy_high_j, modelled_ratio, judged_ratio;
         where priced currency, energy_cost, energy_cost_low, energy_cost_high, fixed_cost, cost, cost_basis
         (``energy+devices``, ``energy``, ``devices``); advice.

    The dearest first (without prices: the most energy), and what was useful last, so that the rows add up to the whole.
    """
    priced = "currency" in lines.collect_schema().names()
    key, money = [] if per == "cause" else [per], ["currency"] if priced else []
    whole = pl.col("span_s").sum().over(key) if key else pl.col("span_s").sum()
    rows = ("energy_j", "device_h", *key, "cause")
    falling = (True, True, *(False for _ in key), False)
    return (
        _summed(lines, [*key, "cause", "reason", *money])
        .with_columns(time_ratio=pl.col("span_s") / whole)
        .sort(
            pl.col("cause") == "useful", *(["cost"] if priced else []), *rows,
            descending=[False, *([True] if priced else []), *falling], nulls_last=True,
        )
        .select(
            *key, "cause", "reason", "devices", "device_h", "time_ratio", "covered_ratio", *ENERGY, "modelled_ratio",
            "judged_ratio", *money, *((*COST, "fixed_cost", "cost", "cost_basis") if priced else ()), advice=_advice(),
        )
    )  # fmt: skip


def funnel(lines: pl.LazyFrame, *, length_s: float, per: Per = "fleet") -> pl.LazyFrame:
    """
    Total, allocated, active and effective devices: what is left of the fleet at each step, and what each step loses.

    In:  lines of `ledger`, with the column *per* (see `placed`), and the costs of `analytics.cost.priced` where they
         have prices; *length_s*: of the window that the lines are of.
    Out: *per*, currency (where priced), step, devices (the mean over the window), device_h, ratio (of the total's
         device-hours), energy_j, energy_low_j, energy_high_j, power_mean_w (energy over the window), covered_ratio,
         judged_ratio (of the device-hours in use, how many are judged by the activity of compute units or tensor pipes;
         utilisation stands in for the others), cost and cost_basis (where priced), and lost_devices, lost_device_h,
         lost_energy_j, lost_cost, lost_power_w: what the step before has more. The steps, in order:

         * ``total``: devices that were read, or failed;
         * ``allocated``: held by somebody; lost: unallocated, or failed while nobody held them;
         * ``active``: in use; lost: idle, failed, or not measured;
         * ``effective``: with more than half of the compute units active; lost: stalled or underused.

    What each step loses plus what is left is the step before.
    """
    priced = "currency" in lines.collect_schema().names()
    keys: list[str] = [per, *(["currency"] if priced else [])]
    lines = lines.collect().lazy()
    held, cause = pl.col("workload").is_not_null(), pl.col("cause")
    inside = [pl.lit(True), held, held & cause.is_in(_ACTIVE), held & cause.is_in(_EFFECTIVE)]
    # What is lost is summed by itself, not subtracted: where nothing is lost, that is 0.
    outside = [pl.lit(False), *(before & ~after for before, after in pairwise(inside))]
    sums = _steps(lines, keys, [*inside, *outside]).collect().lazy()
    number = pl.col("number")
    left = sums.filter(number < len(STEPS))
    lost = sums.filter(number >= len(STEPS)).with_columns(number=number - len(STEPS))
    of = {"device_h": "device_h", "energy_j": "energy_j"} | ({"cost": "cost"} if priced else {})
    lost = lost.select(*keys, "number", **{f"lost_{name}": pl.col(column) for name, column in of.items()})
    # What was lost without a joule measured takes none from the step before.
    lost = lost.with_columns(pl.col("lost_energy_j").fill_null(0.0))
    hours = length_s / 3600.0
    told = left.join(lost, on=[*keys, "number"], nulls_equal=True).sort(*keys, "number", nulls_last=True)
    first = pl.col("number") == 0
    return told.select(
        *keys, step=pl.col("number").replace_strict(dict(enumerate(STEPS)), return_dtype=pl.String),
        devices=pl.col("device_h") / hours, device_h="device_h",
        ratio=pl.col("device_h") / pl.col("device_h").first().over(keys),
        **{name: pl.col(name) for name in ENERGY}, power_mean_w=pl.col("energy_j") / length_s,
        covered_ratio="covered_ratio", judged_ratio="judged_ratio",
        **{name: pl.col(name) for name in (("cost", "cost_basis") if priced else ())},
        lost_devices=pl.when(~first).then(pl.col("lost_device_h") / hours),
        **{f"lost_{name}": pl.when(~first).then(f"lost_{name}") for name in of},
        lost_power_w=pl.when(~first).then(pl.col("lost_energy_j") / length_s),
    )  # fmt: skip


def _steps(lines: pl.LazyFrame, keys: Sequence[str], inside: Sequence[pl.Expr]) -> pl.LazyFrame:
    """Each group's sums of the lines inside each of some steps, by number: 0 where none is."""
    groups = lines.select(keys).unique()
    numbers = pl.LazyFrame({"number": range(len(inside))}, schema={"number": pl.Int32})
    # At once: a line may be inside of several.
    parts = [lines.filter(which).with_columns(number=pl.lit(number)) for number, which in enumerate(inside)]
    summed = _summed(pl.concat(parts), [*keys, "number"])
    told = groups.join(numbers, how="cross").join(summed, on=[*keys, "number"], how="left", nulls_equal=True)
    zero = [name for name in ("device_h", "energy_j", "cost") if name in told.collect_schema().names()]
    none = pl.col("span_s").is_null()
    return told.with_columns(pl.when(none).then(0.0).otherwise(name).alias(name) for name in zero)


def _summed(lines: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Sums of lines and what they tell, and of their costs where there are any."""
    lines = lines.collect().lazy()
    span_s, joules = pl.col("span_s").sum(), pl.col("energy_j")
    used_s = pl.col("span_s").filter(pl.col("cause").is_in(_ACTIVE)).sum()
    sums = {
        "devices": pl.col("device").n_unique(),
        "span_s": span_s,
        "device_h": span_s / 3600.0,
        "covered_ratio": pl.when(span_s > 0).then(pl.col("covered_s").sum() / span_s),
        "modelled_ratio": pl.when(joules.sum() > 0).then(pl.col("modelled_j").sum() / joules.sum()),
        "judged_ratio": pl.when(used_s > 0).then(pl.col("judged_s").sum() / used_s),
    }
    found = total(lines, keys).join(lines.group_by(keys).agg(**sums), on=keys, nulls_equal=True)
    if "currency" not in lines.collect_schema().names():
        return found
    paid, fixed = pl.col("energy_cost"), pl.col("fixed_cost")
    known = lines.group_by(keys).agg(
        all_paid=(paid.is_not_null() | joules.is_null()).all() & (paid.count() > 0),
        fixed_cost=pl.when(fixed.is_not_null().all()).then(fixed.sum()),
    )
    basis = {
        "energy+devices": paid.is_not_null() & fixed.is_not_null(), "energy": paid.is_not_null(),
        "devices": fixed.is_not_null(),
    }  # fmt: skip
    return (
        found.join(total(lines, keys, columns=COST), on=keys, nulls_equal=True)
        .join(known, on=keys, nulls_equal=True)
        .with_columns(pl.when("all_paid").then(name).alias(name) for name in COST)
        .with_columns(
            cost=pl.when(paid.is_not_null() | fixed.is_not_null()).then(paid.fill_null(0.0) + fixed.fill_null(0.0)),
            cost_basis=pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds in basis.items()),
        )
    )


def _advice() -> pl.Expr:
    """One sentence on each row: how much, and what to change."""
    hours = pl.col("device_h").round(1).cast(pl.String) + pl.lit(" device-hours")
    share = (pl.col("time_ratio") * 100).round(1).cast(pl.String) + pl.lit(" %")
    told = pl.lit(None, pl.String)
    for (cause, reason), text in _ADVICE.items():
        here = (pl.col("cause") == cause) & (pl.col("reason").eq_missing(pl.lit(reason, pl.String)))
        told = pl.when(here).then(pl.format(f"{{}} ({{}}) {text}", hours, share)).otherwise(told)
    return told
