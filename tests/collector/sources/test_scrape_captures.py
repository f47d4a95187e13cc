"""What real exporters print: every capture is read without an error and agrees with the nvidia-smi beside it."""

import csv
import io
import re
from pathlib import Path

import pytest

from collector.catalogue import (
    CLOCK_GRAPHICS,
    CLOCK_MEMORY,
    CLOCK_SM,
    MEMORY_TOTAL,
    PERFORMANCE_STATE,
    POWER,
    POWER_AVERAGE,
    POWER_INSTANT,
    POWER_LIMIT,
    POWER_LIMIT_DEFAULT,
    TEMPERATURE,
    THROTTLE_POWER,
    UTILIZATION,
    Scope,
)
from collector.sample import Reading
from collector.sources.scrape_mapping import tables
from collector.sources.scrape_series import Reader

CAPTURES = Path(__file__).parents[3] / "../shared/data/captures"
EXPORTERS = CAPTURES / "exporters"

pytestmark = pytest.mark.skipif(not EXPORTERS.is_dir(), reason="../shared/data/captures/exporters is not here")


def read(path: Path) -> tuple[Reader, Reading]:
    reader = Reader(tables(), source="scrape:capture", host="node", instance="node:9400")
    return reader, reader.read(path.read_bytes(), time_ns=1_700_000_000_000_000_000)


@pytest.mark.parametrize(
    ("path", "mapping", "devices", "subjects"),
    [
        ("all-smi/metrics", "all_smi", 0, {Scope.HOST: 1}),
        ("amd/tools/metricutil/metrics_mini.txt", "amd", 1, {Scope.DEVICE: 1}),
        ("otel-contrib/dcgm-a10g.prom", "dcgm", 1, {Scope.DEVICE: 1}),
        ("otel-contrib/neuron-trn1n.32xlarge.prom", "neuron", 1, {Scope.DEVICE: 1, Scope.HOST: 1}),
    ],
)
def test_each_capture_is_read_whole(path: str, mapping: str, devices: int, subjects: dict[Scope, int]) -> None:
    reader, reading = read(EXPORTERS / path)
    assert [table.name for table in reader.in_force] == [mapping]
    assert len(reading.devices) == devices
    found: dict[Scope, int] = {}
    for sample in reading.samples:
        found[sample.scope] = found.get(sample.scope, 0) + 1
    assert found == subjects
    assert not reader.unknown


def smi_field(text: str, field: str) -> float | None:
    """The value of a --query-gpu *field* in the capture of nvidia-smi: its table under load, or the last one."""
    best = None
    for block in re.split(r"\n(?======|###|---|\$ )", text):
        rows = [row for row in csv.reader(io.StringIO(block), skipinitialspace=True) if len(row) > 3]
        for at, row in enumerate(rows):
            names = [cell.split(" [")[0].strip() for cell in row]
            if field in names and at + 1 < len(rows) and len(rows[at + 1]) == len(row):
                word = rows[at + 1][names.index(field)].split(" ")[0].lstrip("P")
                try:
                    best = float(word)
                except ValueError:
                    continue
    return best


PROMS = sorted(EXPORTERS.glob("nvidia_gpu_exporter__*.prom")) if EXPORTERS.is_dir() else []


@pytest.mark.parametrize("path", PROMS, ids=lambda path: path.stem.removeprefix("nvidia_gpu_exporter__"))
def test_nvidia_gpu_exporter_agrees_with_nvidia_smi_beside_it(path: Path) -> None:
    reader, reading = read(path)
    assert not reader.unknown
    assert [device.id for device in reading.devices] == ["GPU-00000000-0000-0000-0000-000000000000"]
    (sample,) = reading.samples
    smi = (CAPTURES / "nvidia-smi" / f"{path.stem.removeprefix('nvidia_gpu_exporter__')}.txt").read_text("utf-8")
    compared = 0
    for metric, field, factor, tolerance in (
        (MEMORY_TOTAL, "memory.total", 1048576, 0.0),
        (POWER_LIMIT, "enforced.power.limit", 1, 0.0),
        (POWER_LIMIT_DEFAULT, "power.default_limit", 1, 0.0),
        (CLOCK_SM, "clocks.current.sm", 1e6, 0.0),
        (CLOCK_GRAPHICS, "clocks.current.graphics", 1e6, 0.0),
        (CLOCK_MEMORY, "clocks.current.memory", 1e6, 0.0),
        (POWER, "power.draw", 1, 0.0),
        (POWER_INSTANT, "power.draw.instant", 1, 0.0),
        (POWER_AVERAGE, "power.draw.average", 1, 0.0),
        (TEMPERATURE, "temperature.gpu", 1, 0.0),
        (UTILIZATION, "utilization.gpu", 0.01, 0.0),
        (PERFORMANCE_STATE, "pstate", 1, 0.0),
        (THROTTLE_POWER, "clocks_event_reasons_counters.sw_power_cap", 1e-6, 0.0),
    ):
        expected = smi_field(smi, field)
        if expected is None:
            assert metric not in sample.values, f"{metric}: nvidia-smi has no number for {field}"
            continue
        assert sample.values[metric] == pytest.approx(expected * factor, abs=tolerance), field
        compared += 1
    assert compared >= 9


@pytest.mark.parametrize("name", ["default-counters.csv", "dcp-metrics-included.csv", "1.x-compatibility-metrics.csv"])
def test_every_name_of_dcgm_exporters_own_lists_is_known(name: str) -> None:
    dcgm = next(table for table in tables() if table.name == "dcgm")
    listed = [
        row[0].lstrip("# ").strip()
        for row in csv.reader((EXPORTERS / "dcgm-exporter/etc" / name).read_text().splitlines())
        if len(row) >= 3 and row[1].strip() in {"gauge", "counter"}
    ]
    assert len(listed) > 20
    assert [field for field in listed if not dcgm.find(field)] == []


def test_every_name_of_the_amd_exporters_configuration_is_known() -> None:
    amd = next(table for table in tables() if table.name == "amd")
    fields = re.findall(r"name: (\w+)", (EXPORTERS / "amd/docs/configuration/metrics-support-matrix.yaml").read_text())
    assert len(fields) > 80
    assert [field for field in fields if not amd.find(field.lower())] == []
