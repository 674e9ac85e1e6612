"""Which hosts and addresses count as public."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.addresses import AllowList, is_host_name, is_public, literal_address


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"]
)
def test_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.255.254", "::1"),
        *("0.0.0.0", "0.1.2.3", "::"),
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"),
        *("100.64.0.1", "100.127.255.255", "100.100.100.200"),
        *("169.254.0.1", "fe80::1", "fe80::1%eth0"),
        *("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "192.0.0.192"),
        *("224.0.0.1", "239.255.255.255", "ff02::1", "255.255.255.255", "240.0.0.1"),
        *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "3fff::1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1"),
        *("2002:7f00:1::", "2002:808:808::1", "2001::1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
        *("fec0::1", "100::1", "5f00::1", "4000::1"),
    ],
)
def test_not_public(text):
    assert not is_public(ip_address(text))


@given(st.ip_addresses())
def test_what_python_calls_private_or_multicast_is_never_public(address):
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert not is_public(address)


@pytest.mark.parametrize(
    "text", ["a", "localhost", "images.example.com", "a-b.c_d.net", "xn--bcher-kva.example", "1.a"]
)
def test_names(text):
    assert is_host_name(text)
    assert literal_address(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a.", ".a", "a..b", "-a", "a-", "a" * 64, "a." * 127 + "ab"),
        *("127.1", "127.0.0.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "a.0x", "1.2.3.4.5"),
        *(
            "bücher.example",
            "ⓛocalhost",
            "127。0。0。1",
            "a b",
            "a%2eb",
            "[::1]",
            "::1",
            "a@b",
            "a:1",
            "a\n",
            "ſ",
        ),
    ],
)
def test_no_names(text):
    assert not is_host_name(text)


@pytest.mark.parametrize(
    "text", ["0177.0.0.1", "127.1", "0x7f.0.0.1", "2130706433", "1.2.3.4.", "fe80::1%eth0", "１.1.1.1"]
)
def test_unusual_notations_are_no_addresses(text):
    assert literal_address(text) is None


def test_the_allow_list_takes_names_addresses_and_networks():
    allow = AllowList.parse(["Images.Internal", "10.2.0.0/16", "127.0.0.1", "fd00::/8"])
    assert allow.permits("images.internal", ip_address("192.168.0.1"))
    assert allow.permits("other.internal", ip_address("10.2.3.4"))
    assert allow.permits("127.0.0.1", ip_address("127.0.0.1"))
    assert allow.permits("x", ip_address("fd00::1"))
    assert allow.permits("x", ip_address("8.8.8.8"))
    assert not allow.permits("x", ip_address("10.3.0.1"))
    assert not allow.permits("x", ip_address("127.0.0.2"))
    assert not allow.permits("127.0.0.1", ip_address("::ffff:127.0.0.1"))


@pytest.mark.parametrize("entry", ["", "10.2.0.1/16", "10.0.0.0/33", "http://a", "*.internal"])
def test_a_bad_entry_of_the_allow_list_is_an_error(entry):
    with pytest.raises(ValueError, match=r".*"):
        AllowList.parse([entry])
