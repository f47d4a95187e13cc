"""fleet.toml: read strictly, looked up by host and by model."""

from datetime import date
from math import sqrt
from pathlib import Path

import pytest

from analytics.fleet import BREAKER_DERATING, Fleet, Sku, built_in_skus, spare_of
from analytics.fleet_toml import parse_fleet
from analytics.frames import read_fleet
from analytics.tables import write_toml
from collector.errors import ConfigError
from collector.sources.simulated import fleet as described

DUBLIN = """
[[site]]
name = "dublin"
hosts = ["dub-*", "extra"]
currency = "EUR"
price_per_kwh = 0.10
[[site.tariff]]
name = "peak"
price_per_kwh = 0.30
days = ["mon", "tue", "wed", "thu", "fri"]
hours = "08:00-20:00"
"""
TREE = """
[[site]]
name = "s"
power_factor = 0.95
[[domain]]
name = "feed-a"
parents = ["ups-a"]
rating_v = 415
rating_a = 60
phases = 3
[[domain]]
name = "feed-b"
parent = "ups-b"
rating_va = 43e3
derating_ratio = 0.9
[[domain]]
name = "ups-a"
kind = "ups"
rating_w = 50e3
units = 3
redundancy = "N+1"
[[domain]]
name = "ups-b"
kind = "ups"
rating_w = 100e3
redundancy = "2N"
[[rack]]
name = "r1"
feeds = ["feed-a", "feed-b"]
units = 42
hosts = ["r1-*", "odd"]
[[rack]]
name = "r2"
feeds = ["feed-a"]
hosts = ["r2-n1"]
available_from = 2027-03-01
"""
SKU = """
[[sku]]
name = "H100-SXM"
capex = 30000
currency = "EUR"
discount_ratio = 0.1
life_years = 5
tdp_w = 650
[sku.server]
accelerators = 8
peak_w = 9000
nameplate_w = 10200
"""


def two_sites(of_ups_b: str, *, hosts: str = "") -> str:
    """The tree with another site t, to which ups-b may belong."""
    text = TREE.replace("[[domain]]", f'[[site]]\nname = "t"\npower_factor = 1\n{hosts}\n[[domain]]', 1)
    for name, site in (("ups-a", "s"), ("ups-b", of_ups_b)):
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nsite = "{site}"')
    return text


def test_hosts_belong_to_their_racks_site_or_to_the_first_site_that_matches() -> None:
    assert parse_fleet(DUBLIN).site_of(["dub-1", "extra", "far"]) == {"dub-1": "dublin", "extra": "dublin"}
    assert parse_fleet("") == Fleet()
    fleet = parse_fleet(TREE)
    assert fleet.site_of(["r1-7", "odd", "r2-n1", "r2-n2"]) == {"r1-7": "s", "odd": "s", "r2-n1": "s"}
    assert fleet.rack_of(["r1-7", "odd", "r2-n1", "r2-n2"]) == {"r1-7": "r1", "odd": "r1", "r2-n1": "r2"}


def test_of_several_patterns_the_first_in_the_file_counts_and_a_name_goes_before() -> None:
    sites = [("a", ["node-1*"]), ("b", ["node-*", "node-11"]), ("c", ["n[o]de-2*", "*"])]
    text = "".join(f'[[site]]\nname = "{name}"\nhosts = {hosts}\n' for name, hosts in sites)
    found = parse_fleet(text).site_of(["node-1", "node-11", "node-2", "x"])
    assert found == {"node-1": "a", "node-11": "b", "node-2": "b", "x": "c"}


def test_a_rating_is_real_power_and_only_breakers_are_derated_by_themselves() -> None:
    fleet = parse_fleet(TREE)
    breaker = fleet.domain("feed-a").rating
    assert breaker is not None
    assert breaker.va == pytest.approx(sqrt(3) * 415 * 60)
    assert (breaker.w, breaker.derating_ratio) == (pytest.approx(0.95 * sqrt(3) * 415 * 60), BREAKER_DERATING)
    assert breaker.derated_va == pytest.approx(34.5e3, rel=1e-3)
    assert fleet.domain("feed-b").derated_w == pytest.approx(43e3 * 0.95 * 0.9)
    assert fleet.domain("ups-a").derated_w == 150e3


def test_redundant_units_are_safe_without_their_spare() -> None:
    fleet = parse_fleet(TREE)
    assert (fleet.domain("ups-a").installed_w, fleet.domain("ups-a").safe_w) == (150e3, 100e3)
    assert (fleet.domain("ups-b").units, fleet.domain("ups-b").safe_w) == (2, 100e3)
    assert spare_of("3N/2", 3) == 1
    for redundancy, count in (("N+3", 3), ("2N", 3), ("4N/3", 3), ("4N/4", 4), ("N-1", 2), ("", 1)):
        with pytest.raises(ValueError, match="is '"):
            spare_of(redundancy, count)


