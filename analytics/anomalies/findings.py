"""
Stretches of time in which something is the case, by rule: of thresholds, events, absences and detectors' scores.

A stretch is of one rule and one device, host or workload. Whether it lasts long enough, and what it belongs to, is for
`analytics.anomalies.incidents` to say.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import polars as pl

from analytics.anomalies.rules import (
    NODE_DAYS,
    NODE_KW,
    NODE_WORDS,
    EventRule,
    HeadroomRule,
    MissingRule,
    Rule,
    Rules,
    ScoreRule,
    StalledRule,
    ThresholdRule,
    Value,
)
from collector.moments import NS

STEP_S: Final = 300
"""The rollups that thresholds and absences are judged by."""
STEP_NS: Final = STEP_S * NS
SEEN_NS: Final = 86_400 * NS
"""A device is expected for so long after it was last read."""
# Windows of one condition may be so far apart: one that was not measured does not end it.
_APART: Final = 2
_LEAST_COVERED: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """
    That something was the case from `start_ns` to `end_ns`, as far as is known; `ongoing` until what is known ends.

    `scope` is device, host or workload. `gaps_ns`: for how long it was not so before it had been so for as long as the
    rule wants. `says` is what the rule's text can say; `excess` the sum of what was observed
    beyond the expected, times seconds.
    """

    rule: Rule
    scope: str
    name: str
    host: str | None
    start_ns: int
    end_ns: int
    ongoing: bool = False
    gaps_ns: int = 0
    windows: int = 1
    says: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    observed: float | None = None
    expected: tuple[float | None, float | None, float | None] = (None, None, None)
    p_value: float | None = None
    excess: float | None = None

    @property
    def enough_ns(self) -> int | None:
        """When it had been so for as long as its rule wants; None: it was not for so long."""
        moment_ns = self.start_ns + self.gaps_ns + self.rule.for_ns
        return moment_ns if moment_ns <= self.end_ns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an incident of before left open: by which rules, of whom, since when, and when it was last seen."""

    rules: frozenset[str]
    scope: str
    name: str
    host: str | None
    start_ns: int
    last_ns: int


# ---------------------------------------------------------------------------------------------------------- thresholds


def windows_of(rollups: pl.LazyFrame, step_s: int = STEP_S) -> pl.LazyFrame:
    """The windows of *step_s* of each device, of several sources the one that read most; sorted by device and time."""
    keys = ["device", "time"]
    return (
        rollups.filter(pl.col("window_s") == step_s)
        .sort([*keys, "rows", "source"], descending=[False, False, True, False])
        .unique(keys, keep="first", maintain_order=True)
    )


def thresholds(windows: pl.LazyFrame, rules: Sequence[ThresholdRule], until_ns: int) -> list[Stretch]:
    """
    Where a value was beyond its limit, and from there on until it was within the other.

    In:  windows as `windows_of` gives them.
    """
    columns = {"device", "time", "host", *columns_of(rules)}
    frame = windows.select(sorted(columns)).collect()
    return [stretch for rule in rules for stretch in _beyond(frame, rule, until_ns)]


def columns_of(rules: Sequence[ThresholdRule]) -> set[str]:
    """What *rules* look at and show of a window."""
    looked_at = {name for rule in rules for value in rule.values for name in (value.left, value.right)}
    return {name for name in looked_at if name is not None}.union(*(rule.shows for rule in rules))


def value_of(values: Sequence[Value]) -> pl.Expr:
    """The first of *values* that was measured; a share of nothing is none, and one of the time covered at most all."""
    found = []
    for value in values:
        left = pl.col(value.left)
        if value.sign == "/":
            right = pl.col(str(value.right))
            left = pl.when(right > 0).then(left / right)
            if value.right == "covered_s" and value.left.endswith("_s"):
                # A counter of seconds goes on through a gap, of which nothing is covered.
                left = left.clip(upper_bound=1.0)
        elif value.sign == "-":
            left = left - pl.col(str(value.right))
        found.append(left)
    return pl.coalesce(found)


