"""
The derived tables: what jobs find, what models are, what people decide.

What holds of a window has the window's start as `time` and its length in `window_s`; what is a state (of an incident, a
recommendation, a model) has the moment from which it was so. A job's output replaces its own (job, window).
"""

from typing import Final

from collector.store.table import TIME, Column, Table


def _word(name: str, help: str) -> Column:
    return Column(name, "VARCHAR", help=help)


def _number(name: str, help: str) -> Column:
    return Column(name, "DOUBLE", help=help)


def _count(name: str, help: str) -> Column:
    return Column(name, "BIGINT", help=help)


def _moment(name: str, help: str) -> Column:
    return Column(name, "TIMESTAMP_NS", help=help)


def _flag(name: str, help: str) -> Column:
    return Column(name, "BOOLEAN", help=help)


_WINDOW: Final = Column("window_s", "INTEGER", help="Length of the window that starts at `time`.")
_HOST: Final = _word("host", "The host.")
_ENERGY: Final = _number("energy_j", "Energy; null where nothing was covered.")
_BOUNDS: Final = (
    _number("energy_low_j", "The least that the energy may be, as sensors are off."),
    _number("energy_high_j", "The most that the energy may be."),
)
_COVERED: Final = _number("covered_s", "Device-seconds that the energy accounts for.")
_MODELLED: Final = _number("modelled_j", "The part of the energy that was modelled, not measured.")
_SCOPE: Final = _word("scope", "What the name is of: device, workload, host, rack, domain, site or fleet.")
_NAME: Final = _word("name", "The device, workload, host, rack, power domain or site.")
_METRIC: Final = _word("metric", "The column that was looked at; values are in the unit that ends it.")
_MODEL_VERSION: Final = _word("model_version", "Version of the model or of the method that said so.")
_CURRENCY: Final = _word("currency", "The currency of every cost in the row.")
_OWNER: Final = (
    _word("workload", "The workload; null where nobody held the device."),
    _word("name", "The workload's name."),
    _word("user", "Whose it is."),
    _word("team", "Whose team's it is."),
    _word("model", "The model that ran."),
)
_EXPECTED: Final = (
    _number("observed", "What was measured."),
    _number("expected_low", "The least that was to be expected."),
    _number("expected_mid", "What was to be expected."),
    _number("expected_high", "The most that was to be expected."),
)

