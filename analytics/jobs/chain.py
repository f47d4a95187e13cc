"""
The chain: every job, one entry each. Nothing is imported until a job runs.

    samples ─▶ rollups
       └─────▶ energy ─▶ device_energy, job_energy, efficiency
       ├─────▶ capacity ─▶ headroom, stranded, recommendations
    rollups ─▶ anomaly_scores, expectations
    rollups, events, anomaly_scores, headroom, energy ─▶ incidents
    device_energy, efficiency ─▶ forecasts
"""

from typing import Final

from analytics.jobs.job import Input, Job

ROLLUPS: Final = "rollups"
"""The one job that is upkeep of the store: it knows itself which hours are due."""

_HOUR_S: Final = 3600.0
_DAY_S: Final = 86_400.0
_EVER_S: Final = 20 * 365 * _DAY_S
# A counter bridges a gap of up to an hour, and a step that crosses an edge belongs to both sides.
_SAMPLES: Final = Input("device_samples", _HOUR_S, _HOUR_S)

JOBS: Final = (
    Job(
        name=ROLLUPS,
        function="",
        inputs=(Input("device_samples"), Input("workload_samples")),
        output="device_rollups",
        also=("workload_rollups",),
        every="hour",
    ),
    Job(
        name="energy",
        function="analytics.jobs.functions:energy",
        inputs=(
            _SAMPLES,
            Input("host_samples", _HOUR_S, _HOUR_S),
            Input("workload_samples", _HOUR_S, _HOUR_S),
            Input("facility_samples", _HOUR_S, _HOUR_S),
            Input("allocations", None),
            Input("devices", None),
            # A board's gain was what it is before somebody measured it: earlier windows are due, too.
            Input("calibrations", None, _EVER_S),
        ),
        output="device_energy",
        also=("job_energy", "efficiency"),
        every="hour",
        needs=("fleet",),
        by_device=True,
    ),
    Job(
        name="anomaly_scores",
        function="analytics.anomalies.scoring:anomaly_scores",
        inputs=(
            # What is normal is learned from three days.
            Input("device_rollups", 3 * _DAY_S),
            Input("workload_rollups", 3 * _DAY_S),
            Input("anomaly_scores", 3 * _DAY_S),
            Input("allocations", None),
            Input("devices", None),
        ),
        output="anomaly_scores",
        also=("expectations",),
        needs=("fleet", "root"),
    ),
    Job(
        name="incidents",
        function="analytics.anomalies.job:incidents",
        inputs=(
            # A device is missed for a day, and a condition may have begun hours before it has lasted long enough.
            Input("device_rollups", 24 * _HOUR_S),
            Input("workload_rollups", 24 * _HOUR_S),
            Input("events", 6 * _HOUR_S),
            Input("anomaly_scores", 6 * _HOUR_S, needed=False),
            Input("headroom", None, needed=False),
            Input("incidents", None),
            Input("devices", None),
            Input("allocations", None),
            # What incidents cost; without it they are raised all the same.
            Input("device_energy", needed=False),
            Input("job_energy", needed=False),
            Input("efficiency", 48 * _HOUR_S, needed=False),
            Input("facility_samples", _HOUR_S),
        ),
        output="incidents",
        needs=("fleet", "rules"),
        always=True,
    ),
    Job(
        name="forecasts",
        function="analytics.forecasts.job:forecasts",
        inputs=(
            Input("device_energy", 28 * _DAY_S),
            Input("efficiency", 28 * _DAY_S),
            Input("allocations", None),
        ),
        output="forecasts",
        needs=("fleet", "root"),
        only_last=True,
        rest_s=_HOUR_S,
    ),
    Job(
        name="capacity",
        function="analytics.capacity.job:capacity",
        inputs=(
            Input("device_samples", 30 * _DAY_S),
            Input("host_samples", 30 * _DAY_S),
            Input("facility_samples", 30 * _DAY_S),
            Input("devices", None),
        ),
        output="headroom",
        also=("stranded", "recommendations"),
        needs=("fleet",),
        by_device=True,
        # Six columns of many segments: fewer parts open them less often.
        part_rows=2_000_000,
        only_last=True,
        # It looks at the minutes of a month, of which some more hours change little.
        rest_s=6 * _HOUR_S,
    ),
)