def _beyond(frame: pl.DataFrame, rule: ThresholdRule, until_ns: int) -> Iterator[Stretch]:
    value = pl.col("value")
    told = frame.select("device", "time", "host", *rule.shows, value=value_of(rule.values)).filter(value.is_not_null())
    told = told.with_columns(run=_runs(told, STEP_NS))
    told = told.filter(_state(rule).over("run"))
    told = told.with_columns(run=_runs(told, STEP_NS))
    worst = value.arg_max() if rule.above else value.arg_min()
    runs = told.group_by("run", maintain_order=True).agg(
        pl.col("device").first(), pl.col("host").drop_nulls().last(), start=pl.col("time").min(),
        end=pl.col("time").max(), windows=pl.len(), worst=value.get(worst), mean=value.mean(), sum=value.sum(),
        **{f"show_{name}": pl.col(name).get(worst) for name in rule.shows},
    )  # fmt: skip
    for row in _nanoseconds(runs).iter_rows(named=True):
        yield Stretch(
            rule=rule,
            scope="device",
            **_run_of(row, "device", until_ns),
            says={
                "value": row["worst"], "mean": row["mean"], "sum": row["sum"], "limit": rule.raise_limit,
                **{name: row[f"show_{name}"] for name in rule.shows},
            },
            metric=rule.values[0].left,
            observed=row["worst"],
            expected=(None, None, rule.raise_limit) if rule.above else (rule.raise_limit, None, None),
        )  # fmt: skip


def _run_of(row: Mapping[str, Any], name: str, until_ns: int) -> dict[str, Any]:
    """What a stretch has of a run of windows, whose subject is in the column *name*."""
    end_ns = row["end"] + STEP_NS
    return {
        "name": row[name], "host": row["host"], "start_ns": row["start"], "end_ns": min(end_ns, until_ns),
        "ongoing": end_ns + STEP_NS >= until_ns, "windows": row["windows"],
    }  # fmt: skip


def _state(rule: ThresholdRule | HeadroomRule) -> pl.Expr:
    """Whether *value* is beyond: from the one limit to the other; between both it is as it was, at first within."""
    value = pl.col("value")
    raised = value > rule.raise_limit if rule.above else value < rule.raise_limit
    cleared = value <= rule.clear_limit if rule.above else value >= rule.clear_limit
    if rule.clear_limit != rule.raise_limit:
        cleared = value < rule.clear_limit if rule.above else value > rule.clear_limit
    return pl.when(raised).then(True).when(cleared).then(False).forward_fill().fill_null(False)


def _runs(frame: pl.DataFrame, step_ns: int, *keys: str) -> pl.Series:
    """A number for each run of windows of one device that follow one another; *frame* is sorted by them."""
    time = pl.col("time").to_physical()
    fresh = (time - time.shift(1)) > _APART * step_ns
    for key in keys or ("device",):
        fresh = fresh | pl.col(key).ne_missing(pl.col(key).shift(1))
    return frame.select(fresh.fill_null(True).cum_sum().alias("run")).to_series()


# -------------------------------------------------------------------------------------------------------------- events


def events(
    found: pl.LazyFrame, rules: Sequence[EventRule], until_ns: int, standing: Iterable[Standing] = ()
) -> list[Stretch]:
    """
    Events that a rule is about; those that another event ends last until then, or until what is known ends.

    In:  found: the table events, up to *until_ns*. standing: what was left open, which an event may end now.
    """
    frame = _nanoseconds(found.filter(pl.col("time").to_physical() < until_ns).sort("time").collect())
    pairs = frame.select("kind", "code").unique()
    by_pair = {pair: rule for pair in pairs.iter_rows() if (rule := _rule_of(pair[0], pair[1], rules)) is not None}
    if not by_pair and not standing:
        return []
    names = [by_pair[pair].name if pair in by_pair else None for pair in frame.select("kind", "code").iter_rows()]
    told = frame.with_columns(rule=pl.Series(names, dtype=pl.String))
    lasting = {rule.name: rule for rule in rules if rule.until is not None}
    moments = told.filter(pl.col("rule").is_not_null() & ~pl.col("rule").is_in(list(lasting)))
    by_name = {rule.name: rule for rule in rules}
    stretches = [_moment(row, by_name[row["rule"]]) for row in _grouped(moments).iter_rows(named=True)]
    for rule in lasting.values():
        open_now = [one for one in standing if rule.name in one.rules]
        stretches += _lasting(told, rule, until_ns, open_now)
    return stretches


