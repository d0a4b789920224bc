from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.platforms.addresses import check_host_literal, forbidden_address

PRIVATE = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),  # noqa: S104 - nothing is bound
    *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
    *("2002:a00:1::", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    "ff0e::1",
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "2606:4700::1111"),
    *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_inside_are_forbidden(address: str) -> None:
    assert forbidden_address(address)
    assert forbidden_address(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert not forbidden_address(address)


def test_what_is_no_address_is_forbidden() -> None:
    assert forbidden_address("example.com")
    assert forbidden_address("")


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_ipv4_inside_ipv6_is_judged_as_ipv4(number: int) -> None:
    plain = forbidden_address(IPv4Address(number))
    assert forbidden_address(IPv6Address((0xFFFF << 32) | number)) is plain
    assert forbidden_address(IPv6Address((0x0064_FF9B << 96) | number)) is plain


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "x.localhost", "ip6-localhost"),
        *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001"),
        *("0177.0.0.1", "0", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]"),
        *(
            "\uff11\uff12\uff17.0.0.1",
            "127\u30020\u30020\u30021",
            "\u24dbocalhost",
            "169.254.169.254",
            "127.0.0.1.",
        ),
    ],
)
@pytest.mark.parametrize("port", ["", ":8080"])
def test_every_spelling_of_this_machine_is_found(host: str, port: str) -> None:
    wrong = check_host_literal(f"https://{host}{port}/in")
    assert wrong is not None
    assert "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE" in wrong


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "[2606:4700::1]", "localhost.example"])
def test_public_hosts_pass(host: str) -> None:
    assert check_host_literal(f"https://{host}/in") is None


@given(st.text())
def test_no_url_raises(text: str) -> None:
    wrong = check_host_literal(f"https://{text}")
    assert wrong is None or isinstance(wrong, str)
