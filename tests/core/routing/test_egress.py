"""Where endpoints may point: every range and name that is inside, what the platform's list opens, and spellings that hide an address."""

from __future__ import annotations

import pytest

from modelfleet.core.routing.egress import Egress, egress


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.0.192",
        "224.0.0.1", "255.255.255.255", "::", "::1", "fc00::1", "fd12::1", "fe80::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "localhost", "LocalHost.", "a.localhost", "kubernetes", "kubernetes.default", "small", "small.demo.svc", "small.demo.svc.cluster.local.",
        "metadata.google.internal", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "10.0x1", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_what_is_inside_is_refused_until_it_is_allowed(host: str) -> None:
    assert not Egress().permits(host)
    assert not egress(["198.51.100.0/24", "other.example"]).permits(host)


@pytest.mark.parametrize(
    "host", ["api.example.com", "API.Example.com.", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1", "svc.example.com", "1e100.net"]
)
def test_what_is_public_is_permitted(host: str) -> None:
    assert Egress().permits(host)


@pytest.mark.parametrize(
    ("allow", "host", "permitted"),
    [
        (["10.20.0.0/16"], "10.20.3.4", True),
        (["10.20.0.0/16"], "10.21.0.1", False),
        (["10.20.3.4"], "10.20.3.4", True),
        (["10.20.3.4"], "::ffff:10.20.3.4", True),
        (["fd00::/8"], "fd12::1", True),
        (["vllm.models.svc"], "VLLM.models.svc.", True),
        (["vllm.models.svc"], "other.models.svc", False),
        (["vllm.models.svc"], "x.vllm.models.svc", False),
        (["10.0.0.0/8"], "vllm.models.svc", False),
    ],
)
def test_the_platforms_list_opens_what_it_names_and_no_more(allow: list[str], host: str, permitted: bool) -> None:
    assert egress(allow).permits(host) is permitted


def test_a_name_may_lead_only_to_addresses_that_are_permitted_unless_it_is_listed_itself() -> None:
    rules = egress(["10.20.0.0/16", "trusted.example"])
    assert [rules.permits_address("any.example", a) for a in ("8.8.8.8", "10.20.0.1", "10.0.0.1", "fe80::1%eth0", "not an address")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert rules.permits_address("Trusted.example.", "10.0.0.1")


@pytest.mark.parametrize("entry", ["http://x", "10.0.0.1/8", "10.0.0.0/33", "a b", "", "-x", "10.1", "*.example.com"])
def test_an_entry_that_is_neither_host_nor_cidr_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"no CIDR|neither a host nor a CIDR") as wrong:
        egress([entry])
    assert repr(entry) in str(wrong.value)