def test_domains_come_before_what_hangs_from_them_and_inherit_its_site() -> None:
    fleet = parse_fleet(TREE)
    order = [domain.name for domain in fleet.domains]
    assert order.index("ups-a") < order.index("feed-a")
    assert {domain.site for domain in fleet.domains} == {"s"}
    assert fleet.rack("r2").available_from == date(2027, 3, 1)


def test_known_accelerators_are_found_by_the_model_that_a_driver_tells() -> None:
    fleet = Fleet()
    h100, h200 = fleet.sku_of("NVIDIA H100 80GB HBM3"), fleet.sku_of("nvidia h200")
    assert h100 is not None
    assert h200 is not None
    assert (h100.flop_per_s, h100.memory_bandwidth_bytes_per_s, h100.tdp_w) == (989e12, 3.35e12, 700)
    assert (h200.flop_per_s, h200.memory_bandwidth_bytes_per_s) == (989e12, 4.8e12)
    for model in ("AMD Instinct MI300X OAM", "NVIDIA B200", "NVIDIA A100-SXM4-80GB", "Intel Gaudi 3 HL-325L"):
        found = fleet.sku_of(model)
        assert found is not None, model
        assert found.flop_per_s, model


@pytest.mark.parametrize(
    "model", ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-PCIE-40GB", "trn1.32xlarge", None]
)
def test_a_device_that_only_resembles_a_known_one_is_not_taken_for_it(model: str | None) -> None:
    assert Fleet().sku_of(model) is None


def test_what_a_maker_does_not_state_is_absent() -> None:
    tpu, mi355x = Fleet().sku("TPU v5p"), Fleet().sku("mi355x")
    assert tpu is not None
    assert mi355x is not None
    assert (tpu.tdp_w, mi355x.tdp_w) == (None, None)


def test_the_built_in_table_obeys_the_readers_rules() -> None:
    path = Path(__file__).parents[2] / "analytics" / "skus.toml"
    assert parse_fleet(path.read_text(encoding="utf-8")).skus == built_in_skus()


def test_the_file_goes_before_the_built_in_table_key_by_key() -> None:
    sku = parse_fleet(SKU).sku_of("NVIDIA H100 80GB HBM3")
    assert sku is not None
    assert sku.server is not None
    assert (sku.tdp_w, sku.flop_per_s, sku.server.accelerators) == (650, 989e12, 8)
    named = parse_fleet('[[sku]]\nname = "ours"\nmodel = "NVIDIA H100 80GB HBM3"\n').sku("OURS")
    assert named == Sku(**{**{f: getattr(Fleet().sku("H100-SXM"), f) for f in Sku.__slots__}, "name": "ours",
                           "models": ("NVIDIA H100 80GB HBM3",)})  # fmt: skip


