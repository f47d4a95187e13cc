"""
A new model beside the one that people rely on: what plain retraining breaks, and what the gate and its rule keep.

Four machines of SMD in thirds: the champion is fitted on one, the candidate on two, the last is for judging. Thirds are
of each machine's time, so that the third to judge is a strange one (twelve times as many faults as the one before), or
of blocks dealt in turn, as refits every few hours see it; then each third is the one to judge once, since few events
are in any one, and the worst of the three dealings is told beside the mean. Models are kept as arrays in a store, read
back and offered as a job offers them. The rule alone, for one refit at the margin that is usual and for a committee at
its own, is measured on the whole last third. The committee's size and margin were chosen on the first and second
dealing. The gate, which chooses the margin for a committee or keeps the champion, sees every second block, and what
came of it is measured on the others. Means over two seeds. Trees from arrays are timed beside scikit-learn's own.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from analytics.models.committee import AGREED, MEMBERS, drawn, least_sure
from analytics.models.comparison import SURE, Comparison, Trial, compare, judge
from analytics.models.trees import Trees, trees
from analytics.models.versions import Meta, in_use, load, offer
from benchmarks.rows import Row
from collector.store import Store

DATA = Path(__file__).parents[1] / "../shared/data/anomalies/smd"
SEEDS = (0, 1)
BLOCKS = 30
"""Of each machine: about 13 hours."""
MINUTE_NS = 60_000_000_000
NAME = "smd"
REPEATS = 3
SPLITS = ("of time", "of blocks dealt in turn")


class Outcome(NamedTuple):
    """Plain retraining beside the champion, what is in use instead beside it, and how that came."""

    plain: Comparison
    kept: Comparison
    how: str


class Part(NamedTuple):
    """Some windows of all machines."""

    rows: NDArray[np.float64]
    truth: NDArray[np.int8]
    series: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    block: NDArray[np.int64]
    seen: NDArray[np.bool_]


def run() -> list[Row]:
    """Flips, alarms and errors for both kinds of thirds; speed."""
    if not DATA.is_dir():
        return [_row("recordings", "present", 0, "", bar="not measured: no ../shared/data")]
    rows = []
    for split in SPLITS:
        thirds = [_third(split, number) for number in range(3)]
        turns = range(1 if split == SPLITS[0] else 3)
        dealt = [[*thirds[turn:], *thirds[:turn]] for turn in turns]
        alone, together, gated = zip(*(_offered(some, seed) for some in dealt for seed in SEEDS), strict=True)
        rows += _graceful(f"SMD thirds {split}, one refit, the rule at {SURE:g}", alone)
        rows += _graceful(f"SMD thirds {split}, a committee of {MEMBERS}, the rule at {AGREED:g}", together)
        rows += _graceful(f"SMD thirds {split}, the gate", gated)
    return [*rows, *_speed(thirds)]


def _third(split: str, number: int) -> Part:
    parts = []
    for machine, path in enumerate(sorted(DATA.glob("*.npz"))):
        with np.load(path, allow_pickle=False) as found:
            at = np.arange(len(found["label"]))
            block = at * BLOCKS // len(at)
            chosen = (block * 3 // BLOCKS if split == SPLITS[0] else block % 3) == number
            at, block = at[chosen], block[chosen]
            seen = (block if split == SPLITS[0] else block // 3) % 2 == 0
            parts.append(Part(found["test"][at].astype(float), found["label"][at], np.full(len(at), machine),
                              at * MINUTE_NS, machine * BLOCKS + block, seen))  # fmt: skip
    return Part(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _offered(thirds: list[Part], seed: int) -> tuple[Outcome, Outcome, Outcome]:
    """One refit and a committee by the rule alone on all of the last third; the gate on what it did not see."""
    judged = thirds[2]
    rows, truth, block = (np.concatenate([part[column] for part in thirds[:2]]) for column in (0, 1, 4))
    champion = [_fitted(thirds[0].rows, thirds[0].truth, seed)]
    members = [
        _fitted(rows[mine], truth[mine], seed * MEMBERS + number) for number, mine in enumerate(drawn(block, seed=seed))
    ]
    plain = _trial(judged, _said(champion, judged.rows), _said([_fitted(rows, truth, seed)], judged.rows))
    with tempfile.TemporaryDirectory() as folder:
        root = Store.create(Path(folder) / "store").root
        for number, some in enumerate((champion, members), 1):
            arrays = {name: array for at, one in enumerate(some) for name, array in one.arrays(f"member{at}_").items()}
            meta = Meta(kind="trees/classes", start_ns=0, end_ns=int(judged.time_ns.max()) + number, rows=len(truth))
            whole = _trial(judged, plain.champion, _said(some, judged.rows))
            _, state = offer(root, NAME, arrays, meta, _part(whole, judged.seen) if number == 2 else None)
        judges = in_use(root, NAME)
        read = [_said(_restored(load(root, NAME, one.version).arrays), judged.rows) for one in judges]
        verdicts = judge(read, [one.sure for one in judges])
    handed = _part(_trial(judged, plain.champion, verdicts.astype(float)), ~judged.seen)
    how = "champion stays" if state != "champion" else f"margin {judges[-1].sure}"
    of_plain = compare(plain)
    return (
        Outcome(of_plain, compare(plain, sure=SURE), ""),
        Outcome(of_plain, compare(whole, sure=AGREED), ""),
        Outcome(compare(_part(plain, ~judged.seen)), compare(handed), how),
    )


def _fitted(rows: NDArray[np.float64], truth: NDArray[np.int8], seed: int) -> Trees:
    """Trees as arrays, which predict what scikit-learn's own do."""
    fitted = HistGradientBoostingClassifier(random_state=seed).fit(rows, truth)
    found = trees(fitted)
    assert np.array_equal(found.predict(rows[:1000]), fitted.predict_proba(rows[:1000])[:, 1])
    return found


