from __future__ import annotations

import pytest

from smartedge.artifacts.plan import Link
from smartedge.errors import ConfigError
from smartedge.lab.plan.energy import edge_energy
from smartedge.lab.plan.links import LINKS, parse_link


@pytest.mark.parametrize(
    ("text", "up", "down", "latency_ms", "radio"),
    [
        ("3g", 1.1, 2.0275, 50, "3g"),
        ("WIFI", 18.88, 54.97, 5, "wifi"),
        ("5.85", 5.85, 5.85, 0, None),
        ("5.85mbit,20ms", 5.85, 5.85, 20, None),
        ("1.1/2.0, 50ms, 3g", 1.1, 2.0, 50, "3g"),
        ("4g,0ms", 5.85, 13.76, 0, "4g"),
        ("wifi,40", 40, 40, 5, "wifi"),
    ],
)
def test_links_are_read(text: str, up: float, down: float, latency_ms: float, radio: str | None) -> None:
    link = parse_link(text)
    assert (link.up_mbits, link.down_mbits, link.radio) == (up, down, radio)
    assert link.latency_s == pytest.approx(latency_ms / 1000, abs=1e-12)


@pytest.mark.parametrize("text", ["5g", "", "20ms", "0", "-1", "5,6m", "4g,soon", "1/0"])
def test_what_is_no_link_is_a_setting_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--link"):
        parse_link(text)


def test_seconds_count_the_headers_of_full_segments() -> None:
    # 1448 bytes fill one segment of 1514: 12112 bits at 1.1 Mbit/s.
    assert LINKS["3g"].up_seconds(1448) == pytest.approx(12112 / 1.1e6, rel=1e-9)
    assert LINKS["local"].up_seconds(10**9) == 0.0


def test_energy_is_the_published_power_times_the_time() -> None:
    # MobiSys 2012, table 4, LTE: 438.39 mW per Mbit/s + 1288.04 mW; for 10 s at 5.85 Mbit/s.
    link = LINKS["4g"]
    bytes_ = 10 / link.up_seconds(1)
    energy = edge_energy(link, compute_watts=5.0, busy_s=8.0, bytes_up=bytes_, bytes_down=0)
    assert energy.radio == pytest.approx(10 * (438.39 * 5.85 + 1288.04) / 1000, rel=1e-9)
    assert energy.compute == pytest.approx(40.0, rel=1e-9)


def test_energy_is_not_invented() -> None:
    energy = edge_energy(parse_link("5.85"), compute_watts=None, busy_s=8.0, bytes_up=1e6, bytes_down=0)
    assert (energy.compute, energy.radio) == (None, None)
    silent = edge_energy(parse_link("5.85"), compute_watts=None, busy_s=8.0, bytes_up=0, bytes_down=0)
    assert silent.radio == 0.0


@pytest.mark.parametrize(("up", "down", "radio"), [(1.0, None, "4g"), (None, 1.0, "4g"), (1.0, 1.0, None)])
def test_a_radio_of_which_a_rate_is_unknown_has_no_energy(up, down, radio) -> None:
    link = Link(name="some", up_mbits=up, down_mbits=down, latency_s=0.0, radio=radio)
    assert edge_energy(link, compute_watts=2.0, busy_s=3.0, bytes_up=1.0, bytes_down=1.0).radio is None


def test_what_is_received_takes_energy_of_its_own() -> None:
    link = LINKS["wifi"]
    energy = edge_energy(link, compute_watts=2.0, busy_s=3.0, bytes_up=0, bytes_down=10 / link.down_seconds(1))
    assert energy.radio == pytest.approx(10 * (137.01 * 54.97 + 132.86) / 1000, rel=1e-9)
    assert energy.total == pytest.approx(6.0 + energy.radio, rel=1e-12)
    assert link.down_seconds(1448) == pytest.approx(12112 / 54.97e6, rel=1e-9)
    assert LINKS["local"].down_seconds(10**9) == 0.0
    assert (str(link), str(LINKS["local"])) == ("wifi (18.88 Mbit/s up, 5 ms)", "local")
