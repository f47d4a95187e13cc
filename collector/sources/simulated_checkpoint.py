"""The state of a simulated fleet in a file, so that a start need not begin at the origin."""

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from collector.sources.simulated_fleet import FleetOptions

LOG: Final = logging.getLogger(__name__)
FORMAT: Final = 1
_NOT_THE_FLEET: Final = ("step_s", "speed", "checkpoint")


def identity(options: FleetOptions, origin_ns: int) -> str:
    """What has to be the same for a state to be one of this fleet."""
    told = {name: value for name, value in asdict(options).items() if name not in _NOT_THE_FLEET}
    return json.dumps({"format": FORMAT, **told, "origin_ns": origin_ns}, sort_keys=True, default=dict)


def save(path: Path, fleet: str, state: Mapping[str, Any]) -> None:
    """
    Keep *state* (arrays, numbers, and dictionaries of numbers by text) of *fleet*, its `identity`, in the file *path*.

    A file that cannot be written is told in the log: the fleet goes on without.
    """
    texts = {name: json.dumps(value) for name, value in state.items() if isinstance(value, dict)}
    arrays = {name: np.asarray(value) for name, value in state.items() if name not in texts}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, fleet=np.array(fleet), texts=np.array(json.dumps(texts)), **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        LOG.warning("the state of the simulated fleet cannot be kept in %s: %s", path, error.strerror)
        temporary.unlink(missing_ok=True)


def restore(path: Path, fleet: str, first_ns: int) -> dict[str, Any] | None:
    """What `save` kept in *path*, if it is of *fleet* and of no later than *first_ns*."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["fleet"]) != fleet or int(kept["next_ns"]) > first_ns:
                return None
            state: dict[str, Any] = {name: kept[name] for name in kept.files if name not in {"fleet", "texts"}}
            state |= {name: json.loads(text) for name, text in json.loads(str(kept["texts"])).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        LOG.warning("%s is no state of a simulated fleet, which begins at its origin: %s", path, error)
        return None
    return state
