"""Which hosts and addresses the gateway may fetch from: public ones, and those the operator names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """Hosts and networks that may be fetched from although they are not public.

    Attributes:
        hosts: Lower-case names; whatever they resolve to is allowed.
        networks: Networks of addresses, for literal addresses and for any name that resolves there.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "AllowList":
        """Read entries such as `images.internal`, `10.2.0.0/16` or `127.0.0.1`.

        Raises:
            ValueError: An entry is neither a host name nor an address nor a network.
        """
        hosts, networks = set[str](), list[Network]()
        for entry in entries:
            if is_host_name(entry):
                hosts.add(entry.lower())
            else:
                networks.append(ip_network(entry))
        return cls(hosts=frozenset(hosts), networks=tuple(networks))

    def permits(self, host: str, address: Address) -> bool:
        """Say whether this host may be fetched from when it has this address."""
        return is_public(address) or host in self.hosts or _within(address, self.networks)


def is_public(address: Address) -> bool:
    """Say whether an address is an ordinary one of the internet.

    False for every special-purpose range of the IANA registries (RFC 6890), for multicast, for
    addresses that embed an IPv4 address (mapped, 6to4, Teredo, NAT64: the embedded one could be
    private) and for the metadata services of clouds.
    """
    return any(address in network and not _within(address, special) for network, special in PUBLIC)


def is_host_name(text: str) -> bool:
    """Say whether a text is a DNS name that no resolver could take for an address.

    A name whose last label is a number in any base (`127.1`, `0x7f.1`, `2130706433`) is an address to
    C libraries; it is no name here. Neither is a name with a trailing dot.
    """
    return len(text) <= 253 and bool(_HOST_NAME.fullmatch(text)) and not _NUMERIC_END.search(text)


def literal_address(host: str) -> Address | None:
    """Return the address if the host is one in its usual notation (IPv6 without brackets), else None."""
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _within(address: Address, networks: Iterable[Network]) -> bool:
    # Membership across IP versions is False.
    return any(address in network for network in networks)


_HOST_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.I | re.A
)
_NUMERIC_END = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$", re.I | re.A)

_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's metadata service, in public space
        "169.254.0.0/16",  # link-local, and most clouds' metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)

_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)

PUBLIC: tuple[tuple[Network, tuple[Network, ...]], ...] = (
    (IPv4Network("0.0.0.0/0"), _SPECIAL_V4),
    # All else in IPv6 is reserved, local, multicast or a translation prefix (64:ff9b::/96, ::ffff:0:0/96).
    (IPv6Network("2000::/3"), _SPECIAL_V6),
)
"""Networks of public addresses, each with what in it is not public."""