def _rule_of(kind: str, code: str | None, rules: Sequence[EventRule]) -> EventRule | None:
    of_kind = [rule for rule in rules if rule.event == kind]
    named = (rule for rule in of_kind if code in rule.codes or not (rule.codes or rule.other_codes))
    return next(named, next((rule for rule in of_kind if rule.other_codes), None))


def _grouped(moments: pl.DataFrame) -> pl.DataFrame:
    """Events of one rule and subject in five minutes as one row: a storm of them tells no more."""
    codes = pl.col("code").drop_nulls()
    return moments.group_by("rule", "host", "device", pl.col("time") // STEP_NS, maintain_order=True).agg(
        first=pl.col("time").min(), last=pl.col("time").max(), count=pl.len(), code=codes.last(),
        codes=codes.unique().sort().str.join(", "), message=pl.col("message").drop_nulls().last(),
    )  # fmt: skip


def _moment(row: Mapping[str, Any], rule: EventRule) -> Stretch:
    return Stretch(
        rule=rule,
        scope="device" if row["device"] else "host",
        name=row["device"] or row["host"],
        host=row["host"],
        start_ns=row["first"],
        end_ns=row["last"],
        windows=row["count"],
        says=_words(row, row["count"]),
    )


def _words(row: Mapping[str, Any], count: int) -> dict[str, Any]:
    code = row["code"] or "none"
    return {"count": count, "code": code, "codes": row.get("codes") or code, "message": row["message"] or ""}


def _lasting(told: pl.DataFrame, rule: EventRule, until_ns: int, standing: Sequence[Standing]) -> Iterator[Stretch]:
    """From each event of *rule* to the next that ends it, for the same device, or the same host and source."""
    begun: dict[tuple[str | None, ...], tuple[int, Mapping[str, Any], int]] = {}
    left = {(one.scope, one.name): one for one in standing}
    for row in told.filter((pl.col("rule") == rule.name) | (pl.col("kind") == rule.until)).iter_rows(named=True):
        key = (row["device"],) if row["device"] else (row["host"], row["source"])
        subject = ("device", row["device"]) if row["device"] else ("host", row["host"])
        if row["rule"] == rule.name:
            first, _, count = begun.get(key, (row["time"], row, 0))
            begun[key] = (first, row, count + 1)
            left.pop(subject, None)
        elif key in begun:
            first, cause, count = begun.pop(key)
            yield _span(rule, cause, first, row["time"], count, ongoing=False)
        elif subject in left:
            # It began before what is looked at.
            one = left.pop(subject)
            yield _span(rule, _unknown(one), one.last_ns, row["time"], 1, ongoing=False)
    for first, cause, count in begun.values():
        yield _span(rule, cause, first, until_ns, count, ongoing=True)
    for one in left.values():
        yield _span(rule, _unknown(one), one.last_ns, until_ns, 1, ongoing=True)


def _unknown(one: Standing) -> dict[str, Any]:
    device = one.name if one.scope == "device" else None
    return {"device": device, "host": one.host, "code": None, "message": None}


def _span(
    rule: EventRule, cause: Mapping[str, Any], start_ns: int, end_ns: int, count: int, *, ongoing: bool
) -> Stretch:
    row = {**cause, "first": start_ns, "last": end_ns, "count": count}
    return replace(_moment(row, rule), ongoing=ongoing)


# ------------------------------------------------------------------------------------------------------------- absence


