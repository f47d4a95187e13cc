"""The examples are what they say: a fleet.toml, and a plan.toml for it."""

import json
from pathlib import Path

from typer.testing import CliRunner

import cli
from analytics.capacity.tree import trees
from analytics.frames import read_fleet

EXAMPLE = Path(__file__).parents[2] / "deploy" / "fleet.toml"


def test_the_example_is_read_and_its_tree_carries_its_racks_with_any_one_part_lost() -> None:
    fleet = read_fleet(EXAMPLE)
    (tree,) = trees(fleet)
    assert {node.kind for node in tree.nodes} >= {"site", "utility", "generator", "transfer_switch", "ups", "rpp"}
    for case in tree.cases:
        assert tree.dark(case) == ()
    sku = fleet.sku_of("NVIDIA H100 80GB HBM3")
    assert sku is not None
    assert sku.server is not None
    assert (sku.flop_per_s, sku.tdp_w, sku.server.accelerators) == (989e12, 700, 8)


def test_the_example_of_a_plan_can_be_met() -> None:
    ask = EXAMPLE.with_name("plan.toml")
    base = ["plan", str(ask), "--fleet", str(EXAMPLE), "--unmeasured", "--store", "none", "-o", "json"]
    result = CliRunner().invoke(cli.app, base)
    assert result.exit_code == 0, result.output
    placed = [row for row in json.loads(result.stdout)["rows"] if row["option"] == 1]
    assert {row["period"]: row["servers"] for row in placed} == {2: 2, 3: 1}
