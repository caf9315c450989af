"""What a network lets out, as rules of nf_tables (nft(8)) in its own namespace.

The messages are what nft would send for these rules, `br0` and `up0` being the two sides:

    table inet pycontainer {
      chain forward { type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "br0" oifname "br0" accept
        iifname != "br0" drop
        oifname != "up0" drop
        ip daddr NAMESERVER udp dport 53 accept      # each name server, and tcp
        ip daddr TAP drop                            # the rest of the uplink's own subnets
        ip6 daddr ::/80 drop
        accept
      }
      chain postrouting { type nat hook postrouting priority srcnat;
        oifname "up0" meta l4proto udp masquerade to :32768-65535 random
        oifname "up0" masquerade
      }
    }

Containers are beyond the bridge, in namespaces of their own, and cannot change them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pycontainer.network.links import Address
from pycontainer.network.netlink import APPEND, CREATE, attribute, message, nested, text
from pycontainer.network.subnets import Subnet

_TABLE = "pycontainer"

# <linux/netfilter/nfnetlink.h>: the head of every message is family, version, resource.
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_NFPROTO_INET, _NFPROTO_IPV4, _NFPROTO_IPV6 = 1, 2, 10

# <linux/netfilter/nf_tables.h>
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE = 1, 2, 1
_META_DREG, _META_KEY = 1, 2
_CT_DREG, _CT_KEY, _CT_STATE = 1, 2, 0
_CMP_SREG, _CMP_OP, _CMP_DATA = 1, 2, 3
_BITWISE_SREG, _BITWISE_DREG, _BITWISE_LEN, _BITWISE_MASK, _BITWISE_XOR = 1, 2, 3, 4, 5
_PAYLOAD_DREG, _PAYLOAD_BASE, _PAYLOAD_OFFSET, _PAYLOAD_LEN = 1, 2, 3, 4
_IMMEDIATE_DREG, _IMMEDIATE_DATA = 1, 2
_MASQ_FLAGS, _MASQ_PROTO_MIN, _MASQ_PROTO_MAX = 1, 2, 3

_EQUAL, _DIFFERENT = 0, 1
_REGISTER, _SECOND_REGISTER = 1, 2
_VERDICT_REGISTER = 0
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_DESTINATION = {4: 16, 6: 24}
"""Where an IP header has the destination's address."""
_DESTINATION_PORT = 2
_HOOK_FORWARD, _HOOK_POSTROUTING = 2, 4
_PRIORITY_FILTER, _PRIORITY_SRCNAT = 0, 100
_DROP, _ACCEPT = 0, 1
_ESTABLISHED_OR_RELATED = struct.pack("=I", 2 | 4)
_RANDOM_PORT = 2 | 4
"""NF_NAT_RANGE_PROTO_SPECIFIED, NF_NAT_RANGE_PROTO_RANDOM."""

_TCP, _UDP = 6, 17
_DOMAIN = 53
_UDP_PORTS = (32768, 65535)
"""pasta sends from the port that it sees, on all addresses of the host: a container shall not take one
of those that services use."""

# ::/80 holds ::1 and all IPv4 addresses in IPv6 form, of which a socket makes IPv4: ::ffff:127.0.0.1.
_NOWHERE_SIX = bytes(10)


def rules(inside: str, outside: str, *, subnets: Sequence[Subnet], nameservers: Sequence[Address]) -> bytes:
    """A batch of messages for NETLINK_NETFILTER, carried out as a whole or not at all; one is answered.
    They take the place of earlier ones.

    `inside` and `outside` are links; there may be none of those names yet. `subnets` are those on the
    outside link itself, of which only the name servers can be reached; their lengths are whole bytes.
    """
    from_inside, to_inside = _link(_META_IIFNAME, inside), _link(_META_OIFNAME, inside)
    to_outside = _link(_META_OIFNAME, outside)
    forward = [
        _established() + _verdict(_ACCEPT),
        # Where the host has br_netfilter, frames between two ports of the bridge come by, too.
        from_inside + to_inside + _verdict(_ACCEPT),
        _link(_META_IIFNAME, inside, _DIFFERENT) + _verdict(_DROP),
        _link(_META_OIFNAME, outside, _DIFFERENT) + _verdict(_DROP),
        *(
            _to(server.version, server.packed) + _port(protocol, _DOMAIN) + _verdict(_ACCEPT)
            for server in nameservers
            for protocol in (_UDP, _TCP)
        ),
        *(_to(subnet.version, _prefix(subnet)) + _verdict(_DROP) for subnet in subnets),
        _to(6, _NOWHERE_SIX) + _verdict(_DROP),
        _verdict(_ACCEPT),
    ]
    return b"".join(
        (
            _batch(_BATCH_BEGIN),
            # Made, so that it can be removed, whether or not it was there.
            *(_message(kind, text(_TABLE_NAME, _TABLE)) for kind in (_NEWTABLE, _DELTABLE, _NEWTABLE)),
            _chain("forward", "filter", _HOOK_FORWARD, _PRIORITY_FILTER, policy=_DROP),
            _chain("postrouting", "nat", _HOOK_POSTROUTING, _PRIORITY_SRCNAT),
            *(_rule("forward", expressions) for expressions in forward),
            _rule("postrouting", to_outside + _protocol(_UDP) + _masquerade(*_UDP_PORTS)),
            # The kernel answers whatever fails, and this one in any case.
            _rule("postrouting", to_outside + _masquerade(), ack=True),
            _batch(_BATCH_END),
        )
    )


