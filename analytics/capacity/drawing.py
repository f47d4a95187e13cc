"""The power tree as text."""

from collections.abc import Iterator

from analytics.capacity.headroom import Survey, headroom


def drawing(found: Survey) -> str:
    """
    The tree of a site, what hangs from a node below it: its load, the load in its worst failure, what is safe and left.

    A node that hangs from several stands below the first of them, and the others are named.
    """
    rows = {row["node"]: row for row in headroom(found).iter_rows(named=True)}
    below: dict[str, list[str]] = {}
    others: dict[str, tuple[str, ...]] = {}
    for node in found.tree.nodes:
        for parent in node.parents[:1]:
            below.setdefault(parent, []).append(node.name)
        others[node.name] = node.parents[1:]
    roots = [node.name for node in found.tree.nodes if not node.parents]
    for rack in found.racks:
        feeds = rack.feeds or (found.tree.site.name,)
        below.setdefault(feeds[0], []).append(rack.name)
        others[rack.name] = feeds[1:]

    def branch(name: str, indent: str, last: bool, *, root: bool = False) -> Iterator[tuple[str, str]]:
        also = f" + {', '.join(others[name])}" if others[name] else ""
        stem = "" if root else indent + ("└─ " if last else "├─ ")
        yield f"{stem}{name}{also}", _said(rows[name])
        inner = "" if root else indent + ("   " if last else "│  ")
        children = below.get(name, [])
        for at, child in enumerate(children):
            yield from branch(child, inner, at == len(children) - 1)

    lines = [line for root in roots for line in branch(root, "", True, root=True)]
    width = max(len(left) for left, _ in lines)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in lines)


def _said(row: dict[str, object]) -> str:
    def kw(name: str) -> str:
        value = row[name]
        return "-" if value is None else f"{float(str(value)) / 1000:,.1f}"

    text = f"{row['kind']!s:<15} load {kw('load_w'):>8} kW"
    if row["safe_w"] is None:
        return f"{text}   no limit known"
    left = row["headroom_w"]
    mark = "  OVERLOADED" if isinstance(left, float) and left < 0 else ""
    worst = "" if row["worst_failure"] == "none" else f" without {row['worst_failure']}"
    return f"{text}   {kw('failure_load_w'):>8} of {kw('safe_w'):>8} kW{worst}, left {kw('headroom_w'):>8} kW{mark}"