def _said(members: Sequence[Trees], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of a fault by one model, or by all members of a committee."""
    found = [one.predict(rows) for one in members]
    return least_sure(found) if len(found) > 1 else found[0]


def _restored(arrays: Mapping[str, NDArray[np.generic]]) -> list[Trees]:
    members = len({name.partition("_")[0] for name in arrays})
    return [Trees.of(arrays, f"member{at}_") for at in range(members)]


def _trial(judged: Part, champion: NDArray[np.float64], candidate: NDArray[np.float64]) -> Trial:
    return Trial(
        series=judged.series, time_ns=judged.time_ns, truth=judged.truth, champion=champion, candidate=candidate
    )


def _part(trial: Trial, chosen: NDArray[np.bool_]) -> Trial:
    return Trial(**{name: array[chosen] for name, array in trial.arrays().items()})


def _graceful(subject: str, outcomes: Sequence[Outcome]) -> list[Row]:
    flips, lost, error = (
        [
            float(np.mean([one.of(measure).value for one in some]))
            for some in ([outcome.kept for outcome in outcomes], [outcome.plain for outcome in outcomes])
        ]
        for measure in ("negative_flip_ratio", "lost_alarm_ratio", "error")
    )
    champion = float(np.mean([outcome.plain.of("error").champion for outcome in outcomes]))
    turns = [outcomes[at : at + len(SEEDS)] for at in range(0, len(outcomes), len(SEEDS))]
    fewer, rise, peer = 1 - flips[0] / flips[1], error[0] - error[1], "plain retraining"
    if outcomes[0].how:
        hows = Counter(outcome.how for outcome in outcomes)
        subject = f"{subject} ({', '.join(f'{count} x {how}' for how, count in hows.items())})"
    worst = [
        _row(
            f"{subject}, worst of {len(turns)} dealings", told, max(_points(some, measure) for some in turns), "points"
        )
        for told, measure in (("error, above plain retraining's", "error"), ("true alarms lost", "lost_alarm_ratio"))
        if len(turns) > 1
    ]
    return [
        *worst,
        _row(subject, "negative flips, of what was right", flips[0] * 100, "%", peer, flips[1] * 100),
        _row(subject, "negative flips fewer than by plain retraining", fewer * 100, "%", bar=">= 80", ok=fewer >= 0.8),
        _row(subject, "old true alarms lost", lost[0] * 100, "%", peer, lost[1] * 100, "<= 1", lost[0] <= 0.01),
        _row(subject, "error", error[0] * 100, "%", peer, error[1] * 100, "<= 0.35 points higher", rise <= 0.0035),
        _row(subject, "error", error[0] * 100, "%", "no new model", champion * 100),
    ]


def _points(outcomes: Sequence[Outcome], measure: str) -> float:
    """What is kept of a measure in points, errors as beside plain retraining."""
    kept, plain = (
        float(np.mean([getattr(outcome, side).of(measure).value for outcome in outcomes])) for side in ("kept", "plain")
    )
    return 100 * (kept - plain if measure == "error" else kept)


def _speed(thirds: list[Part]) -> list[Row]:
    fitted = HistGradientBoostingClassifier(random_state=0).fit(thirds[0].rows, thirds[0].truth)
    ours, rows = trees(fitted), thirds[2].rows
    per_s = []
    for predict in (ours.predict, fitted.predict_proba):
        began = time.process_time()
        for _ in range(REPEATS):
            predict(rows)
        per_s.append(len(rows) * REPEATS / (time.process_time() - began))
    subject = f"{len(ours.roots)} trees, {rows.shape[1]} columns"
    return [_row(subject, "predicted from arrays", per_s[0], "rows per CPU second", "scikit-learn", per_s[1])]


def _row(
    subject: str,
    measure: str,
    value: float,
    unit: str,
    peer: str | None = None,
    peer_value: float | None = None,
    bar: str = "",
    ok: bool | None = None,
) -> Row:
    return Row(
        benchmark="models", subject=subject, measure=measure, value=float(value), unit=unit, peer=peer,
        peer_value=None if peer_value is None else float(peer_value), bar=bar, ok=None if ok is None else bool(ok),
    )  # fmt: skip
