"""The frames of the bare-metal data plane: ARP, IPv6 neighbour discovery, and the speakers' heartbeats.  PURE.

`wire.py` builds and parses with it; `sockets.py` attaches its filters. `parse` takes whole Ethernet frames as AF_PACKET
gives them and answers with a frozen value, or with the reason why the frame is dropped: it never raises, and looks at
each byte at most a few times. Addresses stay packed (`bytes`) here: the state machine's index is by them, and an
`ipaddress` object would cost as much as the rest of the answer.

Sources: RFC 826 (ARP), RFC 5227 (address conflict detection), RFC 4861 (neighbour discovery), RFC 4862 (duplicate
address detection), RFC 2464 (IPv6 over Ethernet), RFC 7600 (192.0.0.8, the dummy address).

A heartbeat is an ARP request of nobody for nobody: sender 0.0.0.0, target 192.0.0.8. Hosts ignore it, switches and
firewalls let it pass, it needs no address, port or key, and our payload follows where Ethernet's padding would be:

    offset  42     46       47    48     49  50       54    62       70
            magic  version  kind  flags  -   cluster  node  subject  sequence
            4      1        1     1      1   4        8     8        4
"""

import enum
import struct
from ipaddress import IPv6Address

import msgspec

try:
    # By hashlib OpenSSL would come along: 3.5 MiB on every node, and nothing here needs it.
    from _blake2 import blake2b
except ImportError:  # A Python without its own.
    from hashlib import blake2b

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1").packed
LARGEST = 1514
"""The longest frame that is looked at: Ethernet's, without a tag."""

_NOWHERE = b"\0" * 6
_ANY4, _ANY6 = b"\0" * 4, b"\0" * 16
_DUMMY = bytes((192, 0, 0, 8))
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_BEAT = struct.Struct("!4sBBBx4s8s8sI")
_IPV6 = struct.Struct("!IHBB16s16s")
_NDP = struct.Struct("!BBHI16s")
_MAGIC, _VERSION = b"lbct", 1

_ETH_ARP, _ETH_IPV4, _ETH_IPV6, _ETH_VLAN, _ETH_QINQ = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SOURCE_LINK, _TARGET_LINK = 1, 2
_SOLICITED, _OVERRIDE = 0x40000000, 0x20000000
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]


class Drop(enum.StrEnum):
    """Why a frame is not answered. The parser gives the first ones, the state machine the others."""

    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    VLAN_TAGGED = "vlan-tagged"
    ETHERTYPE = "ethertype"
    HARDWARE_TYPE = "hardware-type"
    PROTOCOL_TYPE = "protocol-type"
    OPERATION = "operation"
    BAD_SENDER = "bad-sender"
    NOT_ICMPV6 = "not-icmpv6"
    HOP_LIMIT = "hop-limit"
    CHECKSUM = "checksum"
    MALFORMED = "malformed"
    BEAT_VERSION = "beat-version"

    OTHER_CLUSTER = "other-cluster"
    UNKNOWN_PEER = "unknown-peer"
    NAMESAKE = "namesake"
    UNKNOWN_LINK = "unknown-link"
    OWN = "own"
    NOT_FOR_US = "not-for-us"
    NOT_SERVED = "not-served"
    NOT_HERE = "not-here"
    STALE = "stale"


class Kind(enum.IntEnum):
    """BEAT: the sender lives. DOWN: the sender misses the heartbeats of `subject`."""

    BEAT = 1
    DOWN = 2


class Flag(enum.IntFlag):
    """What a heartbeat says of its sender.

    UNSETTLED  rank me behind the settled      LEAVING  take over now, without asking
    PING       answer me at once               WATCH    expect the next in 100 ms, and miss me if it does not come
    IDLE       I announce nothing
    """

    UNSETTLED = 1
    LEAVING = 2
    PING = 4
    WATCH = 8
    IDLE = 16


class Arp(msgspec.Struct, frozen=True, gc=False):
    """An ARP packet for IPv4 over Ethernet. `to` and `by` are the Ethernet header's; `reply` is operation 2."""

    to: bytes
    by: bytes
    reply: bool
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


class Solicitation(msgspec.Struct, frozen=True, gc=False):
    """A neighbour solicitation: `asker` is the source link-layer option, or the Ethernet source where it has none."""

    to: bytes
    by: bytes
    source: bytes
    target: bytes
    asker: bytes

    @property
    def duplicate_check(self) -> bool:
        """From the unspecified address: somebody checks whether it may use the target (RFC 4862 §5.4)."""
        return self.source == _ANY6


class Advertisement(msgspec.Struct, frozen=True, gc=False):
    """A neighbour advertisement: `mac` is the target link-layer option, or the Ethernet source where it has none."""

    to: bytes
    by: bytes
    source: bytes
    target: bytes
    mac: bytes
    solicited: bool
    override: bool