def missing(
    windows: pl.LazyFrame,
    partitions: Iterable[str],
    rule: MissingRule,
    until_ns: int,
    now_ns: int,
    standing: Iterable[Standing] = (),
) -> list[Stretch]:
    """
    Devices of which nothing came, though they were read in the day before.

    In:  windows as `windows_of` gives them, from a day before; *partitions* are no devices. standing: those that were
         missing before.

    Where nothing at all has come for a day (*now_ns*) the recording is over, and nothing is missing after its end.
    """
    listed = sorted(set(windows.select("source").unique().collect()["source"].drop_nulls()))
    ignored = [name for name in listed if any(fnmatchcase(name, text) for text in rule.except_sources)]
    seen = (
        windows.filter((pl.col("rows") > 0) & ~pl.col("source").is_in(ignored) & ~pl.col("device").is_in([*partitions]))
        .select("device", "host", start=pl.col("time").to_physical(), end=pl.col("time").to_physical() + STEP_NS)
        .sort("device", "start")
        .collect()
    )
    ends_ns = int(seen["end"].max() or 0)  # type: ignore[arg-type]
    horizon_ns = until_ns if now_ns - ends_ns <= SEEN_NS else min(until_ns, ends_ns)
    after = pl.col("start").shift(-1).over("device")
    gaps = seen.with_columns(back=after).filter(
        (pl.col("back").fill_null(horizon_ns) - pl.col("end") >= rule.after_ns) & (pl.col("end") < horizon_ns)
    )
    found = [
        _absence(rule, row["device"], row["host"], row["end"], row["back"], horizon_ns)
        for row in gaps.iter_rows(named=True)
    ]
    first = dict(seen.group_by("device").agg(pl.col("start").min()).iter_rows())
    known = {stretch.name for stretch in found}
    for one in standing:
        if rule.name not in one.rules or one.scope != "device" or one.name in known or one.last_ns >= horizon_ns:
            continue
        # Missing for longer than what is looked at: until it is first read again, or taken for removed.
        if one.name in first or horizon_ns - one.start_ns < rule.forget_ns:
            found.append(_absence(rule, one.name, one.host, one.last_ns, first.get(one.name), horizon_ns))
    return found


