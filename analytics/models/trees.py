"""
Ensembles of trees as arrays: what scikit-learn fitted, predicted by numpy alone.

A model is kept for years and read by another version of the library than wrote it, so its trees are numbers of ours:
for each node the feature and threshold that divide it, its children, and the value of a leaf. A leaf is its own child,
which a row that has come to it never leaves.

Rows do not walk down the trees: where a row goes right at a node, the leaves to the left of it are out, and the first
leaf that is left is its own (QuickScorer: Lucchese et al., SIGIR 2015). Which leaves a feature's value leaves of all
trees is one line of a table, so that a row is as many lookups as there are features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

Floats = NDArray[np.float64]

_ROWS: Final = 512
"""Rows that are predicted at once, so that what is looked at of all trees stays in the processor's cache."""
_MOST_LEAVES: Final = 64
"""As many as a number has bits; rows walk down where a tree has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """
    Trees one after another in arrays over all their nodes; children are positions in these arrays.

    roots: the first node of each tree. baseline: what the trees add to. logistic: whether the sum is the logit of a
    probability. features: how many columns a row has.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    missing_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    roots: NDArray[np.int32]
    baseline: float
    logistic: bool
    features: int

    def predict(self, rows: NDArray[np.floating[Any]]) -> Floats:
        """
        The expected value of each row, or of a classifier the probability of its second class.

        In:  (rows, features); NaN is what was not measured.
        Out: (rows,), to the last bit what the ensemble itself predicts.

        Raises: ValueError (another number of columns).
        """
        return predictions([self], rows)[0]

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The trees as a model's arrays; *prefix* tells several ensembles of one model apart."""
        return {f"{prefix}{field.name}": np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> "Trees":
        """
        The trees of a model's arrays.

        Raises: ValueError (an array is missing, or the arrays are no trees: a child before its parent or out of range).
        """
        missing = [field.name for field in fields(cls) if f"{prefix}{field.name}" not in arrays]
        if missing:
            raise ValueError(f"no array {prefix}{missing[0]}: these are no trees")
        held: dict[str, Any] = {field.name: arrays[f"{prefix}{field.name}"] for field in fields(cls)}
        for name, plain in (("baseline", float), ("logistic", bool), ("features", int)):
            if held[name].shape != ():
                raise ValueError(f"array {prefix}{name} is of {held[name].shape}, not one number")
            held[name] = plain(held[name])
        found = cls(**held)
        found._check()
        return found

    def _check(self) -> None:
        nodes = np.arange(len(self.value))
        for name in ("feature", "threshold", "missing_left", "left", "right", "value"):
            if getattr(self, name).shape != nodes.shape:
                raise ValueError(f"array {name} is of {getattr(self, name).shape}, not of {nodes.shape}")
        kinds = {"feature": "i", "left": "i", "right": "i", "roots": "i", "threshold": "f", "value": "f"}
        for name, kind in {**kinds, "missing_left": "b"}.items():
            if getattr(self, name).dtype.kind != kind:
                raise ValueError(f"array {name} is of {getattr(self, name).dtype}")
        leaf = (self.left == nodes) & (self.right == nodes)
        # Children come after their parents, so that every way ends.
        inner = (self.left > nodes) & (self.right > nodes)
        inside = (self.left < len(nodes)) & (self.right < len(nodes))
        if not bool(((leaf | inner) & inside).all()):
            raise ValueError("a node has a child that is before it or not there")
        for name, low, high in (("feature", 0, self.features), ("roots", 0, len(nodes))):
            array = getattr(self, name)
            if array.size and not (low <= array.min() and array.max() < high):
                raise ValueError(f"array {name} has {array.min()} to {array.max()}, not {low} to {high - 1}")
        parents = np.bincount(np.concatenate([self.left[inner], self.right[inner], self.roots]), minlength=len(nodes))
        if bool((parents != 1).any()):
            raise ValueError("a node is below no other and not the first of a tree, or twice one of these")
        if self.roots.ndim != 1 or not np.isfinite(self.value).all() or not np.isfinite(self.baseline):
            raise ValueError("a value of a leaf is no number")

    def _walked(self, values: Floats) -> Floats:
        """The sum of the leaves that each row comes to."""
        depths = self._depths()
        children = np.column_stack([self.left, self.right]).astype(np.int64).ravel()
        raw = np.full(len(values), self.baseline)
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS]
            flat, first = part.ravel(), np.arange(len(part)) * self.features
            # In the order of the library, since a sum of floats depends on it.
            for root, depth in zip(self.roots, depths, strict=True):
                node = np.full(len(part), root, dtype=np.int64)
                for _ in range(depth):
                    value = flat.take(first + self.feature.take(node))
                    goes_right = value > self.threshold.take(node)
                    goes_right |= np.isnan(value) & ~self.missing_left.take(node)
                    node = children.take(2 * node + goes_right)
                raw[start : start + _ROWS] += self.value.take(node)
        return raw

    def _leaves(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """For each node how many leaves are below it, how many of its tree are left of those, and which tree it is."""
        nodes = range(len(self.value))
        left, right = self.left.tolist(), self.right.tolist()
        below, before, tree = [1] * len(nodes), [0] * len(nodes), [0] * len(nodes)
        for number, root in enumerate(self.roots.tolist()):
            tree[root] = number
        for node in reversed(nodes):
            if left[node] != node:
                below[node] = below[left[node]] + below[right[node]]
        for node in nodes:
            if left[node] != node:
                before[left[node]], before[right[node]] = before[node], before[node] + below[left[node]]
                tree[left[node]] = tree[right[node]] = tree[node]
        return np.array(below), np.array(before), np.array(tree)

    def _depths(self) -> list[int]:
        """How many steps it takes from each root to its furthest leaf."""
        below = np.zeros(len(self.value), dtype=np.int64)
        nodes = np.arange(len(self.value))
        for node in nodes[self.left != nodes][::-1]:
            below[node] = 1 + max(below[self.left[node]], below[self.right[node]])
        return [int(depth) for depth in below[self.roots]]


def predictions(models: Sequence[Trees], rows: NDArray[np.floating[Any]]) -> list[Floats]:
    """
    What `Trees.predict` gives of each of *models*, which look at the same rows.

    Raises: ValueError (another number of columns than one of them has).
    """
    values = np.ascontiguousarray(rows, dtype=np.float64)
    for model in models:
        if values.ndim != 2 or values.shape[1] != model.features:
            raise ValueError(f"rows of {values.shape[1:]} columns; the model has {model.features}")
    raws = _looked_up(models, values)
    return [expit(raw) if model.logistic else raw for model, raw in zip(models, raws, strict=True)]


def _looked_up(models: Sequence[Trees], values: Floats) -> list[Floats]:
    """The sum of the leaves that each row comes to, for each of *models*."""
    leaves = [model._leaves() for model in models]
    most = max(int(below.max(initial=1)) for below, _, _ in leaves)
    if most > _MOST_LEAVES:
        return [model._walked(values) for model in models]
    kind = np.dtype(np.uint16 if most <= 16 else np.uint32 if most <= 32 else np.uint64)
    last = np.cumsum([len(model.roots) for model in models])
    first = last - [len(model.roots) for model in models]
    tables = _tables(models, leaves, first, int(last[-1]), kind)
    value = np.zeros((int(last[-1]), most))
    for model, (_, before, tree), start in zip(models, leaves, first, strict=True):
        leaf = np.flatnonzero(model.left == np.arange(len(model.value)))
        value[start + tree[leaf], before[leaf]] = model.value[leaf]
    bins = [_bins(values[:, feature], thresholds) for feature, thresholds, _ in tables]
    full, found = ~kind.type(0), [np.empty(len(values)) for _ in models]
    for begin in range(0, len(values), _ROWS):
        part = slice(begin, begin + _ROWS)
        left = np.full((len(values[part]), len(value)), full, kind)
        for (_, _, table), binned in zip(tables, bins, strict=True):
            left &= table.take(binned[part], axis=0)
        # The exponent of a float is the place of the only bit of a number that has one.
        place = (left & (~left + kind.type(1))).astype(np.float32).view(np.int32) >> 23
        at = np.ascontiguousarray((place + (np.arange(len(value)) * most - 127)).T)
        added = value.take(at)
        for model, raw, start, end in zip(models, found, first, last, strict=True):
            # In the order of the library, since a sum of floats depends on it.
            raw[part] = model.baseline
            for line in added[start:end]:
                raw[part] += line
    return found


def _tables(
    models: Sequence[Trees],
    leaves: Sequence[tuple[Any, Any, Any]],
    first: NDArray[Any],
    count: int,
    kind: np.dtype[Any],
) -> list[tuple[int, Floats, NDArray[Any]]]:
    """
    Of each feature that is asked for its thresholds, and which leaves it leaves of each tree: a line for each number of
    thresholds that a value may be above, and one for what was not measured.
    """
    columns = []
    for model, (below, before, tree), start in zip(models, leaves, first, strict=True):
        inner = np.flatnonzero(model.left != np.arange(len(model.value)))
        width, shift = below[model.left[inner]].astype(np.uint64), before[inner].astype(np.uint64)
        # What is left where a row goes right.
        mask = ~(((np.uint64(1) << width) - np.uint64(1)) << shift)
        columns.append((model.feature[inner], model.threshold[inner], ~model.missing_left[inner], start + tree[inner],
                        mask.astype(kind)))  # fmt: skip
    feature, threshold, missing_right, tree, mask = (np.concatenate(column) for column in zip(*columns, strict=True))
    full, found = ~kind.type(0), []
    for one in np.unique(feature):
        mine = feature == one
        thresholds = np.unique(threshold[mine])
        table = np.full((len(thresholds) + 2, count), full, kind)
        np.bitwise_and.at(table, (np.searchsorted(thresholds, threshold[mine]) + 1, tree[mine]), mask[mine])
        np.bitwise_and.accumulate(table[:-1], axis=0, out=table[:-1])
        mine &= missing_right
        np.bitwise_and.at(table, (len(thresholds) + 1, tree[mine]), mask[mine])
        found.append((int(one), thresholds, table))
    return found


def _bins(values: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many of *thresholds* each value is above; one more than there are for what was not measured."""
    column = np.ascontiguousarray(values)
    return np.where(np.isnan(column), len(thresholds) + 1, np.searchsorted(thresholds, column, side="left"))


def trees(fitted: HistGradientBoostingRegressor | HistGradientBoostingClassifier) -> Trees:
    """
    A fitted ensemble as arrays.

    Raises: ValueError (more than two classes, features that are categories, a loss whose sum is neither the value nor
    a logit).
    """
    raw = cast("Any", fitted)
    link = type(raw._loss.link).__name__
    if raw.n_trees_per_iteration_ != 1 or link not in {"IdentityLink", "LogitLink"}:
        raise ValueError(f"an ensemble of {raw.n_trees_per_iteration_} trees at a time with {link} is not supported")
    every = [step[0].nodes for step in raw._predictors]
    if any(bool(nodes["is_categorical"].any()) for nodes in every):
        raise ValueError("features that are categories are not supported: give them as numbers")
    sizes = np.array([len(nodes) for nodes in every], dtype=np.int64)
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    nodes = np.concatenate(every)
    own = np.arange(len(nodes))
    first = np.repeat(firsts, sizes)
    leaf = nodes["is_leaf"].astype(bool)
    return Trees(
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        left=np.where(leaf, own, first + nodes["left"]).astype(np.int32),
        right=np.where(leaf, own, first + nodes["right"]).astype(np.int32),
        value=np.where(leaf, nodes["value"], 0.0),
        roots=firsts.astype(np.int32),
        baseline=float(raw._baseline_prediction[0, 0]),
        logistic=link == "LogitLink",
        features=int(raw.n_features_in_),
    )