DEVICE_ENERGY: Final = Table(
    "device_energy",
    ("device", "window_s"),
    (
        _word("device", "The device; partitions are in their parent."),
        TIME,
        _WINDOW,
        _HOST,
        _word("source", "The source that was taken."),
        _ENERGY,
        *_BOUNDS,
        _COVERED,
        _number("power_mean_w", "Mean power of the time that is covered."),
        _number("power_min_w", "Lowest reading."),
        _number("power_max_w", "Highest reading."),
        _word("power_method", "``counter``, or how the source measured power."),
        _word("power_scope", "What the power is of: device, module, package or die."),
        _number("counter_j", "The part of the energy that a hardware counter measured."),
        _MODELLED,
        _number("agreement_ratio", "Counter over integrated power, where both are known."),
        _number("max_gap_s", "Readings further apart were a gap."),
    ),
    help="Energy of each device.",
)
JOB_ENERGY: Final = Table(
    "job_energy",
    ("device", "kind", "workload", "host", "site", "window_s"),
    (
        _word("device", "The device; null for what hosts and facilities drew beyond."),
        TIME,
        _WINDOW,
        _word("kind", "``used``, ``idle``, ``unallocated``, ``host`` or ``facility``; together they are all energy."),
        _HOST,
        _word("site", "The site, where fleet.toml tells."),
        *_OWNER,
        _number("span_s", "Device-seconds of the line."),
        _COVERED,
        _ENERGY,
        *_BOUNDS,
        _MODELLED,
    ),
    help="Whose energy it was: lines that add up to what devices, hosts and sites drew.",
)
EFFICIENCY: Final = Table(
    "efficiency",
    ("workload", "window_s"),
    (
        _OWNER[0],
        TIME,
        _WINDOW,
        *_OWNER[1:],
        _count("devices", "Devices that it held."),
        _number("allocated_s", "Device-seconds that it held them."),
        _ENERGY,
        *_BOUNDS,
        _COVERED,
        _number("covered_ratio", "Covered over allocated device-seconds."),
        _number("power_mean_w", "Mean power of one device."),
        _number("utilization_ratio", "Mean utilisation of its devices."),
        _number("modelled_ratio", "Modelled over all energy."),
        _number("counted_j", "Energy while its counters were read."),
        _number("tokens", "Tokens generated."),
        _number("tokens_in", "Prompt tokens processed."),
        _number("samples", "Samples processed."),
        _number("steps", "Steps done."),
        _number("requests", "Requests answered."),
        _number("tokens_per_s", "Tokens generated per second."),
        _number("joules_per_token", "Joules per token generated."),
        _number("joules_per_token_low", "The least that it may be."),
        _number("joules_per_token_high", "The most that it may be."),
        _number("tokens_per_s_per_w", "Tokens per second and watt, which is tokens per joule."),
        _number("joules_per_sample", "Joules per sample."),
        _number("joules_per_sample_low", "The least that it may be."),
        _number("joules_per_sample_high", "The most that it may be."),
        _number("samples_per_joule", "Samples per joule."),
        _number("joules_per_step", "Joules per step."),
        _number("joules_per_step_low", "The least that it may be."),
        _number("joules_per_step_high", "The most that it may be."),
    ),
    help="What the energy of each workload brought.",
)
EXPECTATIONS: Final = Table(
    "expectations",
    ("subject", "metric", "window_s"),
    (
        _word("subject", "The device or workload."),
        TIME,
        _WINDOW,
        _SCOPE,
        _HOST,
        _METRIC,
        *_EXPECTED,
        _MODEL_VERSION,
    ),
    help="What each subject was expected to measure, and did.",
)
ANOMALY_SCORES: Final = Table(
    "anomaly_scores",
    ("subject", "detector", "metric", "window_s"),
    (
        _word("subject", "The device, workload or host that was scored."),
        TIME,
        _WINDOW,
        _SCOPE,
        _HOST,
        _word("workload", "The workload that held it."),
        _word("detector", "Who scored: ``expectation``, ``peers``."),
        _METRIC,
        _number("score", "How far from normal, signed as observed minus expected; its size is what p_value ranks."),
        _number("p_value", "Share of recent normal windows that look as odd or odder (conformal)."),
        *_EXPECTED,
        _count("peers", "Peers that it was compared with."),
        _number("covered_ratio", "Share of the window that was measured."),
        _MODEL_VERSION,
    ),
    help="How odd each subject was; windows that are odd enough merge into incidents.",
)
INCIDENTS: Final = Table(
    "incidents",
    ("incident",),
    (
        _word("incident", "The id: the same for what is the same, however often it is computed."),
        TIME,
        _SCOPE,
        _NAME,
        _HOST,
        _word("site", "The site, where fleet.toml tells."),
        _word("kind", "What it is, such as ``xid``, ``throttle_thermal``, ``device_missing``, ``power_high``."),
        _word("severity", "``critical``, ``warning`` or ``info``."),
        _word("state", "``open`` or ``resolved``."),
        _moment("start", "When it began."),
        _moment("last", "When it was last seen."),
        _moment("end", "When it was over; null while it is open."),
        _word("evidence", "One sentence with its numbers."),
        _word("rule", "The rules that found it, the one that speaks first."),
        _METRIC,
        *_EXPECTED,
        _number("p_value", "The smallest p-value within it."),
        _count("windows", "Windows or events that it was merged from."),
        _count("flaps", "How often it had gone away and came back."),
        _count("devices", "Devices that are affected."),
        _word("subjects", "The affected as scope and name (``device:GPU-1``), separated by blanks."),
        _word("part_of", "The incident of a wider place that took it in."),
        _word("workload", "The workload that suffers, where it is one."),
        _number("wasted_j", "Energy so far that brought nothing or was beyond what was expected."),
        _number("wasted_cost", "What that energy cost."),
        _number("lost_tokens", "Tokens so far that were expected and did not come."),
        _CURRENCY,
        _word("action", "What to do."),
        _word("runbook", "Where it says more."),
    ),
    states=True,
    help="What is wrong: windows and events of one kind and place, merged.",
)
FORECASTS: Final = Table(
    "forecasts",
    ("series", "horizon_s"),
    (
        _word("series", "What is forecast: scope, name and metric, separated by slashes."),
        Column("time", "TIMESTAMP_NS", help="When it was issued; nothing later was known."),
        _moment("target", "The moment that it is about: `time` and `horizon_s`."),
        Column("horizon_s", "INTEGER", help="How far ahead."),
        _SCOPE,
        _NAME,
        _METRIC,
        *(_number(f"q{q:02}", f"{q} in 100 outcomes are below.") for q in (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)),
        _word("method", "The model or baseline that was taken at this horizon."),
        _MODEL_VERSION,
        _number("loss", "Weighted quantile loss of the method at this horizon, on data that it was not fitted on."),
        _number("baseline_loss", "The same of the best baseline."),
        _number("coverage_ratio", "Share of outcomes that fell within q10 to q90 in that test."),
        _count("outcomes", "How many outcomes the test had."),
        _number("history_days", "Days of history that it was learned from."),
    ),
    help="What demand and power will be, as quantiles.",
)
HEADROOM: Final = Table(
    "headroom",
    ("node",),
    (
        _word("node", "The node of the power tree, as fleet.toml calls it."),
        TIME,
        _word("kind", "What it is: site, domain, feed, rack ..."),
        _word("site", "Its site."),
        _word("parent", "The node above."),
        _moment("start", "From when on load was looked at."),
        _number("rated_w", "What it is built for."),
        _number("derated_w", "What it may carry day and night."),
        _number("safe_w", "What it may carry: derated, whatever single failure comes."),
        *(
            _number(f"load_{name}_w", f"{text} of its load, in means of a minute.")
            for name, text in (
                ("mean", "Mean"),
                ("p50", "Median"),
                ("p95", "95th percentile"),
                ("p99", "99th percentile"),
                ("max", "Highest"),
            )
        ),
        _number("load_w", "The load that counts, a high percentile."),
        _word("load_basis", "Which percentile that is, and how much of it is measured."),
        _word("worst_failure", "The failure that leaves least."),
        _number("failure_load_w", "The load under that failure."),
        _number("headroom_w", "Safe less load, under that failure."),
        _number("exceedance_ratio", "Share of minutes in which the load, under that failure, was above what is safe."),
        _number("nameplate_w", "What is written on all that hangs on it, under that failure."),
        _number("oversubscription_ratio", "Nameplates over safe."),
        _number("coincidence_ratio", "Its peak over the sum of the peaks of what hangs on it."),
        _count("unknown", "Hosts below of which neither power nor nameplate is known."),
        _number("free_w", "Of a rack: what more it may draw, whatever limits it."),
        _count("servers", "How many more servers fit below it, if they go nowhere else."),
        _number("stranded_w", "Power that no further server can use."),
        _number("covered_ratio", "Share of the time and devices that was measured."),
        _number("modelled_ratio", "Share of the load that is modelled."),
        _moment("runway_p10", "One outcome in ten runs out before."),
        _moment("runway_p50", "Half of the outcomes run out before."),
        _moment("runway_p90", "Nine in ten run out before; null: beyond what is forecast."),
        _word("binding", "What runs out first: power, space, cooling, ports ..."),
        _number("binding_ratio", "Of the outcomes that run out, the share in which that is first."),
        _number("runs_out_ratio", "Share of the outcomes that run out within the horizon."),
        _number("lead_days", "How long it takes to have more of it."),
        _moment("order_by", "When to order: the early runway less the lead time."),
        _moment("horizon", "How far ahead was looked."),
        _count("paths", "How many outcomes were looked at."),
    ),
    states=True,
    help="What is left at each node of the power tree, and until when.",
)
STRANDED: Final = Table(
    "stranded",
    ("site", "cause"),
    (
        _word("site", "The site."),
        TIME,
        _word(
            "cause", "Where it is: ``derating``, ``redundancy``, ``space``, ``cooling``, ``deployable``, ``in use`` ..."
        ),
        _number("power_w", "How much; all but ``installed`` add up to ``installed``."),
        _number("ratio", "The same as a share of what is installed."),
        _word("meaning", "What the cause is, in words."),
        _word("sku", "The server that is to fit, by which it was told."),
    ),
    states=True,
    help="Where every watt is that the domains which feed racks are rated for.",
)
RECOMMENDATIONS: Final = Table(
    "recommendations",
    ("recommendation",),
    (
        _word("recommendation", "The id: the same for what is the same."),
        TIME,
        _word("kind", "What to do: place, move, buy, relieve, cord, plan, measure ..."),
        _SCOPE,
        _NAME,
        _word("site", "The site."),
        _word("summary", "One sentence with its numbers."),
        _moment("start", "Start of the data behind it."),
        _moment("end", "End of the data behind it."),
        _count("samples", "Rows of data behind it."),
        _number("covered_ratio", "Share of the time and devices that was measured."),
        _word("baseline", "What is so now."),
        _word("proposed", "What is proposed."),
        _number("effect_low", "The least effect to be expected."),
        _number("effect_mid", "The effect to be expected."),
        _number("effect_high", "The most effect to be expected."),
        _word("effect_unit", "The unit of the effect: W, kWh/month, EUR/month, tokens/s, slots."),
        _number("risk_low", "The least loss of performance, as a ratio."),
        _number("risk_mid", "The loss of performance to be expected."),
        _number("risk_high", "The most loss of performance."),
        _number("cost", "What it costs to do."),
        _number("saving_per_year", "What it saves in a year."),
        _CURRENCY,
        _word("price_basis", "Which prices were used."),
        _word("method_version", "Version of the method."),
        _word("query", "The statement that shows the evidence."),
        _word("state", "``new``, ``accepted``, ``dismissed``, ``done``, or ``needs_data``."),
        _word("reason", "Why it is in that state; what data is missing and for how long."),
        _number("realised", "The effect that was measured afterwards, in the same unit."),
    ),
    states=True,
    help="What to do, with the evidence.",
)
PLANS: Final = Table(
    "plans",
    ("plan", "option", "site", "domain", "sku", "period"),
    (
        _word("plan", "The id of the plan."),
        TIME,
        Column("option", "INTEGER", help="1 is the best, 2 the runner-up."),
        _word("site", "Where servers go."),
        _word("domain", "The power domain in which they go."),
        _word("sku", "Which servers."),
        Column("period", "INTEGER", help="In which period, from 0."),
        _moment("start", "When the period starts."),
        _moment("order_by", "When to order for it."),
        _count("servers", "How many servers."),
        _number("power_w", "What they draw."),
        _number("cost", "What they cost over the plan."),
        _CURRENCY,
        _word("worst_failure", "The failure that leaves least there."),
        _number("margin_w", "What is left under that failure."),
        _word("binding", "What limits the plan there."),
        _word("status", "``optimal``, ``feasible`` or ``infeasible``."),
        _number("gap_ratio", "How far from the best the plan may be."),
        _word("conflict", "The constraints that cannot all be met, where it is infeasible."),
        _word("request", "What was asked for, as JSON."),
    ),
    help="Where servers go, when and at which cost.",
)
MODEL_VERSIONS: Final = Table(
    "model_versions",
    ("model", "version"),
    (
        _word("model", "What it is for: ``expectation/power_w/NVIDIA H100``, ``forecast/power_w``."),
        _word("version", "Which one."),
        TIME,
        _word("state", "``candidate``, ``champion``, ``retired`` or ``rejected``."),
        _word("reason", "Why it is in that state."),
        _word("by", "Who put it there: a job, or a person."),
        _moment("start", "Start of the data that it was fitted on."),
        _moment("end", "End of the data that it was fitted on."),
        _count("rows", "Rows that it was fitted on."),
        _word("path", "Where it is, from the store's folder on."),
        _word("format", "How it is stored."),
        _count("bytes", "How large it is."),
        _word("checksum", "SHA-256 of what is stored."),
        _word("champion", "The version that it was compared with."),
        _moment("test_start", "Start of the data that both were tested on."),
        _moment("test_end", "End of the data that both were tested on."),
        _number("error", "Its error in the test."),
        _number("champion_error", "The champion's error in the test."),
        _number("baseline_error", "The naive baseline's error in the test."),
        _number("negative_flip_ratio", "Share of the champion's right verdicts that it gets wrong."),
        _number("lost_alarm_ratio", "Share of the champion's true alarms that it loses."),
        _word("metrics", "Everything else that was measured, and the versions that judge with it, as JSON."),
    ),
    shared=True,
    states=True,
    help="Versions of models, and why one is in use.",
)
JOB_RUNS: Final = Table(
    "job_runs",
    ("job", "start"),
    (
        _word("job", "The job."),
        _moment("start", "Start of its window."),
        TIME,
        _moment("end", "End of its window."),
        _word("state", "``done``, ``failed`` or ``skipped`` (a job that it needs failed)."),
        _number("took_s", "How long it took."),
        _count("rows", "Rows that came out."),
        _flag("changed", "Whether what came out is other than before."),
        _word("error", "Why it failed or was skipped."),
        _word("inputs", "Fingerprint of what went in."),
    ),
    help="What jobs did; `time` is when.",
)
DECISIONS: Final = Table(
    "decisions",
    ("about", "subject"),
    (
        _word("about", "``incident``, ``recommendation`` or ``plan``; of models see model_versions."),
        _word("subject", "Its id."),
        TIME,
        _word("action", "``acknowledge``, ``silence``, ``accept``, ``dismiss`` or ``done``."),
        _word("by", "Who decided."),
        _word("reason", "Why."),
        _moment("until", "How long it holds; null: until another decision."),
    ),
    shared=True,
    states=True,
    help="What people decided, and why.",
)

DERIVED_TABLES: Final = (
    DEVICE_ENERGY,
    JOB_ENERGY,
    EFFICIENCY,
    EXPECTATIONS,
    ANOMALY_SCORES,
    INCIDENTS,
    FORECASTS,
    HEADROOM,
    STRANDED,
    RECOMMENDATIONS,
    PLANS,
    MODEL_VERSIONS,
    JOB_RUNS,
    DECISIONS,
)
