"""Which addresses a webhook may reach: the guard against requests into private networks.

`check_host_literal` is the door's check of what a URL says; `forbidden_address` is the
client's check of what a name resolved to, without which any name could lead inside. Both
are pure: nothing is looked up here.
"""

import socket
import unicodedata
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

#: IPv6-only networks reach IPv4 through this prefix; the last 32 bits are the address.
_NAT64 = IPv6Network("64:ff9b::/96")
#: Names that mean this machine in every usual hosts file.
_LOCAL_NAMES = frozenset({"localhost", "localdomain", "ip6-localhost", "ip6-loopback"})


def forbidden_address(ip: str | IPv4Address | IPv6Address) -> bool:
    """Say whether an address is private, loopback, link-local, multicast or reserved.

    IPv4 inside IPv6 (mapped, 6to4, NAT64) is judged as the IPv4 address. What cannot be
    read as an address is forbidden.
    """
    if isinstance(ip, str):
        try:
            ip = ip_address(ip)
        except ValueError:
            return True
    if isinstance(ip, IPv6Address):
        inner = _ipv4_inside(ip)
        if inner is not None:
            return forbidden_address(inner)
        if ip.is_site_local:
            return True
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def _ipv4_inside(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """Read a host that is an address in any spelling that resolvers take.

    Besides the usual forms these are the decimal, octal, hexadecimal and shortened ones of
    `inet_aton`: `2130706433`, `0177.0.0.1`, `0x7f.1`. A name gives `None`.
    """
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def check_host_literal(url: str) -> str | None:
    """Say what is wrong when a URL names this machine or a private address, else `None`."""
    try:
        raw = urlsplit(url).hostname or ""
    except ValueError:
        return "the URL cannot be read; write https://host/path"
    # Clients fold full-width digits and ideographic dots into plain ones before they connect.
    host = unicodedata.normalize("NFKC", raw).replace("\u3002", ".").rstrip(".").casefold()
    address = literal_address(host)
    is_local_name = host in _LOCAL_NAMES or host.endswith((".localhost", ".localdomain"))
    if is_local_name or not host or (address is not None and forbidden_address(address)):
        return (
            f"{raw!r} is not a public address; name a public host, or set "
            "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE=1 if your own network is meant"
        )
    return None
