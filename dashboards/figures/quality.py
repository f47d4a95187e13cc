"""What the Data quality page draws."""

from typing import Final

import polars as pl

from analytics.quality import AGREES, COVERED
from dashboards.data.quality import VERDICTS, QualityView
from dashboards.figures.figure import Figure
from dashboards.figures.style import COLOURS, INK, STRONG, empty, gap_of, titled, without

MOST_HOSTS: Final = 16


def colours(theme: str) -> dict[str, str]:
    """The colour of each verdict; a name stands beside it wherever it is used."""
    green, amber, red = COLOURS[theme][2], COLOURS[theme][1], STRONG[theme]
    return dict(zip(VERDICTS, (green, amber, red), strict=True))


def verdicts(view: QualityView, theme: str) -> Figure:
    """Devices by verdict on each host, those with most doubtful ones on top."""
    counts = view.devices.group_by("host").agg(
        *((pl.col("verdict") == name).sum().alias(name) for name in VERDICTS)
    ).sort(pl.col("poor"), "fair", "host", descending=[True, True, False]).head(MOST_HOSTS).reverse()  # fmt: skip
    if counts.is_empty():
        return without(empty(theme), "no device in this window")
    figure = empty(
        theme,
        x={"title": titled("Devices"), "rangemode": "tozero", "tickformat": ",d"},
        y={"type": "category", "showgrid": False},
        barmode="stack",
        bargap=0.3,
    )
    for name, colour in colours(theme).items():
        figure.add_bar(
            x=counts[name].to_list(),
            y=counts["host"].fill_null("unknown").to_list(),
            name=name,
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{y}}: %{{x}} {name}<extra></extra>",
        )
    return figure


def gaps(view: QualityView, theme: str) -> Figure:
    """Device-hours without readings, by reason."""
    if view.gaps.is_empty():
        return without(empty(theme), "no gap in this window")
    rows = view.gaps.head(MOST_HOSTS).reverse()
    figure = empty(
        theme,
        x={"title": titled("Without readings (device-hours)"), "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        bargap=gap_of(rows.height),
    )
    figure.add_bar(
        x=(rows["gap_s"] / 3600).to_list(),
        y=[reason.replace("_", " ") for reason in rows["reason"]],
        orientation="h",
        marker={"color": COLOURS[theme][0], "line": {"width": 0}},
        text=[f"{devices} devices" for devices in rows["devices"]],
        textposition="none",
        hovertemplate="%{y}: %{x:.3~g} device-hours, %{text}<extra></extra>",
    )
    return figure


def agreement(view: QualityView, theme: str) -> Figure:
    """Coverage of each device against its counter over its integrated power, with the bounds of the verdicts."""
    rows = view.devices.drop_nulls("covered_ratio")
    if rows.is_empty():
        return without(empty(theme), "no device in this window")
    figure = empty(
        theme,
        x={"title": titled("Counter over integrated power")},
        y={"title": titled("Covered"), "tickformat": ".0%", "range": [-0.02, 1.04]},
        hovermode="closest",
    )
    for name, colour in colours(theme).items():
        part = rows.filter(pl.col("verdict") == name)
        if part.is_empty():
            continue
        compared = part["agreement_ratio"].is_not_null()
        figure.add_scatter(
            # What has no counter has nothing to compare, and stands where both would agree, hollow.
            x=part["agreement_ratio"].fill_null(1.0).to_list(),
            y=part["covered_ratio"].to_list(),
            name=name,
            mode="markers",
            marker={
                "color": colour,
                "size": 8,
                "opacity": 0.8,
                "symbol": ["circle" if both else "circle-open" for both in compared],
            },
            text=[
                f"<b>{row['device']}</b><br>{row['host'] or ''}<br>{row['reason'] or 'good'}"
                for row in part.iter_rows(named=True)
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    for bound in AGREES:
        figure.add_vline(bound, line={"color": INK[theme], "width": 0.8, "dash": "dot"})
    for bound in COVERED:
        figure.add_hline(bound, line={"color": INK[theme], "width": 0.8, "dash": "dot"})
    lowest, highest = (
        min([*rows["agreement_ratio"].drop_nulls(), 0.85]),
        max([*rows["agreement_ratio"].drop_nulls(), 1.15]),
    )
    figure.layout["xaxis"].update(range=[lowest - 0.02, highest + 0.02])
    return figure
