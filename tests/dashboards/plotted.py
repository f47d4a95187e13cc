"""What Plotly makes of a figure: it raises ValueError at any word that it does not know."""

import plotly.graph_objects as go

from dashboards.figures.figure import Figure


def plotted(figure: Figure) -> go.Figure:
    """The figure in Plotly's own classes, which hold nothing that *figure* does not say in the browser's words."""
    found = go.Figure(data=figure.data, layout=figure.layout)
    told = found.to_plotly_json()
    for trace, given in zip(told["data"], figure.data, strict=True):
        assert trace.keys() == {name for name, value in given.items() if value is not None}
    assert told["layout"].keys() - {"template"} == figure.layout.keys()
    return found
