"""What Plotly makes of a figure: it raises ValueError at any word that it does not know."""

import plotly.graph_objects as go
import polars as pl

from dashboards.figures.figure import Figure


def plotted(figure: Figure) -> go.Figure:
    """The figure in Plotly's own classes, which hold nothing that *figure* does not say in the browser's words."""
    data = [
        {name: value.to_numpy() if isinstance(value, pl.Series) else value for name, value in trace.items()}
        for trace in figure.data
    ]
    found = go.Figure(data=data, layout=figure.layout)
    told = found.to_plotly_json()
    for trace, given in zip(told["data"], figure.data, strict=True):
        assert trace.keys() == {name for name, value in given.items() if value is not None}
    assert told["layout"].keys() - {"template"} == figure.layout.keys()
    return found
