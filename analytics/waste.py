"""
What the ledger says to people: waste by cause with what to do about it, and the funnel of the fleet.

Both are sums over the lines of `analytics.ledger`, so both add up to the devices' time, energy and money.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import polars as pl

from analytics.attribution import named

Per = Literal["cause", "workload", "name", "user", "team", "model", "host", "sku", "site", "fleet"]

_ACTIVE: Final = ("stalled", "underused", "throttled", "useful")
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


def waste(lines: pl.LazyFrame, *, per: Per = "cause") -> pl.LazyFrame:
    """
    The ledger summed: what each cause took of each workload, user, team, host, site or SKU, and what to do about it.

    In:  lines of `ledger`, with the column *per* (see `placed`), and the costs of `analytics.cost.priced` where they
         have prices; windows are summed over.
    Out: *per* (null for nobody's), cause, reason, currency (where priced), devices, device_h, covered_ratio, energy_j,
         modelled_ratio, time_ratio (of the device-hours of *per*; of all where *per* is cause), judged_ratio;
         where priced energy_cost, fixed_cost, cost, cost_basis (``energy+devices``, ``energy``, ``devices``); advice.

    The dearest first (without prices: the most energy), and what was useful last, so that the rows add up to the whole.
    """
    names = lines.collect_schema().names()
    key = [] if per == "cause" else [per]
    money = [name for name in ("currency",) if name in names]
    whole = pl.col("span_s").sum().over(key) if key else pl.col("span_s").sum()
    found = (
        lines.group_by(*key, "cause", "reason", *money)
        .agg(devices=pl.col("device").n_unique(), **_sums(names))
        .with_columns(device_h=pl.col("span_s") / 3600.0, time_ratio=pl.col("span_s") / whole)
    )
    costs = ("energy_cost", "fixed_cost", "cost", "cost_basis") if money else ()
    order = [pl.col("cause") == "useful", *(("cost",) if money else ()), "energy_j", "device_h", *key, "cause"]
    falling = [False, *((True,) if money else ()), True, True, *(False for _ in key), False]
    return (
        found.sort(order, descending=falling, nulls_last=True)
        .with_columns(advice=_advice())
        .select(
            *key, "cause", "reason", "devices", "device_h", "covered_ratio", "energy_j", "modelled_ratio", "time_ratio",
            "judged_ratio", *money, *costs, "advice",
        )
    )  # fmt: skip


def funnel(lines: pl.LazyFrame, *, length_s: float, per: str = "fleet") -> pl.LazyFrame:
    """
    Total, allocated, active and effective devices: what is left of the fleet at each step, and what each step loses.

    In:  lines of `ledger`, with the column *per* (see `placed`), and the costs of `analytics.cost.priced` where they
         have prices; *length_s*: of the window that the lines are of.
    Out: *per*, step, currency (where priced), devices (the mean over the window), device_h, ratio (of the total),
         energy_j, power_mean_w (energy over the window), covered_ratio, judged_ratio (of the device-seconds in use, how
         many are judged by the activity of compute units or tensor pipes; utilisation stands in for the others),
         cost and cost_basis (where priced), and lost_devices, lost_device_h, lost_energy_j, lost_power_w, lost_cost:
         what the step before has more. The steps, in order:

         * ``total``: devices that were read, or failed;
         * ``allocated``: held by somebody; lost: unallocated, or failed while nobody held them;
         * ``active``: in use; lost: idle, failed, or not measured;
         * ``effective``: with more than half of the compute units active; lost: stalled or underused.

    What each step loses plus what is left is the step before.
    """
    names = lines.collect_schema().names()
    money = [name for name in ("currency",) if name in names]
    held, cause = pl.col("workload").is_not_null(), pl.col("cause")
    inside = {
        "total": pl.lit(True),
        "allocated": held,
        "active": held & cause.is_in(_ACTIVE),
        "effective": held & cause.is_in(_EFFECTIVE),
    }
    keys = [per, *money]
    sums = [
        lines.group_by(keys)
        .agg(**_sums(names, where=where))
        .with_columns(step=pl.lit(step), at=pl.lit(number))
        for number, (step, where) in enumerate(inside.items())
    ]  # fmt: skip
    told = pl.concat(sums).sort(*keys, "at", nulls_last=True).with_columns(
        devices=pl.col("span_s") / length_s, device_h=pl.col("span_s") / 3600.0,
        energy_j=pl.col("energy_j").fill_null(0.0), power_mean_w=pl.col("energy_j").fill_null(0.0) / length_s,
    )  # fmt: skip
    costs = ("cost", "cost_basis") if money else ()
    lost = {
        "lost_devices": "devices",
        "lost_device_h": "device_h",
        "lost_energy_j": "energy_j",
        "lost_power_w": "power_mean_w",
        **({"lost_cost": "cost"} if money else {}),
    }
    first = pl.col("span_s").first().over(keys)
    return told.select(
        per, "step", *money, "devices", "device_h", "energy_j", "power_mean_w", "covered_ratio", "judged_ratio", *costs,
        ratio=pl.when(first > 0).then(pl.col("span_s") / first),
        **{name: pl.when(pl.col("at") > 0).then(pl.col(of).shift(1) - pl.col(of)) for name, of in lost.items()},
    )  # fmt: skip


def _sums(names: Sequence[str], where: pl.Expr | None = None) -> dict[str, pl.Expr]:
    """Sums of lines and what they tell, and of their costs where there are any."""

    def of(name: str) -> pl.Expr:
        return pl.col(name) if where is None else pl.col(name).filter(where)

    span_s, covered_s, energy_j = of("span_s").sum(), of("covered_s").sum(), of("energy_j")
    active = pl.col("cause").is_in(_ACTIVE)
    used_s = pl.col("span_s").filter(active if where is None else active & where).sum()
    found = {
        "span_s": span_s,
        "energy_j": pl.when(energy_j.count() > 0).then(energy_j.sum()),
        "covered_ratio": pl.when(span_s > 0).then(covered_s / span_s),
        "modelled_ratio": pl.when(energy_j.sum() > 0).then(of("modelled_j").sum() / energy_j.sum()),
        "judged_ratio": pl.when(used_s > 0).then(of("judged_s").sum() / used_s),
    }
    if "currency" not in names:
        return found
    paid, fixed = of("energy_cost"), of("fixed_cost")
    energy_cost = pl.when((paid.is_not_null() | energy_j.is_null()).all() & (paid.count() > 0)).then(paid.sum())
    fixed_cost = pl.when(fixed.is_not_null().all() & (fixed.len() > 0)).then(fixed.sum())
    both = energy_cost.is_not_null() & fixed_cost.is_not_null()
    return found | {
        "energy_cost": energy_cost,
        "fixed_cost": fixed_cost,
        "cost": pl.when(both).then(energy_cost + fixed_cost).otherwise(pl.coalesce(energy_cost, fixed_cost)),
        "cost_basis": pl.when(both)
        .then(pl.lit("energy+devices"))
        .when(energy_cost.is_not_null())
        .then(pl.lit("energy"))
        .when(fixed_cost.is_not_null())
        .then(pl.lit("devices")),
    }


def _advice() -> pl.Expr:
    """One sentence on each row: how much, and what to change."""
    hours = pl.col("device_h").round(1).cast(pl.String) + pl.lit(" device-hours")
    share = (pl.col("time_ratio") * 100).round(1).cast(pl.String) + pl.lit(" %")
    told = pl.lit(None, pl.String)
    for (cause, reason), text in _ADVICE.items():
        here = (pl.col("cause") == cause) & (pl.col("reason").eq_missing(pl.lit(reason, pl.String)))
        told = pl.when(here).then(pl.format(f"{{}} ({{}}) {text}", hours, share)).otherwise(told)
    return told