def _absence(
    rule: MissingRule, device: str, host: str | None, start_ns: int, back_ns: int | None, horizon_ns: int
) -> Stretch:
    end_ns = horizon_ns if back_ns is None else back_ns
    return Stretch(
        rule=rule, scope="device", name=device, host=host, start_ns=start_ns, end_ns=end_ns, ongoing=back_ns is None,
        windows=max(1, (end_ns - start_ns) // STEP_NS), says={"stalls": ""}, metric="rows", observed=0.0,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- scores


def scores(found: pl.LazyFrame, rules: Sequence[ScoreRule], until_ns: int) -> list[Stretch]:
    """
    Where a detector found something odder than a rule lets pass, to the side that it is about.

    A window or two between odd ones end no stretch, but do not count as time for which it was odd.

    In:  found: the table anomaly_scores.
    """
    metrics = [rule.metric for rule in rules]
    frame = (
        found.filter(pl.col("metric").is_in(metrics) & pl.col("p_value").is_not_null())
        .sort("subject", "detector", "metric", "time")
        .collect()
    )
    return [stretch for rule in rules for stretch in _odd(frame, rule, until_ns)]


def _odd(frame: pl.DataFrame, rule: ScoreRule, until_ns: int) -> Iterator[Stretch]:
    off = pl.col("observed") - pl.col("expected_mid")
    side = pl.coalesce(off, "score") > 0 if rule.high else pl.coalesce(off, "score") < 0
    least = pl.max_horizontal(rule.least_ratio * pl.col("expected_mid").abs(), pl.lit(rule.least))
    enough = (off.abs() >= least).fill_null(rule.least_ratio == rule.least == 0)
    wanted = (pl.col("metric") == rule.metric) & (pl.col("p_value") < rule.p_below) & side & enough
    wanted = wanted & (pl.col("window_s").fill_null(STEP_S) == rule.window_s)
    if rule.detectors:
        wanted = wanted & pl.col("detector").is_in(rule.detectors)
    told = frame.filter(wanted)
    if told.is_empty():
        return
    length = pl.col("window_s").fill_null(STEP_S).cast(pl.Int64) * NS
    told = told.with_columns(length=length, off_s=off * length / NS)
    longest_ns = max(told["length"].to_list())
    told = told.with_columns(run=_runs(told, longest_ns, "subject", "detector"))
    # The window with which it has been odd for long enough, or the last.
    wanted_windows = max(1, -(-rule.for_ns // longest_ns))
    runs = told.group_by("run", maintain_order=True).agg(
        pl.col("subject", "scope").first(), pl.col("host").drop_nulls().last(), start=pl.col("time").min(),
        end=pl.col("time").max(), enough=pl.col("time").head(wanted_windows).last(),
        length=pl.col("length").max(), windows=pl.len(), p=pl.col("p_value").min(),
        excess=pl.col("off_s").sum(), **{name: pl.col(name).mean() for name in _OBSERVED},
    )  # fmt: skip
    for row in _nanoseconds(runs).iter_rows(named=True):
        end_ns = row["end"] + row["length"]
        observed, expected, low, high = (row[name] for name in _OBSERVED)
        yield Stretch(
            rule=rule,
            scope=row["scope"] or "device",
            name=row["subject"],
            host=row["host"],
            start_ns=row["start"],
            end_ns=min(end_ns, until_ns),
            ongoing=end_ns + _APART * row["length"] >= until_ns,
            gaps_ns=row["enough"] - row["start"] - (min(wanted_windows, row["windows"]) - 1) * row["length"],
            windows=row["windows"],
            says={"observed": observed, "expected": expected, "low": low, "high": high, "p": row["p"]},
            metric=rule.metric,
            observed=observed,
            expected=(low, expected, high),
            p_value=row["p"],
            excess=row["excess"],
        )


_OBSERVED: Final = ("observed", "expected_mid", "expected_low", "expected_high")


# ------------------------------------------------------------------------------------------------------------- stalled

PROGRESS: Final = {
    "steps_increase": "steps", "tokens_out_increase": "tokens", "samples_increase": "samples",
    "requests_increase": "requests",
}  # fmt: skip
"""What tells that a workload goes on, and what it is called; the first that a workload counts is told of."""


def stalled(
    rollups: pl.LazyFrame, rule: StalledRule, until_ns: int, standing: Iterable[Standing] = ()
) -> list[Stretch]:
    """
    Workloads that made something and make nothing any more.

    What answers requests is idle without any, not stalled: it counts while requests wait or run. What has not made
    anything yet is loading.

    In:  rollups: the table workload_rollups, from before a stall. standing: what was stalled before.
    """
    told = progress(rollups).collect()
    known = [one.name for one in standing if rule.name in one.rules and one.scope == "workload"]
    step_s = float(STEP_S)
    made = pl.col("made") > 0
    worked = made.cum_sum().over("workload") > 0
    told = told.with_columns(
        run=_runs(told, STEP_NS, "workload"),
        before=(pl.col("made") / step_s).filter(made).median().over("workload"),
        still=~made & pl.col("asked") & (worked | pl.col("workload").is_in(known)),
    )
    # A window in which it made something ends a run as a gap does.
    told = told.with_columns(run=pl.struct("run", pl.col("still").not_().cum_sum())).filter("still")
    runs = told.group_by("run", maintain_order=True).agg(
        pl.col("workload", "what", "before").first(), pl.col("host").drop_nulls().last(), start=pl.col("time").min(),
        end=pl.col("time").max(), windows=pl.len(), waiting=pl.col("waiting").max(),
    )  # fmt: skip
    return [_stall(row, rule, until_ns) for row in _nanoseconds(runs).iter_rows(named=True)]


def progress(rollups: pl.LazyFrame) -> pl.LazyFrame:
    """
    What each workload made, window by window.

    Out: workload, time, host, made (what it counts of `PROGRESS`), what (its word), waiting (requests, null where it
         answers none), asked (there are requests, or it needs none); sorted by workload and time.
    """
    counted = [pl.col(name) for name in PROGRESS]
    said = [pl.when(pl.col(name).is_not_null()).then(pl.lit(word)) for name, word in PROGRESS.items()]
    return (
        rollups.filter((pl.col("window_s") == STEP_S) & (pl.col("covered_s") >= _LEAST_COVERED * STEP_S))
        .group_by("workload", "time")
        .agg(
            pl.col("host").drop_nulls().first(),
            *(pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in PROGRESS),
            waiting=pl.max_horizontal(pl.col("queue_length_max").max(), pl.col("requests_running_max").max()),
        )
        .filter(pl.any_horizontal(one.is_not_null() for one in counted))
        .select(
            "workload", "time", "host", "waiting", made=pl.coalesce(counted), what=pl.coalesce(said),
            asked=pl.col("requests_increase").is_null() | (pl.col("waiting") >= 1).fill_null(False),
        )
        .sort("workload", "time")
    )  # fmt: skip


def _stall(row: Mapping[str, Any], rule: StalledRule, until_ns: int) -> Stretch:
    waiting = row["waiting"]
    return Stretch(
        rule=rule,
        scope="workload",
        **_run_of(row, "workload", until_ns),
        says={
            "what": row["what"], "before": row["before"],
            "waits": "" if waiting is None else f", and {waiting:.0f} requests wait or run",
        },
        metric=f"{row['what']}_per_s",
        observed=0.0,
        expected=(None, row["before"], None),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ capacity


def overloads(headroom: pl.LazyFrame, rules: Sequence[HeadroomRule], until_ns: int) -> list[Stretch]:
    """
    Where a node's headroom or runway is beyond a limit: from the row that says so to the next that does not.

    In:  headroom: the table of that name, up to *until_ns*; its rows are states, so the last one holds.
    """
    time = pl.col("time").to_physical()
    # What a node above runs out of is told of that node, not of each that hangs on it.
    own = ~pl.col("binding").str.starts_with("power of ").fill_null(False)
    days = {
        name: pl.when(own).then((pl.col(column).to_physical() - time) / SEEN_NS) for name, column in NODE_DAYS.items()
    }
    frame = headroom.filter(time < until_ns).sort("node", "time").with_columns(**days).collect()
    return [stretch for rule in rules for stretch in _of_nodes(frame, rule, until_ns)]


def _of_nodes(frame: pl.DataFrame, rule: HeadroomRule, until_ns: int) -> Iterator[Stretch]:
    value = pl.col("value")
    told = frame.with_columns(value=value_of(rule.values)).with_columns(beyond=_state(rule).over("node"))
    told = told.with_columns(
        run=(pl.col("beyond").ne_missing(pl.col("beyond").shift(1).over("node"))).cum_sum().over("node"),
        next=pl.col("time").shift(-1).over("node"),
    ).filter("beyond")
    worst = value.arg_max() if rule.above else value.arg_min()
    runs = told.group_by("node", "run", maintain_order=True).agg(
        start=pl.col("time").min(), next=pl.col("next").last(), windows=pl.len(),
        **{name: pl.col(name).get(worst) for name in ("kind", "value", *NODE_WORDS, *NODE_KW.values())},
    )  # fmt: skip
    for row in _nanoseconds(runs).iter_rows(named=True):
        watts = {name: row[column] for name, column in NODE_KW.items()}
        yield Stretch(
            rule=rule,
            scope=row["kind"] if row["kind"] in {"site", "rack"} else "domain",
            name=row["node"],
            host=None,
            start_ns=row["start"],
            end_ns=until_ns if row["next"] is None else row["next"],
            ongoing=row["next"] is None,
            windows=row["windows"],
            says={
                "value": row["value"], "limit": rule.raise_limit, "beyond": abs(row["value"] - rule.raise_limit),
                **{name: row[name] for name in NODE_WORDS},
                **{name: None if watt is None else watt / 1000.0 for name, watt in watts.items()},
            },
            metric=rule.values[0].left,
            observed=row["value"],
            expected=(None, None, rule.raise_limit) if rule.above else (rule.raise_limit, None, None),
        )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- what they share


def _nanoseconds(frame: pl.DataFrame) -> pl.DataFrame:
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(times).cast(pl.Datetime("ns")).cast(pl.Int64))


def findings(
    rules: Rules,
    *,
    windows: pl.LazyFrame,
    workload_rollups: pl.LazyFrame,
    events_found: pl.LazyFrame,
    anomaly_scores: pl.LazyFrame,
    headroom: pl.LazyFrame,
    partitions: Iterable[str],
    until_ns: int,
    now_ns: int,
    standing: Sequence[Standing] = (),
) -> list[Stretch]:
    """All stretches that the rules find, by their start."""
    found = [
        *thresholds(windows, rules.of(ThresholdRule), until_ns),
        *events(events_found, rules.of(EventRule), until_ns, standing),
        *(one for rule in rules.of(MissingRule)
          for one in missing(windows, partitions, rule, until_ns, now_ns, standing)),
        *(one for rule in rules.of(StalledRule) for one in stalled(workload_rollups, rule, until_ns, standing)),
        *scores(anomaly_scores, rules.of(ScoreRule), until_ns),
        *overloads(headroom, rules.of(HeadroomRule), until_ns),
    ]  # fmt: skip
    return sorted(found, key=lambda stretch: (stretch.start_ns, stretch.rule.name, stretch.name))