class Beat(msgspec.Struct, frozen=True, gc=False):
    """A heartbeat, or a notice of somebody's death. `cluster`, `node` and the notice's `subject` are fingerprints.

    A heartbeat's `subject` is its sender's life: other after each start. `sequence` counts within it.
    """

    to: bytes
    by: bytes
    kind: Kind
    flags: int
    cluster: bytes
    node: bytes
    subject: bytes
    sequence: int


Packet = Arp | Solicitation | Advertisement | Beat


def fingerprint(text: str, size: int) -> bytes:
    """The hash by which a cluster (4 bytes) or node (8 bytes) goes over the wire."""
    return blake2b(text.encode(), digest_size=size).digest()


# -- parsing --------------------------------------------------------------------------------------------------------


def parse(frame: bytes) -> Packet | Drop:
    """What this Ethernet frame says, or why it is none of our business."""
    if len(frame) < 14:
        return Drop.TRUNCATED
    if len(frame) > LARGEST:
        return Drop.OVERSIZED
    ethertype = frame[12] << 8 | frame[13]
    if ethertype == _ETH_ARP:
        return _parse_arp(frame)
    if ethertype == _ETH_IPV6:
        return _parse_ndp(frame)
    return Drop.VLAN_TAGGED if ethertype in (_ETH_VLAN, _ETH_QINQ) else Drop.ETHERTYPE


def _parse_arp(frame: bytes) -> Arp | Beat | Drop:
    """RFC 826, packet reception. A sender that is a group, or nobody, is refused: an answer would go to many."""
    if len(frame) < _ARP.size:
        return Drop.TRUNCATED
    to, by, _, hardware, protocol, mac_size, ip_size, operation, sender_mac, sender, target_mac, target = (
        _ARP.unpack_from(frame))
    if hardware != 1 or mac_size != 6:
        return Drop.HARDWARE_TYPE
    if protocol != _ETH_IPV4 or ip_size != 4:
        return Drop.PROTOCOL_TYPE
    if operation not in (1, 2):
        return Drop.OPERATION
    if sender_mac[0] & 1 or sender_mac == _NOWHERE:
        return Drop.BAD_SENDER
    if target == _DUMMY and operation == 1 and sender == _ANY4 and frame[42:46] == _MAGIC:
        return _parse_beat(frame, to, sender_mac)
    return Arp(to, by, operation == 2, sender_mac, sender, target_mac, target)


def _parse_beat(frame: bytes, to: bytes, by: bytes) -> Beat | Drop:
    """Bytes after the known ones are for later versions to add to; `_VERSION` changes if the known ones do."""
    if len(frame) < _ARP.size + _BEAT.size:
        return Drop.TRUNCATED
    _, version, kind, flags, cluster, node, subject, sequence = _BEAT.unpack_from(frame, _ARP.size)
    if version != _VERSION:
        return Drop.BEAT_VERSION
    if kind not in (Kind.BEAT, Kind.DOWN):
        return Drop.MALFORMED
    return Beat(to, by, Kind(kind), flags, cluster, node, subject, sequence)


def _parse_ndp(frame: bytes) -> Solicitation | Advertisement | Drop:
    """RFC 4861 §7.1.1 and §7.1.2: what must hold of a solicitation and of an advertisement."""
    if len(frame) < 14 + _IPV6.size:
        return Drop.TRUNCATED
    version, length, following, hops, source, destination = _IPV6.unpack_from(frame, 14)
    if version >> 28 != 6 or following != _ICMPV6:
        return Drop.NOT_ICMPV6
    if length < _NDP.size or len(frame) < 54 + length:
        return Drop.TRUNCATED
    kind, code, _, flags, target = _NDP.unpack_from(frame, 54)
    if kind not in (_SOLICITATION, _ADVERTISEMENT) or code:
        return Drop.OPERATION
    if hops != 255:
        return Drop.HOP_LIMIT
    message = frame[54:54 + length]
    if _ones_sum(source + destination, message):
        return Drop.CHECKSUM
    if target[0] == 0xFF or source[0] == 0xFF:
        return Drop.MALFORMED
    if kind == _SOLICITATION:
        return _solicitation(frame, source, destination, target, message)
    return _advertisement(frame, source, destination, target, message, flags)


def _solicitation(frame: bytes, source: bytes, destination: bytes, target: bytes,
                  message: bytes) -> Solicitation | Drop:
    asker = _link_option(message, _SOURCE_LINK)
    if isinstance(asker, Drop):
        return asker
    if source == _ANY6 and (asker or destination[:13] != _SOLICITED_NODE):
        return Drop.MALFORMED
    asker = asker or frame[6:12]
    if asker[0] & 1 or asker == _NOWHERE:
        return Drop.BAD_SENDER
    return Solicitation(frame[:6], frame[6:12], source, target, asker)


