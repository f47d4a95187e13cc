"""
The chain: every job, one entry each. Nothing is imported until a job runs.

    samples ─▶ rollups
       ├─────▶ energy        device_energy
       ├─────▶ attribution   job_energy
       └─────▶ efficiency    efficiency
    rollups, events, anomaly_scores ─▶ incidents
"""

from typing import Final

from analytics.jobs.job import Input, Job

ROLLUPS: Final = "rollups"
"""The one job that is upkeep of the store: it knows itself which hours are due."""

_HOUR_S: Final = 3600.0
# A counter bridges a gap of up to an hour, and a step that crosses an edge belongs to both sides.
_SAMPLES: Final = Input("device_samples", _HOUR_S, _HOUR_S)
_WORK: Final = Input("workload_samples", _HOUR_S, _HOUR_S)

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
        function="analytics.jobs.functions:device_energy",
        inputs=(_SAMPLES, Input("devices", None)),
        output="device_energy",
        every="hour",
        by_device=True,
    ),
    Job(
        name="attribution",
        function="analytics.jobs.functions:job_energy",
        inputs=(
            _SAMPLES,
            Input("host_samples", _HOUR_S, _HOUR_S),
            _WORK,
            Input("facility_samples", _HOUR_S, _HOUR_S),
            Input("allocations", None),
            Input("devices", None),
        ),
        output="job_energy",
        every="hour",
        needs=("fleet",),
    ),
    Job(
        name="efficiency",
        function="analytics.jobs.functions:efficiency",
        inputs=(_SAMPLES, _WORK, Input("allocations", None), Input("devices", None)),
        output="efficiency",
        every="hour",
    ),
    Job(
        name="incidents",
        function="analytics.anomalies.job:incidents",
        inputs=(
            # A device is missed for a day, and a condition may have begun hours before it has lasted long enough.
            Input("device_rollups", 24 * _HOUR_S),
            Input("events", 6 * _HOUR_S),
            Input("anomaly_scores", 6 * _HOUR_S),
            Input("incidents", None),
            Input("devices", None),
            Input("device_energy"),
            Input("job_energy"),
            Input("efficiency", 48 * _HOUR_S),
            Input("facility_samples", _HOUR_S),
        ),
        output="incidents",
        needs=("fleet", "rules"),
        always=True,
    ),
)
