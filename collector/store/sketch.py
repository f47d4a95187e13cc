"""
A sketch of a distribution: how many values lie in each of bins that grow by the same factor (DDSketch).

Masson, Rim and Lee, "DDSketch: A fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019.
A quantile read from it is off by no more than `ACCURACY` of itself; sketches of parts are added up bin by bin, in any
order, and the sum is the sketch of the whole. Plain SQL makes it (a histogram of a logarithm), merges it, and reads it.
"""

import math
from typing import Final

ACCURACY: Final = 0.01
LEAST: Final = 1e-3
"""What is nearer to 0 is in the bin of 0."""
TYPE: Final = "STRUCT(bin SMALLINT, n UINTEGER)[]"
"""The bins that hold a value, in order, and how many each holds."""

GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
LOG_GAMMA: Final = math.log(GAMMA)
SHIFT: Final = 1 - math.ceil(math.log(LEAST) / LOG_GAMMA)
"""Added to the exponent of a bin, so that those of values above 0 are above 0."""


def bin_of(value: str) -> str:
    """
    The bin of a value, in SQL: above 0 for values above 0, below for those below.

    Bin *b* above 0 holds the values from ``GAMMA ** (b - SHIFT - 1)``, not included, to ``GAMMA ** (b - SHIFT)``, and
    stands for ``2 * GAMMA ** (b - SHIFT) / (GAMMA + 1)``.
    """
    above, below = (f"ceil(ln({size}) / {LOG_GAMMA!r}) + {SHIFT}" for size in (value, f"-{value}"))
    return (
        f"CASE WHEN {value} >= {LEAST} THEN {above} WHEN {value} <= -{LEAST} THEN -({below}) "
        f"WHEN {value} IS NOT NULL THEN 0 END::SMALLINT"
    )


def reader() -> str:
    """
    The statement that makes the macro ``sketch_quantile(sketch, q)``, in the unit of what was sketched.

    It takes the bins of several sketches one after another, too: ``sketch_quantile(flatten(list(sketch)), q)``. The
    value is that of the place ``floor(q * (count - 1))`` in the sorted values, off by `ACCURACY` of itself at most.
    """
    middle = f"CASE WHEN bin = 0 THEN 0.0 ELSE sign(bin) * {2 / (GAMMA + 1)!r} * {GAMMA!r} ** (abs(bin) - {SHIFT}) END"
    counted = "SELECT bin, sum(n) OVER (ORDER BY bin) AS upto, sum(n) OVER () AS total FROM"
    return (
        f"CREATE OR REPLACE MACRO sketch_quantile(sketch, q) AS (SELECT {middle} FROM ({counted} "
        f"(SELECT unnest(sketch, recursive := true))) WHERE upto > floor(q * (total - 1)) ORDER BY bin LIMIT 1)"
    )