def _advertisement(frame: bytes, source: bytes, destination: bytes, target: bytes, message: bytes,
                   flags: int) -> Advertisement | Drop:
    mac = _link_option(message, _TARGET_LINK)
    if isinstance(mac, Drop):
        return mac
    if flags & _SOLICITED and destination[0] == 0xFF:
        return Drop.MALFORMED
    mac = mac or frame[6:12]
    if mac[0] & 1 or mac == _NOWHERE:
        return Drop.BAD_SENDER
    return Advertisement(frame[:6], frame[6:12], source, target, mac, bool(flags & _SOLICITED),
                         bool(flags & _OVERRIDE))


def _link_option(message: bytes, wanted: int) -> bytes | Drop:
    """The Ethernet address in an option; empty if there is none. An option of length 0 spoils the whole packet."""
    at, found = _NDP.size, b""
    while at < len(message):
        size = message[at + 1] * 8 if at + 1 < len(message) else 0
        if not size or at + size > len(message):
            return Drop.MALFORMED
        if message[at] == wanted and size == 8:
            found = message[at + 2:at + 8]
        at += size
    return found


def _ones_sum(addresses: bytes, message: bytes) -> int:
    """The ones' complement sum (RFC 1071) over pseudo-header and message, modulo 0xFFFF: 0 if the checksum is right.

    2^16 is 1 modulo 0xFFFF, so a number's remainder is the sum of its 16-bit digits.
    """
    pseudo = addresses + struct.pack("!II", len(message), _ICMPV6)
    return int.from_bytes(pseudo + message + b"\0" * (len(message) & 1), "big") % 0xFFFF


# -- building: ARP --------------------------------------------------------------------------------------------------


def arp_probe(mac: bytes, address: bytes) -> bytes:
    """Ask who has this address, as nobody: no cache is touched (RFC 5227 §2.1.1)."""
    return _arp(BROADCAST, 1, mac, _ANY4, _NOWHERE, address)


def arp_request(mac: bytes, sender: bytes, target: bytes, to: bytes = BROADCAST) -> bytes:
    """A host's question; to the owner's own MAC where it checks that it is still there (RFC 1122 §2.3.2.1)."""
    return _arp(to, 1, mac, sender, _NOWHERE, target)


def arp_reply(mac: bytes, address: bytes, asker_mac: bytes, asker: bytes) -> bytes:
    """I have it: to the asker alone (RFC 826)."""
    return _arp(asker_mac, 2, mac, address, asker_mac, asker)


def gratuitous(mac: bytes, address: bytes) -> tuple[bytes, bytes]:
    """I have it: to all, as a request and as a reply, for some hosts heed only one of them (RFC 5227 §3)."""
    return (_arp(BROADCAST, 1, mac, address, BROADCAST, address), _arp(BROADCAST, 2, mac, address, BROADCAST, address))


