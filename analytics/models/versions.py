"""
Versions of models in a store: kept, put in use, taken back.

A version is a file ``models/<name>/<version>.npz`` that is never changed, called by the day up to which its data goes
and by its checksum. What is in use is told by the table ``model_versions``: a promotion is one segment, with the row of
the new champion and that of the old, and so is there whole or not at all. Whoever is killed before leaves everything
as it was.

A champion may be in use by the rule of `comparison.keep_unless_sure`: then it overrules what was in use before only
where it is sure, and `in_use` names all that judge together.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import polars as pl
import polars.selectors as cs

from analytics.frames import scan
from analytics.models import files
from analytics.models.comparison import (
    BUDGET,
    Budget,
    Comparison,
    HandOver,
    Trial,
    best_hand_over,
    compare,
    hand_overs,
)
from analytics.models.files import Array
from collector.errors import NotEnoughData, OverBudget, StoreError
from collector.moments import NS
from collector.store import Store
from collector.store.files import WriterLock

CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
RETIRED: Final = "retired"
REJECTED: Final = "rejected"

FOLDER: Final = "models"
WRITER: Final = "models"
LOCK: Final = "models.change"
"""Who holds this name changes what is in use: of two at once the slower would judge against a champion that is gone."""
WAIT_S: Final = 60.0
MOST_JUDGES: Final = 4
LIBRARIES: Final = ("numpy", "scikit-learn", "perfwatt")
_FILE: Final = ("path", "bytes")
KEPT: Final = 8
"""So many versions that were in use before stay to be rolled back to."""
GRACE_NS: Final = 86_400 * NS
"""What was decided of a version less than a day ago may still be looked at, or regretted: its file stays."""
_MOST_NAME: Final = 200


def _libraries() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """
    What a model is, beside its numbers.

    kind: who can use the arrays, such as ``trees/quantiles``. start_ns, end_ns, rows: the data that it was fitted on.
    metrics: what was measured of it on other data. settings: JSON that its user needs, such as names of columns.
    libraries: what it was made with.
    """

    kind: str
    start_ns: int
    end_ns: int
    rows: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=_libraries)


class Model(NamedTuple):
    """A version as it was kept."""

    name: str
    version: str
    meta: Meta
    arrays: dict[str, Array]


class Judge(NamedTuple):
    """A version in use; where *hand_over* is given it overrules those before it only when so sure."""

    version: str
    hand_over: HandOver | None


# ---------------------------------------------------------------------------------------------------- keeping, reading


def save(
    root: Path | str, name: str, arrays: Mapping[str, Array], meta: Meta, *, by: str = "job", reason: str = "fitted"
) -> str:
    """
    Keep a model as a candidate; gives its version. The same model again is the same version, and changes nothing.

    Raises: ValueError (the name or an array cannot be kept), StoreError.
    """
    content = files.pack(asdict(meta), arrays)
    digest = files.checksum(content)
    made = f"{datetime.fromtimestamp(meta.end_ns // NS, UTC):%Y%m%d}-{digest[:12]}"
    path = path_of(root, name, made)
    store = Store(root)
    with _changing(store):
        rows = _states(store, name)
        # A file that was lost or damaged is kept anew; its version is in the state that it was in.
        if not (path.is_file() and files.read(path) == content):
            files.write(path, content, store.files)
        known = rows.get(made)
        if known is not None and known["path"] is not None:
            return made
        row = {
            "model": name,
            "version": made,
            "state": CANDIDATE,
            "reason": reason,
            "by": by,
            "start": meta.start_ns,
            "end": meta.end_ns,
            "rows": meta.rows,
            "path": str(path.relative_to(store.root)),
            "format": files.FORMAT,
            "bytes": len(content),
            "checksum": digest,
            "metrics": json.dumps({"kind": meta.kind, **meta.metrics}, sort_keys=True),
        }
        _tell(store, rows, [row if known is None else {**known, **{key: row[key] for key in _FILE}}])
    return made


def load(root: Path | str, name: str, version: str) -> Model:
    """
    A version, checked against the checksum in its name.

    Raises: StoreError, naming the file (it is not there, damaged, or of a format that this perfwatt does not read).
    """
    path = path_of(root, name, version)
    content = files.read(path)
    if not version.endswith(f"-{files.checksum(content)[:12]}"):
        raise StoreError(path, "is damaged: its checksum is not the one in its name")
    document, arrays = files.unpack(content, path)
    try:
        meta = Meta(**{key: value for key, value in document.items() if key != "format"})
    except TypeError as error:
        raise StoreError(path, f"is no model: {error}") from error
    return Model(name, version, meta, arrays)


def champion(root: Path | str, name: str) -> str | None:
    """
    The version in use, if there is one.

    Raises: StoreError.
    """
    return _champion(_states(Store(root), name))


def in_use(root: Path | str, name: str) -> list[Judge]:
    """
    The versions that judge together, the champion last (see `comparison.judge`); empty if none is in use.

    Raises: StoreError.
    """
    rows = _states(Store(root), name)
    current = _champion(rows)
    return [] if current is None else _judges(rows[current])


def listed(root: Path | str, name: str | None = None) -> pl.DataFrame:
    """
    Every version as it stands now, the champion of each model first, then the latest.

    Out: the columns of the table model_versions.

    Raises: StoreError.
    """
    first = pl.col("state") == CHAMPION
    found = _latest(Store(root), name)
    return found.sort(pl.col("model"), first, pl.col("time"), descending=[False, True, True]).collect()


def path_of(root: Path | str, name: str, version: str) -> Path:
    """
    Where a version is.

    Raises: ValueError (no name of a model or version).
    """
    folder = quote(name, safe=" ")
    if not name.strip(". /") or len(folder) > _MOST_NAME:
        raise ValueError(f"{name!r} is no name of a model: letters and digits, at most {_MOST_NAME} bytes")
    if not version or "/" in version or version.startswith("."):
        raise ValueError(f"{version!r} is no version of a model")
    return Path(root).absolute() / FOLDER / folder / f"{version}.npz"


# --------------------------------------------------------------------------------------------------------------- trials


def record_trial(root: Path | str, name: str, version: str, trial: Trial, *, against: str | None = None) -> Comparison:
    """
    Keep what the champion and the candidate *version* said of the same windows, for `compared` and `promote`.

    Raises: StoreError (no such version, no champion), NotEnoughData (*against*, which judged in the trial, is not the
    champion any more), ValueError.
    """
    store = Store(root)
    with _changing(store):
        rows = _states(store, name)
        row, current = _known(store, name, version, rows), _champion(rows)
        if current is None:
            raise StoreError(store.root, f"{name}: there is no champion that {version} could be compared with")
        if against not in {None, current}:
            raise NotEnoughData(f"{name}: {version} was tried against {against}, and the champion is {current} now")
        content = files.pack({"candidate": version, "champion": current}, trial.arrays())
        files.write(_trial_path(root, name, version, current), content, store.files)
        comparison = compare(trial)
        _tell(store, rows, [{**row, **_measured(trial, comparison, current)}])
    return comparison


def compared(
    root: Path | str, name: str, version: str, *, hand_over: HandOver | None = None, budget: Budget = BUDGET
) -> Comparison:
    """
    The candidate *version* beside the champion, by the trial that was recorded.

    Raises: StoreError (no such version; a damaged file), NotEnoughData (no champion, or no trial against it).
    """
    store = Store(root)
    rows = _states(store, name)
    _known(store, name, version, rows)
    return compare(_trial(store, name, version, _champion(rows)), hand_over=hand_over, budget=budget)


def usual_hand_over(root: Path | str, name: str, version: str, *, budget: Budget = BUDGET) -> HandOver | None:
    """
    How a job would hand over to *version*, None being outright; the first to try if nothing is within the budget.

    Raises: StoreError (no such version; a damaged file), NotEnoughData (no trial against the champion).
    """
    store = Store(root)
    rows = _states(store, name)
    _known(store, name, version, rows)
    current = _champion(rows)
    if current in {None, version}:
        return None
    trial, alone = _trial(store, name, version, current), _full(rows, current)
    found = best_hand_over(trial, budget=budget, alone=alone)
    return found[0] if found else hand_overs(trial, alone=alone)[0]


# ------------------------------------------------------------------------------------------------------------ decisions


def promote(
    root: Path | str,
    name: str,
    version: str,
    *,
    by: str,
    reason: str = "",
    hand_over: HandOver | None = None,
    budget: Budget = BUDGET,
    force: bool = False,
    found: Comparison | None = None,
    against: str | None = None,
) -> None:
    """
    Put a version in use, if what it costs is within the budget; with *hand_over* it is handed over by the rule.

    The first version of a model needs no comparison. With *force* none is made: *reason* says why. By the rule at most
    `MOST_JUDGES` versions judge together; after that one must hold the limits alone. Who has just compared it so
    with the champion gives what was *found* and *against* which, and it is not worked out once more.

    Raises: OverBudget (a limit is not held: the champion stays), NotEnoughData (no trial against the champion, or
    *against* is not the champion any more),
    StoreError (no such version; its file, or the predecessor's, cannot be read: the champion stays).
    """
    store = Store(root)
    with _changing(store):
        rows = _states(store, name)
        row, current = _held(store, name, version, rows), _champion(rows)
        load(root, name, version)
        if current == version:
            return
        if row["state"] == REJECTED and not force:
            raise OverBudget(f"{name} {version} was rejected ({row['reason']}): the champion stays; --force overrules")
        changed = {**row, "champion": current, "state": CHAMPION, "by": by, "reason": reason or "first version"}
        judges = [Judge(version, None)]
        if against not in {None, current}:
            raise NotEnoughData(f"{name}: {version} was compared with {against}, and the champion is {current} now")
        if current is not None and hand_over is not None:
            judges = [*_judges(rows[current]), Judge(version, hand_over)]
            _loadable(root, name, judges)
        if current is not None and force:
            changed["reason"] = f"forced: {reason}"
        elif current is not None:
            trial = _trial(store, name, version, current)
            comparison = found or compare(trial, hand_over=hand_over, budget=budget)
            if breaches := comparison.breaches():
                tried = hand_over is not None or _full(rows, current)
                said = "; ".join(breaches) + ("" if tried else _way_out(trial, budget))
                raise OverBudget(f"{name} {version}: the champion {current} stays: {said}")
            changed |= {**_measured(trial, comparison, current), "reason": reason or "within the budget"}
        metrics = json.loads(row["metrics"] or "{}")
        changed["metrics"] = json.dumps({**metrics, "judges": judges}, sort_keys=True)
        changes = [changed]
        if current is not None:
            changes.append({**rows[current], "state": RETIRED, "by": by, "reason": f"{version} took over"})
        _tell(store, rows, changes)


def reject(root: Path | str, name: str, version: str, *, by: str, reason: str) -> None:
    """
    Say that a candidate is not to be used.

    Raises: StoreError (no such version, or it is the champion).
    """
    store = Store(root)
    with _changing(store):
        rows = _states(store, name)
        row = _known(store, name, version, rows)
        if row["state"] == CHAMPION:
            raise StoreError(store.root, f"{name} {version} is the champion: roll back to another")
        _tell(store, rows, [{**row, "state": REJECTED, "by": by, "reason": reason}])


def rollback(root: Path | str, name: str, *, by: str, reason: str, to: str | None = None) -> str:
    """
    Put back what was in use before the champion, or *to*, as it was in use then; gives it. The champion is rejected.

    Raises: StoreError (nothing was in use before; no such version; its file cannot be read: the champion stays).
    """
    store = Store(root)
    with _changing(store):
        rows = _states(store, name)
        current = _champion(rows)
        if current is None:
            raise StoreError(store.root, f"{name}: no version is in use; {_names(rows)}")
        before = _formers(store, name, rows)
        usable = (one for one in before if rows[one]["state"] == RETIRED and rows[one]["path"] is not None)
        target = to or next(usable, None)
        if target is None:
            raise StoreError(store.root, f"{name}: nothing was in use before {current}; {_names(rows)}")
        _held(store, name, target, rows)
        if target == current or target not in before:
            raise StoreError(store.root, f"{name} {target} was not in use before {current}: promote it instead")
        _loadable(root, name, _judges(before[target]))
        put_back = {**before[target], "by": by, "reason": f"rolled back from {current}: {reason}"}
        taken = {**rows[current], "state": REJECTED, "by": by, "reason": f"rolled back to {target}: {reason}"}
        _tell(store, rows, [put_back, taken])
    return target


def offer(
    root: Path | str,
    name: str,
    arrays: Mapping[str, Array],
    meta: Meta,
    trial: Trial | None = None,
    *,
    by: str = "job",
    budget: Budget = BUDGET,
) -> tuple[str, str]:
    """
    What a job does with what it fitted: keep it, compare it, and put it in use or reject it; version and state.

    The first version is put in use. A later one with a *trial* takes over as `comparison.best_hand_over` says, or
    only outright where `MOST_JUDGES` judge together already; else it is rejected. It stays a candidate
    without a trial, where its data end before those of the champion, and where another took over while it was tried.
    What was decided before stands.
    Files that nobody can need any more are removed (see `prune`).

    Raises: ValueError, StoreError.
    """
    made = save(root, name, arrays, meta, by=by)
    state = _decided(root, name, made, meta, trial, by=by, budget=budget)
    prune(root, name, by=by)
    return made, state


def _decided(
    root: Path | str, name: str, made: str, meta: Meta, trial: Trial | None, *, by: str, budget: Budget
) -> str:
    rows = _states(Store(root), name)
    current, hand_over, found = _champion(rows), None, None
    if rows[made]["state"] != CANDIDATE:
        return str(rows[made]["state"])
    try:
        if current is not None:
            if trial is None or rows[current]["end"] > meta.end_ns:
                return CANDIDATE
            record_trial(root, name, made, trial, against=current)
            alone = _full(rows, current)
            best = best_hand_over(trial, budget=budget, alone=alone)
            if best is None:
                hand_over = hand_overs(trial, alone=alone)[0]
                best = hand_over, compare(trial, hand_over=hand_over, budget=budget)
                if not best[1].breaches():
                    raise OverBudget(
                        f"{name} {made}: the champion {current} stays: handed over by the rule it errs no less"
                    )
            hand_over, found = best
        promote(root, name, made, by=by, hand_over=hand_over, budget=budget, found=found, against=current)
    except NotEnoughData:
        return CANDIDATE
    except OverBudget as error:
        reject(root, name, made, by=by, reason=str(error))
        return REJECTED
    return CHAMPION


def prune(root: Path | str, name: str, *, by: str = "job", now_ns: int | None = None) -> list[str]:
    """
    Remove the files of versions that nobody can need; gives these versions.

    Kept are the champion and the `KEPT` that were in use before it, with all that judge together with one of them; a
    candidate whose data end after the champion's, or that was tried against it, since it may yet be promoted; and what
    anything was decided of within `GRACE_NS`. Rows stay: of a version without a file *path* and *bytes* are null.

    Raises: StoreError.
    """
    store = Store(root)
    now_ns = time.time_ns() if now_ns is None else now_ns
    with _changing(store):
        rows = _states(store, name)
        current = _champion(rows)
        if current is None:
            return []
        kept = _kept(store, name, rows, current)
        kept |= {one for one, row in rows.items() if now_ns - row["time"] < GRACE_NS}
        gone = [one for one, row in rows.items() if one not in kept and row["path"] is not None]
        # Told before they are removed: who is killed between leaves a file too many, which goes the next time.
        if gone:
            _tell(store, rows, [_without_file(rows[one], by) for one in gone])
        for one in rows.keys() - kept:
            store.files.remove(path_of(root, name, one))
        for path in path_of(root, name, current).parent.glob("*.against-*.npz"):
            if not set(path.name.removesuffix(".npz").split(".against-")) <= kept:
                store.files.remove(path)
    return gone


def _kept(store: Store, name: str, rows: Mapping[str, dict[str, Any]], current: str) -> set[str]:
    """The versions that are in use, that can be rolled back to, or that may yet be promoted."""
    before = _formers(store, name, rows)
    former = [one for one in before if rows[one]["state"] == RETIRED and rows[one]["path"] is not None]
    used = [rows[current], *(before[one] for one in former[:KEPT])]
    judging = {judge.version for row in used for judge in _judges(row)}
    candidates = {
        one for one, row in rows.items()
        if row["state"] == CANDIDATE
        and (row["end"] > rows[current]["end"] or _trial_path(store.root, name, one, current).is_file())
    }  # fmt: skip
    return judging | candidates


def _without_file(row: Mapping[str, Any], by: str) -> dict[str, Any]:
    return {**row, "path": None, "bytes": None, "by": by, "reason": f"{row['reason']}; its file is no longer kept"}


# ---------------------------------------------------------------------------------------------------------- the table


def _changing(store: Store) -> WriterLock:
    """
    The right to change what is in use.

    Raises: StoreBusy.
    """
    return WriterLock(store.root, LOCK, wait_s=WAIT_S, files=store.files)


def _rows(store: Store, name: str | None) -> pl.LazyFrame:
    return scan(store, "model_versions", where=None if name is None else pl.col("model") == name)


def _latest(store: Store, name: str | None) -> pl.LazyFrame:
    return _rows(store, name).sort("time").unique(["model", "version"], keep="last", maintain_order=True)


def _states(store: Store, name: str) -> dict[str, dict[str, Any]]:
    """The present row of each version of a model; times in nanoseconds."""
    return {row["version"]: row for row in _plain(_latest(store, name))}


def _plain(rows: pl.LazyFrame) -> list[dict[str, Any]]:
    moments = cs.datetime().to_physical()
    return rows.with_columns(moments).collect().to_dicts()


def _champion(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    return max(
        (one for one, row in rows.items() if row["state"] == CHAMPION), key=lambda one: rows[one]["time"], default=None
    )


def _full(rows: Mapping[str, Mapping[str, Any]], current: str | None) -> bool:
    """Whether as many judge together as may."""
    return current is not None and len(_judges(rows[current])) >= MOST_JUDGES


def _judges(row: Mapping[str, Any]) -> list[Judge]:
    """Those that judge together where *row* puts its version in use."""
    told = json.loads(row["metrics"] or "{}").get("judges", [(row["version"], None)])
    return [Judge(version, _told(hand_over)) for version, hand_over in told]


def _told(hand_over: Any) -> HandOver | None:
    """A hand-over as it was written; one number is of a perfwatt that had one margin for both directions."""
    if hand_over is None:
        return None
    return HandOver(*hand_over) if isinstance(hand_over, list) else HandOver(hand_over, hand_over)


def _loadable(root: Path | str, name: str, judges: Sequence[Judge]) -> None:
    """
    That all of them can be read and are few enough.

    Raises: StoreError, OverBudget.
    """
    if len(judges) > MOST_JUDGES:
        raise OverBudget(
            f"{name}: {len(judges) - 1} versions judge together already, and {MOST_JUDGES} are the most: "
            f"{judges[-1].version} must take over alone"
        )
    for one in judges:
        load(root, name, one.version)


def _formers(store: Store, name: str, rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The row with which each version was last put in use, the latest first, without the champion."""
    current = _champion(rows)
    told = _plain(_rows(store, name).filter(pl.col("state") == CHAMPION).sort("time"))
    found = {row["version"]: row for row in told}
    return {one: found[one] for one in sorted(found, key=lambda one: -found[one]["time"]) if one != current}


def _known(store: Store, name: str, version: str, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if version not in rows:
        raise StoreError(store.root, f"{name}: no version {version!r}; {_names(rows)}")
    return rows[version]


def _held(store: Store, name: str, version: str, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    row = _known(store, name, version, rows)
    if row["path"] is None:
        raise StoreError(
            store.root, f"{name} {version}: its file is no longer kept; the last {KEPT} that were in use before are"
        )
    return row


def _names(rows: Mapping[str, Any]) -> str:
    return f"there are {', '.join(sorted(rows))}" if rows else "there are none of this model"


def _tell(store: Store, before: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows at one moment, later than every row before, also where the clock was set back: one segment."""
    now_ns = max([time.time_ns(), *(int(row["time"]) + 1 for row in before.values())])
    names = [column.name for column in store.table("model_versions")]
    moved = [{**row, "time": now_ns} for row in rows]
    store.write("model_versions", {name: [row.get(name) for row in moved] for name in names}, writer=WRITER)


def _measured(trial: Trial, comparison: Comparison, current: str) -> dict[str, Any]:
    error = comparison.of("error")
    baseline = [figure.value for figure in comparison.figures if figure.measure == "baseline_error"]
    return {
        "champion": current,
        "test_start": int(trial.time_ns.min()),
        "test_end": int(trial.time_ns.max()),
        "error": error.value,
        "champion_error": error.champion,
        "baseline_error": baseline[0] if baseline else None,
        "negative_flip_ratio": comparison.of("negative_flip_ratio").value,
        "lost_alarm_ratio": comparison.of("lost_alarm_ratio").value,
    }


def _way_out(trial: Trial, budget: Budget) -> str:
    best = best_hand_over(trial, budget=budget)
    if best is None or best[0] is None:
        return ""
    return f"; --hand-over {best[0].add:g} --withdraw {best[0].withdraw:g} would be within the budget"


def _trial_path(root: Path | str, name: str, version: str, current: str) -> Path:
    return path_of(root, name, f"{version}.against-{current}")


def _trial(store: Store, name: str, version: str, current: str | None) -> Trial:
    if current is None:
        raise NotEnoughData(f"{name}: there is no champion that {version} could be compared with")
    path = _trial_path(store.root, name, version, current)
    if not path.is_file():
        raise NotEnoughData(
            f"{name}: no trial of {version} against the champion {current} is kept; the job that fits it makes one"
        )
    document, arrays = files.unpack(files.read(path), path)
    if (document.get("candidate"), document.get("champion")) != (version, current):
        raise StoreError(path, f"is a trial of {document.get('candidate')} against {document.get('champion')}")
    try:
        return Trial(**arrays)
    except (TypeError, ValueError) as error:
        raise StoreError(path, f"is no trial: {error}") from error
