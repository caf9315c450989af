"""Links, addresses and routes as messages of rtnetlink(7).

Every index is chosen by us: the namespaces are our own, so nobody has to be asked what got which.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pycontainer.network.netlink import CREATE, EXCL, attribute, message, nested, text, u8, u32

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE = 16, 17, 18, 20, 24
_AF_INET, _AF_INET6 = 2, 10
_IFF_UP = 1
_LINK = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")

# <linux/if_link.h>, <linux/if_addr.h>, <linux/rtnetlink.h>
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_GROUP, _IFLA_NET_NS_FD = 18, 27, 28
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_BR_MCAST_SNOOPING = 23
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 2
_RTA_OIF, _RTA_GATEWAY = 4, 5
_TABLE_MAIN, _PROTOCOL_STATIC, _TYPE_UNICAST = 254, 4, 1

_SIZE_OF_DESCRIPTOR = 4


def bridge(name: str, index: int, *, mac: bytes = b"", mtu: int | None, up: bool = True) -> bytes:
    """A bridge."""
    # Without a querier, snooping only costs.
    info = nested(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"), nested(_INFO_DATA, u8(_BR_MCAST_SNOOPING, 0)))
    return _new_link(index, name, mac=mac, mtu=mtu, more=(info,), up=up)


def veth(
    name: str,
    index: int,
    *,
    master: int = 0,
    peer: str,
    peer_index: int,
    peer_mac: bytes,
    mtu: int | None,
    elsewhere: bool = True,
    group: int = 0,
) -> tuple[bytes, int]:
    """A pair of links: one here, up, a port of the bridge `master` where that is given, and its peer, which
    is not up yet, `elsewhere` in the namespace whose descriptor goes to the offset that comes with the
    message (0 where both ends are here)."""
    inner = [_LINK.pack(0, 0, peer_index, 0, 0), *_named(peer, peer_mac, mtu)]
    if elsewhere:
        # The last thing in the message, so that it is easily found.
        inner.append(u32(_IFLA_NET_NS_FD, 0))
    info = nested(
        _IFLA_LINKINFO,
        text(_INFO_KIND, "veth"),
        nested(_INFO_DATA, nested(_VETH_INFO_PEER, *inner)),
    )
    more = [u32(kind, value) for kind, value in ((_IFLA_MASTER, master), (_IFLA_GROUP, group)) if value]
    made = _new_link(index, name, mtu=mtu, more=(*more, info))
    return made, len(made) - _SIZE_OF_DESCRIPTOR if elsewhere else 0


def remove(name: str) -> bytes:
    """Takes a link away, and its peer with it. ENODEV where there is none."""
    return message(_DELLINK, _LINK.pack(0, 0, 0, 0, 0), text(_IFLA_IFNAME, name))


def remove_group(group: int) -> bytes:
    """Takes all links of a group away, which takes hardly longer than one. ENODEV where there is none."""
    return message(_DELLINK, _LINK.pack(0, 0, 0, 0, 0), u32(_IFLA_GROUP, group))


def set_master(index: int, master: int) -> bytes:
    """Makes a link a port of a bridge; of none, with 0."""
    return message(_NEWLINK, _LINK.pack(0, 0, index, 0, 0), u32(_IFLA_MASTER, master))


def settle(index: int) -> bytes:
    """Asks about a link, for the sake of the question: before the kernel (6.8) answers, it does what it else
    does some time after a veth's other end has come up. Until then it drops what the link is to send."""
    return message(_GETLINK, _LINK.pack(0, 0, index, 0, 0))


def up(index: int) -> bytes:
    return message(_NEWLINK, _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP))


def address(index: int, value: Interface) -> bytes:
    """An address with its subnet's length. Nobody else has it here, so there is nothing to detect."""
    family = _AF_INET if value.version == 4 else _AF_INET6
    head = _IFADDR.pack(family, value.network.prefixlen, 0, 0, index)
    packed = value.ip.packed
    return message(
        _NEWADDR,
        head,
        attribute(_IFA_LOCAL, packed),
        attribute(_IFA_ADDRESS, packed),
        *([u32(_IFA_FLAGS, _IFA_F_NODAD)] if value.version == 6 else []),
        flags=CREATE | EXCL,
    )


def default_route(index: int, gateway: Address) -> bytes:
    """The way to everywhere else. EEXIST where there is one."""
    family = _AF_INET if gateway.version == 4 else _AF_INET6
    head = _RTMSG.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, 0, _TYPE_UNICAST, 0)
    return message(
        _NEWROUTE,
        head,
        attribute(_RTA_GATEWAY, gateway.packed),
        u32(_RTA_OIF, index),
        flags=CREATE | EXCL,
    )


def _new_link(
    index: int, name: str, *, mac: bytes = b"", mtu: int | None, more: tuple[bytes, ...], up: bool = True
) -> bytes:
    flags = _IFF_UP if up else 0
    head = _LINK.pack(0, 0, index, flags, flags)
    return message(_NEWLINK, head, *_named(name, mac, mtu), *more, flags=CREATE | EXCL)


def _named(name: str, mac: bytes, mtu: int | None) -> list[bytes]:
    return [
        text(_IFLA_IFNAME, name),
        *([attribute(_IFLA_ADDRESS, mac)] if mac else []),
        *([u32(_IFLA_MTU, mtu)] if mtu else []),
    ]
