"""
How busy the pipes are (SM, tensor, DRAM, FP64 to FP16), from NVML's GPU performance monitoring: Hopper and later.

Opt-in (`activity = true`): profiling has been seen to keep idle boards at twice their power, and the counters
are shared with profilers.
"""

from typing import Any, Final

import pynvml

from collector import catalogue as c
from collector.sources.nvml_library import FATAL, ask, failure
from collector.sources.nvml_readers import Values

METRICS: Final = (
    (c.ACTIVITY_GRAPHICS, pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL),
    (c.ACTIVITY_SM, pynvml.NVML_GPM_METRIC_SM_UTIL),
    (c.OCCUPANCY, pynvml.NVML_GPM_METRIC_SM_OCCUPANCY),
    (c.ACTIVITY_TENSOR, pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL),
    (c.ACTIVITY_DRAM, pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL),
    (c.ACTIVITY_FP64, pynvml.NVML_GPM_METRIC_FP64_UTIL),
    (c.ACTIVITY_FP32, pynvml.NVML_GPM_METRIC_FP32_UTIL),
    (c.ACTIVITY_FP16, pynvml.NVML_GPM_METRIC_FP16_UTIL),
)


def supported(handle: Any) -> bool:
    """Whether the board has GPU performance monitoring."""
    answer = ask(pynvml.nvmlGpmQueryDeviceSupport, handle)
    return answer is not None and bool(answer.isSupportedDevice)


class Activity:
    """The activity of a board, or of one of its GPU instances, between two reads."""

    def __init__(self, board: Any, instance: int | None = None) -> None:
        self._board = board
        self._instance = instance
        self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        self._first = True
        self._request = pynvml.c_nvmlGpmMetricsGet_t()
        self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(METRICS)
        for slot, (_, number) in zip(self._request.metrics, METRICS, strict=False):
            slot.metricId = number

    def read(self, values: Values) -> None:
        """Add the activity since the last read; nothing at the first. Raises: DeviceGone, ReadRetry."""
        try:
            if self._instance is None:
                pynvml.nvmlGpmSampleGet(self._board, self._samples[1])
            else:
                pynvml.nvmlGpmMigSampleGet(self._board, self._instance, self._samples[1])
            self._samples.reverse()
            if self._first:
                self._first = False
                return
            self._request.sample1, self._request.sample2 = self._samples[1], self._samples[0]
            pynvml.nvmlGpmMetricsGet(self._request)
        except pynvml.NVMLError as error:
            self._first = True
            if error.value in FATAL:
                raise failure(error.value, "GPU performance monitoring") from error
            return  # a profiler has the counters: no activity this time
        for (metric, _), slot in zip(METRICS, self._request.metrics, strict=False):
            if slot.nvmlReturn == pynvml.NVML_SUCCESS:
                values[metric] = slot.value / 100

    def close(self) -> None:
        """Give the samples back."""
        while self._samples:
            ask(pynvml.nvmlGpmSampleFree, self._samples.pop())
