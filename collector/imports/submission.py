"""What a submission to MLPerf says of a system: its description, and what the folders it lies in are called."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.errors import ImportFailed

_VERSION = re.compile(r"(?:^|[_-])(v[0-9]+\.[0-9]+)(?=$|[_-])")
_DEPTH = 6
"""Folders from a run up to its submitter: run_1, performance, Offline, resnet50, SYSTEM, results."""
_DIVISIONS = ("closed", "open", "network")


@dataclass(frozen=True, slots=True)
class Submission:
    """
    A system as submitted: columns of the table ``results``; what nobody says is not there.

    `version` is the round (``v4.1``), `accelerators` are those of all nodes together.
    """

    columns: Mapping[str, Any]

    @property
    def system(self) -> str | None:
        """The system's name."""
        return self.columns.get("system")


def submission_of(folder: Path, system: str | None = None) -> Submission:
    """
    What is said of the run in *folder*.

    The description is ``system.json`` beside the run or above it, or that of *system* in the submitter's ``systems``.
    Raises: ImportFailed when it is there and cannot be read.
    """
    folder = folder.resolve()
    told = _described(folder, system)
    return Submission({**_placed(folder), **{name: value for name, value in told.items() if value not in {None, ""}}})


def _placed(folder: Path) -> dict[str, str]:
    """Round, division and submitter by the names of folders: ``inference_results_v4.1/closed/NVIDIA/results/...``."""
    parts = folder.parts
    found = {}
    versions = [match[1] for part in parts if (match := _VERSION.search(part))]
    if versions:
        found["version"] = versions[-1]
    if "results" in parts:
        at = len(parts) - 1 - parts[::-1].index("results")
        if at >= 1:
            found["submitter"] = parts[at - 1]
        if at >= 2 and parts[at - 2] in _DIVISIONS:
            found["division"] = parts[at - 2]
    return found


def _described(folder: Path, system: str | None) -> dict[str, Any]:
    for place in (folder, *folder.parents[:_DEPTH]):
        found = [place / "system.json", *([place / "systems" / f"{system}.json"] if system else [])]
        for path in found:
            if path.is_file():
                return _columns(path)
        # A submitter's folder is as far up as a run's own description can be.
        if (place / "systems").is_dir() or (place / "results").is_dir():
            break
    return {}


def _columns(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImportFailed(path, f"is no JSON object: {error}") from error
    if not isinstance(told, dict):
        raise ImportFailed(path, "is no JSON object")
    nodes, each = _number(told.get("number_of_nodes")), _number(told.get("accelerators_per_node"))
    return {
        "system": told.get("system_name"),
        "submitter": told.get("submitter"),
        "division": told.get("division"),
        "framework": told.get("framework"),
        "accelerator": told.get("accelerator_model_name"),
        "nodes": nodes,
        "accelerators": None if each is None else each * (nodes or 1),
    }


def _number(written: object) -> int | None:
    """A whole number at the start of what people write there: ``8``, ``"8"``, ``"8 (4 per tray)"``."""
    found = re.match(r"\s*(\d+)", str(written)) if written is not None else None
    return int(found[1]) if found else None
