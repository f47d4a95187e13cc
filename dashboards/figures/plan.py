"""What the Plan page draws."""

import polars as pl

from collector.catalogue import POWER
from dashboards.data.plan import PlanView
from dashboards.figures.figure import Figure
from dashboards.figures.style import COLOURS, STRONG, axis, empty, titled, without
from dashboards.words import joined

BARS = 18


def margins(view: PlanView, theme: str) -> Figure:
    """What is left in each failure case with the servers in place, at the node that has least; the least first."""
    rows = cases(view)
    if rows.is_empty():
        return without(empty(theme), "there is no placement to prove")
    rows = rows.head(BARS).reverse()
    figure = empty(
        theme,
        x={"title": titled(axis(POWER).replace("Power", "Power left")), "tickformat": "~s", "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        bargap=0.35,
    )
    tight = rows["margin_w"] < 0.1 * rows["capacity_w"]
    for name, wanted, colour in (
        ("a tenth or more left", ~tight, COLOURS[theme][0]),
        ("less than a tenth left", tight, STRONG[theme]),
    ):
        part = rows.filter(wanted)
        if part.height:
            figure.add_bar(
                x=part["margin_w"].to_list(),
                y=part["label"].to_list(),
                name=name,
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                hovertext=[
                    f"{row['node']} carries {joined(row['load_w'], 'W')} of {joined(row['capacity_w'], 'W')}"
                    for row in part.iter_rows(named=True)
                ],
                hovertemplate="%{y}: %{x:.4~s}W left<br>%{hovertext}<extra></extra>",
            )
    figure.layout["yaxis"].update(categoryorder="array", categoryarray=rows["label"].to_list())
    return figure


def cases(view: PlanView) -> pl.DataFrame:
    """The failure cases of the proof at the end of the plan, that with least left first."""
    if view.shown is None or view.shown.proof.is_empty():
        return pl.DataFrame()
    label = pl.when(pl.col("case") == "none").then(pl.concat_str("site", pl.lit(": all stands"))).otherwise("case")
    proof = view.shown.proof.drop_nulls("margin_w").filter(pl.col("period") == pl.col("period").max())
    return proof.with_columns(label=label).sort("margin_w", "case")