def test_the_simulated_fleet_is_described_in_the_readers_own_words() -> None:
    told = described({"devices": 400, "sites": 3, "mix": {"H100": 2.0, "MI300X": 1.0}})
    fleet = parse_fleet(write_toml(told))
    assert len(fleet.sites) == 3
    assert {rack.name for rack in fleet.racks} == {rack["name"] for rack in told["rack"]}
    hosts = [host for rack in told["rack"] for host in rack["hosts"]]
    assert fleet.rack_of(hosts) == {host: rack["name"] for rack in told["rack"] for host in rack["hosts"]}
    sku = fleet.sku_of("NVIDIA H100 80GB HBM3")
    assert sku is not None
    assert sku.server is not None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: fleet\.toml: cannot be read"):
        read_fleet(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("[[site]\n", "fleet.toml", "is not TOML"),
        ("[[sites]]\n", "sites", "known: domain, rack, site, sku"),
        ("site = 3\n", "site", r"write \[\[site\]\]"),
        ("[[site]]\nhosts = []\n", "site[0].name", "is missing"),
        ('[[site]]\nname = ""\n', "site[0].name", "not text"),
        ('[[site]]\nname = "x"\ncolour = "red"\n', "site[0].colour", "is not a key; known"),
        ('[[site]]\nname = "x"\npue = 0.9\n', "site[0].pue", "below the least of 1"),
        ('[[site]]\nname = "x"\npue = true\n', "site[0].pue", "not a number"),
        ('[[site]]\nname = "x"\nlimit_w = 0\n', "site[0].limit_w", "above 0"),
        ('[[site]]\nname = "x"\nhosts = [1]\n', "site[0].hosts", "not a list of host names"),
        ('[[site]]\nname = "x"\nhosts = "b"\n', "site[0].hosts", "not a list of host names"),
        ('[[site]]\nname = "x"\nhosts = ["b", "b"]\n', "site[0].hosts", "twice"),
        ('[[site]]\nname = "x"\nprice_per_kwh = 0.1\n', "site[0].currency", "is missing"),
        ('[[site]]\nname = "x"\nprice_per_kwh = nan\n', "site[0].price_per_kwh", "not a number"),
        ('[[site]]\nname = "x"\ntime_zone = "Mars"\n', "site[0].time_zone", "Mars"),
        ('[[site]]\nname = "x"\n[[site]]\nname = "x"\n', "site[1].name", r"as site\[0\]"),
        ('[[site]]\nname="x"\nhosts=["h"]\n[[site]]\nname="y"\nhosts=["h"]\n', "site[1].hosts", r"'h', as site\[0\]"),
        (DUBLIN.replace("08:00-20:00", "8-20"), "site[0].tariff[0].hours", "8-20"),
        (DUBLIN.replace("08:00-20:00", "08:10-20:00"), "site[0].tariff[0].hours", "quarter-hours"),
        (DUBLIN.replace("08:00-20:00", "08:00-24:15"), "site[0].tariff[0].hours", "up to 24:00"),
        (DUBLIN.replace('"mon"', '"monday"'), "site[0].tariff[0].days", "monday"),
        (DUBLIN + "months = [13]\n", "site[0].tariff[0].months", "13"),
        (DUBLIN + "discount = 1\n", "site[0].tariff[0].discount", "is not a key"),
        (DUBLIN.replace("price_per_kwh = 0.30\n", ""), "site[0].tariff[0].price_per_kwh", "is missing"),
        ('[[sku]]\nmodel = "x"\ncapex = 1\ncurrency = "EUR"\nlife_years = 5\n', "sku[0].discount_ratio", "is missing"),
        ('[[sku]]\nmodel = "x"\nprice = 1\n', "sku[0].price", "is not a key"),
        ('[[sku]]\ntdp_w = 1\n', "sku[0].name", "is missing"),
        (SKU.replace("10200", "8000"), "sku[0].server.peak_w", "is 9000, above nameplate_w of 8000"),
        (SKU.replace("accelerators = 8", "accelerators = 8.5"), "sku[0].server.accelerators", "not a whole number"),
        ("[[domain]]\nname = 'd'\n", "domain[0].site", "there are 0 sites"),
        (TREE.replace('kind = "ups"', 'kind = "battery"', 1), "domain[2].kind", "not one of utility"),
        (TREE.replace('"feed-b"\nparent', '"feed-b"\nsite = "t"\nparent'), "domain[1].site", "no .*site"),
        (TREE.replace('["ups-a"]', '["ups-c"]'), "domain[0].parents", "'ups-c', which no"),
        (TREE.replace('["ups-a"]', '["ups-a"]\nparent = "ups-b"'), "domain[0].parent", "beside parents"),
        (TREE.replace('name = "ups-a"', 'name = "ups-a"\nparent = "feed-a"'), "domain[0].parents", "circle"),
        (TREE.replace("phases = 3\n", ""), "domain[0].phases", "is missing"),
        (TREE.replace("phases = 3\n", "phases = 2\n"), "domain[0].phases", "not 1 or 3"),
        (TREE.replace("phases = 3\n", "phases = 3\nrating_w = 1\n"), "domain[0].rating_v", "beside rating_w"),
        (TREE.replace("power_factor = 0.95\n", ""), "domain[0].power_factor", "is missing"),
        (TREE.replace('"N+1"', '"N+3"'), "domain[2].redundancy", "needs more than the 3"),
        (TREE.replace('redundancy = "N+1"', 'redundancy = "N+1"\ngroup = "g"'), "domain[2].units", "beside a group"),
        (TREE.replace('redundancy = "2N"', 'redundancy = "2N"\ngroup = "g"'), "domain[3].redundancy", "pairs, not 1"),
        (TREE.replace('redundancy = "2N"', 'group = "g"'), "domain[3].redundancy", "is missing"),
        (TREE.replace('"feed-b"\nparent', '"feed-b"\nkind = "transfer_switch"\nparent'), "domain[1].parents", "two"),
        (TREE.replace('["feed-a", "feed-b"]', '["feed-a", "feed-c"]'), "rack[0].feeds", "'feed-c', which no"),
        (TREE.replace('name = "r2"', 'name = "ups-a"'), "rack[1].name", r"as domain\[2\]"),
        (TREE.replace("units = 42", "units = 42\nunits_used = 43"), "rack[0].units_used", "above units of 42"),
        (TREE.replace("units = 42", "ports_used = 43"), "rack[0].ports", "is missing"),
        (TREE.replace("r2-n1", "odd"), "rack[1].hosts", r"'odd', as rack\[0\]"),
        (TREE.replace("r2-n1", "r1-n1"), "rack[1].hosts", "also among the hosts of rack r1"),
        (TREE.replace('hosts = ["r2', 'sku = "X9"\nhosts = ["r2'), "rack[1].sku", "which no"),
        (TREE.replace("2027-03-01", '"soon"'), "rack[1].available_from", "not a date"),
        (two_sites("s", hosts='hosts = ["odd"]'), "rack[0].hosts", "a host of t; the rack is of s"),
        (two_sites("t"), "rack[0].feeds", "of t; r1 is of s"),
    ],
)  # fmt: skip
def test_a_wrong_fleet_file_names_file_key_value_and_limit(text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failed:
        parse_fleet(text, path=Path("fleet.toml"))
    assert failed.value.key == key
    assert str(failed.value).startswith("fleet.toml: ")