def _batch(kind: int) -> bytes:
    return message(kind, struct.pack(">BBH", 0, 0, _NFTABLES), ack=False)


def _message(kind: int, *attributes: bytes, flags: int = 0, ack: bool = False) -> bytes:
    head = struct.pack(">BBH", _NFPROTO_INET, 0, 0)
    return message(_NFTABLES << 8 | kind, head, *attributes, flags=flags, ack=ack)


def _chain(name: str, kind: str, hook: int, priority: int, *, policy: int | None = None) -> bytes:
    return _message(
        _NEWCHAIN,
        text(_CHAIN_TABLE, _TABLE),
        text(_CHAIN_NAME, name),
        text(_CHAIN_TYPE, kind),
        *([] if policy is None else [_number(_CHAIN_POLICY, policy)]),
        nested(_CHAIN_HOOK, _number(_HOOK_NUMBER, hook), _number(_HOOK_PRIORITY, priority)),
        flags=CREATE,
    )


def _rule(chain: str, expressions: bytes, *, ack: bool = False) -> bytes:
    return _message(
        _NEWRULE,
        text(_RULE_TABLE, _TABLE),
        text(_RULE_CHAIN, chain),
        nested(_RULE_EXPRESSIONS, expressions),
        flags=CREATE | APPEND,
        ack=ack,
    )


# Expressions: what a rule is made of, one after the other.


def _link(key: int, name: str, how: int = _EQUAL) -> bytes:
    return _meta(key) + _compare(name.encode("ascii").ljust(16, b"\0"), how)


def _protocol(number: int) -> bytes:
    return _meta(_META_L4PROTO) + _compare(bytes([number]))


def _port(protocol: int, port: int) -> bytes:
    loaded = _payload(_TRANSPORT_HEADER, _DESTINATION_PORT, 2)
    return _protocol(protocol) + loaded + _compare(struct.pack(">H", port))


def _to(version: int, prefix: bytes) -> bytes:
    """Packets whose destination begins with these bytes."""
    family = _NFPROTO_IPV4 if version == 4 else _NFPROTO_IPV6
    loaded = _payload(_NETWORK_HEADER, _DESTINATION[version], len(prefix))
    return _meta(_META_NFPROTO) + _compare(bytes([family])) + loaded + _compare(prefix)


def _prefix(subnet: Subnet) -> bytes:
    assert subnet.prefixlen % 8 == 0
    return subnet.network_address.packed[: subnet.prefixlen // 8]


def _established() -> bytes:
    masked = _expression(
        "bitwise",
        _number(_BITWISE_SREG, _REGISTER),
        _number(_BITWISE_DREG, _REGISTER),
        _number(_BITWISE_LEN, 4),
        _value(_BITWISE_MASK, _ESTABLISHED_OR_RELATED),
        _value(_BITWISE_XOR, bytes(4)),
    )
    state = _expression("ct", _number(_CT_KEY, _CT_STATE), _number(_CT_DREG, _REGISTER))
    return state + masked + _compare(bytes(4), _DIFFERENT)


def _meta(key: int) -> bytes:
    return _expression("meta", _number(_META_KEY, key), _number(_META_DREG, _REGISTER))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload",
        _number(_PAYLOAD_DREG, _REGISTER),
        _number(_PAYLOAD_BASE, base),
        _number(_PAYLOAD_OFFSET, offset),
        _number(_PAYLOAD_LEN, length),
    )


def _compare(data: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _number(_CMP_SREG, _REGISTER), _number(_CMP_OP, how), _value(_CMP_DATA, data))


def _verdict(code: int) -> bytes:
    verdict = nested(_DATA_VERDICT, _number(_VERDICT_CODE, code))
    return _expression(
        "immediate", _number(_IMMEDIATE_DREG, _VERDICT_REGISTER), nested(_IMMEDIATE_DATA, verdict)
    )


def _load(register: int, data: bytes) -> bytes:
    return _expression("immediate", _number(_IMMEDIATE_DREG, register), _value(_IMMEDIATE_DATA, data))


def _masquerade(first: int = 0, last: int = 0) -> bytes:
    """With ports: from one of them, chosen at random."""
    if not last:
        return _expression("masq")
    return (
        _load(_REGISTER, struct.pack(">H", first))
        + _load(_SECOND_REGISTER, struct.pack(">H", last))
        + _expression(
            "masq",
            _number(_MASQ_FLAGS, _RANDOM_PORT),
            _number(_MASQ_PROTO_MIN, _REGISTER),
            _number(_MASQ_PROTO_MAX, _SECOND_REGISTER),
        )
    )


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *attributes))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(_DATA_VALUE, data))


def _number(kind: int, value: int) -> bytes:
    """nf_tables has its integers in network byte order."""
    return attribute(kind, struct.pack(">I", value))