def _arp(to: bytes, operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ARP.pack(to, sender_mac, _ETH_ARP, 1, _ETH_IPV4, 6, 4, operation, sender_mac, sender, target_mac, target)


def beat(mac: bytes, to: bytes, cluster: bytes, node: bytes, life: bytes, flags: int, sequence: int) -> bytes:
    """A heartbeat to one peer, or to all."""
    return _beat(mac, to, Kind.BEAT, flags, cluster, node, life, sequence)


def down(mac: bytes, cluster: bytes, node: bytes, subject: bytes, sequence: int) -> bytes:
    """To all: I miss the heartbeats of `subject`."""
    return _beat(mac, BROADCAST, Kind.DOWN, 0, cluster, node, subject, sequence)


def _beat(mac: bytes, to: bytes, kind: Kind, flags: int, cluster: bytes, node: bytes, subject: bytes,
          sequence: int) -> bytes:
    payload = _BEAT.pack(_MAGIC, _VERSION, kind, flags, cluster, node, subject, sequence & 0xFFFFFFFF)
    return _arp(to, 1, mac, _ANY4, _NOWHERE, _DUMMY) + payload


# -- building: neighbour discovery ----------------------------------------------------------------------------------


def solicited_node(address: bytes) -> bytes:
    """The group that whoever has this address listens to (RFC 4291 §2.7.1)."""
    return _SOLICITED_NODE + address[13:]


def group_mac(group: bytes) -> bytes:
    """The Ethernet address of an IPv6 group (RFC 2464 §7)."""
    return b"\x33\x33" + group[12:]


def solicitation(mac: bytes, source: bytes, target: bytes, to: bytes | None = None, option: bool = True) -> bytes:
    """A host's question, to the solicited-node group or (`to`) straight to the owner; with its own MAC in an option."""
    destination = target if to else solicited_node(target)
    body = struct.pack("!BB6s", _SOURCE_LINK, 1, mac) if option else b""
    return _ndp(to or group_mac(destination), mac, source, destination, _SOLICITATION, 0, target, body)


def duplicate_check(mac: bytes, target: bytes) -> bytes:
    """Ask who has this address, from the unspecified one: no cache is touched (RFC 4862 §5.4.2)."""
    group = solicited_node(target)
    return _ndp(group_mac(group), mac, _ANY6, group, _SOLICITATION, 0, target, b"")


def answer(mac: bytes, source: bytes, address: bytes, asker_mac: bytes, asker: bytes) -> bytes:
    """I have it: to the asker (S=1); to all nodes where the asker has no address yet (S=0). Never overriding (O=0).

    RFC 4861 §7.2.4; O=0 because during a handover two may answer, and the one that announced last ought to stay.
    """
    if asker == _ANY6:
        return _advertise(mac, source, address, group_mac(ALL_NODES), ALL_NODES, 0)
    return _advertise(mac, source, address, asker_mac, asker, _SOLICITED)


def unsolicited(mac: bytes, source: bytes, address: bytes) -> bytes:
    """I have it: to all nodes, overriding what they know (S=0, O=1; RFC 4861 §7.2.6)."""
    return _advertise(mac, source, address, group_mac(ALL_NODES), ALL_NODES, _OVERRIDE)


def _advertise(mac: bytes, source: bytes, address: bytes, to: bytes, destination: bytes, flags: int) -> bytes:
    option = struct.pack("!BB6s", _TARGET_LINK, 1, mac)
    return _ndp(to, mac, source, destination, _ADVERTISEMENT, flags, address, option)


def _ndp(to: bytes, mac: bytes, source: bytes, destination: bytes, kind: int, flags: int, target: bytes,
         option: bytes) -> bytes:
    checksum = -_ones_sum(source + destination, _NDP.pack(kind, 0, 0, flags, target) + option) % 0xFFFF
    message = _NDP.pack(kind, 0, checksum, flags, target) + option
    header = _IPV6.pack(6 << 28, len(message), _ICMPV6, 255, source, destination)
    return _ETHERNET.pack(to, mac, _ETH_IPV6) + header + message


# -- filters --------------------------------------------------------------------------------------------------------

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, operand: struct sock_filter of linux/filter.h."""

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_IF_EQUAL, _IF_GREATER, _RETURN = 0x15, 0x25, 0x06
_PACKET_TYPE, _VLAN_TAGGED = 0xFFFFF000 + 4, 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_PKTTYPE, SKF_AD_VLAN_TAG_PRESENT
_FOR_US = 2  # PACKET_HOST 0, PACKET_BROADCAST 1, PACKET_MULTICAST 2; more is others' or our own.
_WHOLE = 2048  # More than `LARGEST`, so that an oversized frame is seen to be one.


def _filter(*tests: tuple[int, int, tuple[int, ...]]) -> tuple[Instruction, ...]:
    """A program that lets a frame through if every test finds one of its values; short frames fail their load."""
    program: list[Instruction] = [(_LOAD_WORD, 0, 0, _PACKET_TYPE), (_IF_GREATER, -1, 0, _FOR_US)]
    for load, offset, values in tests:
        program.append((load, 0, 0, offset))
        program += [(_IF_EQUAL, len(values) - 1 - i, 0, value) for i, value in enumerate(values[:-1])]
        program += [(_IF_EQUAL, 0, -1, value) for value in values[-1:]]
    program += [(_RETURN, 0, 0, _WHOLE), (_RETURN, 0, 0, 0)]
    last = len(program) - 1
    return tuple((code, last - at - 1 if yes < 0 else yes, last - at - 1 if no < 0 else no, operand)
                 for at, (code, yes, no, operand) in enumerate(program))


ARP_FILTER = _filter(
    (_LOAD_WORD, _VLAN_TAGGED, (0,)), (_LOAD_HALF, 12, (_ETH_ARP,)), (_LOAD_HALF, 14, (1,)),
    (_LOAD_HALF, 16, (_ETH_IPV4,)), (_LOAD_HALF, 18, (0x0604,)), (_LOAD_HALF, 20, (1, 2)), (_LOAD_BYTE, 41, ()))
"""ARP requests and replies for IPv4 over Ethernet that are not tagged, not cut off, not our own and not others'."""

NDP_FILTER = _filter(
    (_LOAD_WORD, _VLAN_TAGGED, (0,)), (_LOAD_HALF, 12, (_ETH_IPV6,)), (_LOAD_BYTE, 20, (_ICMPV6,)),
    (_LOAD_BYTE, 21, (255,)), (_LOAD_BYTE, 54, (_SOLICITATION, _ADVERTISEMENT)), (_LOAD_BYTE, 77, ()))
"""Neighbour solicitations and advertisements with hop limit 255, as strictly."""
