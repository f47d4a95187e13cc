"""
libnvidia-ml.so.1: how it is found, how functions are bound, and which of its errors ask for what.

nvidia-ml-py opens the library by its soname, and the loader answers with one of that soname that is already open; so a
library at another path is opened first, and every caller gets it. Functions that run at every tick are bound once
to their handle and their result: the wrappers of nvidia-ml-py look the function up and make the result at each call.
"""

import ctypes
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pynvml

from collector.errors import DeviceGone, ReadRetry, SourceError, SourceUnavailable

SONAME: Final = "libnvidia-ml.so.1"

ABSENT: Final = frozenset(
    {
        pynvml.NVML_ERROR_INVALID_ARGUMENT,  # also: a field id that this driver does not know
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""Answers that mean: this device does not have it."""

_GONE: Final = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND})
_LIBRARY: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
FATAL: Final = _GONE | _LIBRARY | {pynvml.NVML_ERROR_RESET_REQUIRED}
"""Answers after which nothing else about the device can be asked."""


def failure(code: int, what: str) -> SourceError:
    """The error of ours that the library's *code* asks for."""
    text = f"{what}: {pynvml.NVMLError(code)}"
    if code in _GONE:
        return DeviceGone(text)
    if code in _LIBRARY:
        return SourceUnavailable(text)
    if code == pynvml.NVML_ERROR_RESET_REQUIRED:
        return ReadRetry(text, reason="reset_required")
    return ReadRetry(text)


def load(path: str | None = None) -> ctypes.CDLL:
    """
    Load the library, from *path* where one is given, and initialise it.

    Raises: SourceUnavailable.
    """
    try:
        given = ctypes.CDLL(path) if path else None
        library = ctypes.CDLL(SONAME)
    except OSError as error:
        raise SourceUnavailable(f"the NVIDIA driver's library cannot be loaded: {error}") from error
    if given is not None and given._handle != library._handle:
        raise SourceUnavailable(f"{path} is not what is loaded as {SONAME}: its soname differs, or another is open")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SourceUnavailable(f"the NVIDIA driver cannot be initialised: {error}") from error
    return library


def bind(library: ctypes.CDLL, function: str, *arguments: Any) -> Callable[[], int]:
    """A call without arguments that gives the library's return code; one that is not there says so by its code."""
    try:
        pointer = library[function]
    except AttributeError:
        return lambda: int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return partial(pointer, *arguments)


def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """
    What a function of nvidia-ml-py says, or None where this device does not have it.

    Raises: DeviceGone, ReadRetry, SourceUnavailable.
    """
    try:
        answer = function(*arguments)
    except pynvml.NVMLError as error:
        if error.value in ABSENT:
            return None
        raise failure(error.value, getattr(function, "__name__", "nvml")) from error
    return os.fsdecode(answer) if isinstance(answer, bytes) else answer
