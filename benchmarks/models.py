"""
A new model beside the one that people rely on: what plain retraining breaks, and what the gate and its rule keep.

Four machines of SMD in thirds: the champion is fitted on one, the candidate on two, the last is for judging. Thirds are
of each machine's time, so that the third to judge is a strange one (twelve times as many faults as the one before), or
of blocks dealt in turn, as refits every few hours see it; then each third is the one to judge once, since few events
are in any one. The margin of the rule was chosen on the first two dealings with one seed, where it is nearest to all
three bars; on the third dealing nothing was chosen, so it stands beside the mean of all three. Other margins show what
they trade. Most of what is lost of true alarms is of one event, in the second dealing: so the worst dealing is told.

Models are kept as arrays in a store, read back and offered as a job offers them. The gate, which hands over by the rule
or keeps the champion, sees every second block, and what came of it is measured on the others. Means over two seeds.
Trees from arrays are timed beside scikit-learn's own.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from analytics.models.comparison import MARGINS, SURE, Comparison, Trial, compare, judge
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
OTHERS = [sure for sure in MARGINS if sure != SURE]
MEASURES = ("negative_flip_ratio", "lost_alarm_ratio", "error")

Pair = tuple[Comparison, Comparison]
"""Plain retraining, and what is kept instead, each beside the champion."""


class Outcome(NamedTuple):
    """
    The champion beside plain retraining on all windows to judge, and on those that the gate did not see what is in use
    then, and how that came.
    """

    whole: Trial
    unseen: Trial
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
        outcomes = [[_offered([*thirds[turn:], *thirds[:turn]], seed) for seed in SEEDS] for turn in turns]
        every = [outcome for some in outcomes for outcome in some]
        rows += _graceful(f"SMD thirds {split}, the rule at {SURE:g}", _by_rule(every, SURE))
        if len(turns) > 1:
            subject = f"SMD thirds {split}, the rule at {SURE:g}"
            rows += _graceful(f"{subject}, the dealing that nothing was chosen on", _by_rule(outcomes[-1], SURE))
            rows += _worst(subject, [_by_rule(some, SURE) for some in outcomes])
        rows += [row for sure in OTHERS for row in _traded(split, every, sure)]
        hows = Counter(outcome.how for outcome in every)
        said = ", ".join(f"{count} x {how}" for how, count in hows.items())
        gated = [(compare(outcome.unseen), outcome.kept) for outcome in every]
        rows += _graceful(f"SMD thirds {split}, the gate ({said})", gated)
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


def _offered(thirds: list[Part], seed: int) -> Outcome:
    """A champion and a refit on all of the last third; the gate on what it did not see."""
    judged = thirds[2]
    rows, truth = (np.concatenate([part[column] for part in thirds[:2]]) for column in (0, 1))
    champion, candidate = _fitted(thirds[0].rows, thirds[0].truth, seed), _fitted(rows, truth, seed)
    whole = Trial(
        series=judged.series, time_ns=judged.time_ns, truth=judged.truth,
        champion=champion.predict(judged.rows), candidate=candidate.predict(judged.rows),
    )  # fmt: skip
    said = (whole.champion, whole.candidate)
    with tempfile.TemporaryDirectory() as folder:
        root = Store.create(Path(folder) / "store").root
        for number, model in enumerate((champion, candidate)):
            meta = Meta(kind="trees/classes", start_ns=0, end_ns=int(judged.time_ns.max()) + number, rows=len(truth))
            trial = _part(whole, judged.seen) if number else None
            _, state = offer(root, NAME, model.arrays("model_"), meta, trial)
        judges = in_use(root, NAME)
        for one, probability in zip(judges, said, strict=False):
            read = Trees.of(load(root, NAME, one.version).arrays, "model_")
            assert np.array_equal(read.predict(judged.rows[:1000]), probability[:1000])
        verdicts = judge(said[: len(judges)], [one.sure for one in judges])
    unseen = _part(whole, ~judged.seen)
    kept = compare(replace(unseen, candidate=verdicts[~judged.seen].astype(float)))
    how = "champion stays" if state != "champion" else f"margin {judges[-1].sure}"
    return Outcome(whole, unseen, kept, how)


def _fitted(rows: NDArray[np.float64], truth: NDArray[np.int8], seed: int) -> Trees:
    """Trees as arrays, which predict what scikit-learn's own do."""
    fitted = HistGradientBoostingClassifier(random_state=seed).fit(rows, truth)
    found = trees(fitted)
    assert np.array_equal(found.predict(rows[:1000]), fitted.predict_proba(rows[:1000])[:, 1])
    return found


def _part(trial: Trial, chosen: NDArray[np.bool_]) -> Trial:
    return Trial(**{name: array[chosen] for name, array in trial.arrays().items()})


def _by_rule(outcomes: Sequence[Outcome], sure: float) -> list[Pair]:
    return [(compare(outcome.whole), compare(outcome.whole, sure=sure)) for outcome in outcomes]


def _mean(pairs: Sequence[Pair], measure: str) -> tuple[float, float]:
    """A measure by plain retraining, and of what is kept."""
    plain, kept = np.array([[one.of(measure).value for one in pair] for pair in pairs], dtype=float).mean(axis=0)
    return float(plain), float(kept)


def _graceful(subject: str, pairs: Sequence[Pair]) -> list[Row]:
    flips, lost, error = (_mean(pairs, measure) for measure in MEASURES)
    champion = float(np.mean([plain.of("error").champion for plain, _ in pairs]))
    fewer, rise, peer = 1 - flips[1] / flips[0], error[1] - error[0], "plain retraining"
    return [
        _row(subject, "negative flips, of what was right", flips[1] * 100, "%", peer, flips[0] * 100),
        _row(subject, "negative flips fewer than by plain retraining", fewer * 100, "%", bar=">= 80", ok=fewer >= 0.8),
        _row(subject, "old true alarms lost", lost[1] * 100, "%", peer, lost[0] * 100, "<= 1", lost[1] <= 0.01),
        _row(subject, "error", error[1] * 100, "%", peer, error[0] * 100, "<= 0.35 points higher", rise <= 0.0035),
        _row(subject, "error", error[1] * 100, "%", "no new model", champion * 100),
    ]


def _worst(subject: str, dealings: Sequence[Sequence[Pair]]) -> list[Row]:
    """The worst of the dealings, which has no bar: so few events are in one."""
    lost = max(_mean(pairs, "lost_alarm_ratio")[1] for pairs in dealings)
    rise = max(kept - plain for plain, kept in (_mean(pairs, "error") for pairs in dealings))
    subject = f"{subject}, worst of {len(dealings)} dealings"
    return [
        _row(subject, "old true alarms lost", lost * 100, "%"),
        _row(subject, "error above plain retraining's", rise * 100, "points"),
    ]


def _traded(split: str, outcomes: Sequence[Outcome], sure: float) -> list[Row]:
    """What another margin gives."""
    flips, lost, error = (_mean(_by_rule(outcomes, sure), measure) for measure in MEASURES)
    subject = f"SMD thirds {split}, other margins: {sure:g}"
    return [
        _row(subject, "negative flips fewer than by plain retraining", 100 * (1 - flips[1] / flips[0]), "%"),
        _row(subject, "old true alarms lost", 100 * lost[1], "%"),
        _row(subject, "error above plain retraining's", 100 * (error[1] - error[0]), "points"),
    ]


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
