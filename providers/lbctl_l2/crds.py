"""Pools and advertisements, decoded: our own resources, MetalLB's, and files of either.  PURE.

    lbctl.io/v1alpha1     AddressPool, L2Advertisement                    cluster-scoped
    metallb.io/v1beta1    IPAddressPool, L2Advertisement                  as they are
    metallb.io            BGPPeer, BGPAdvertisement                       said to be not served, never passed over
    a list of texts       ranges: one pool `default`, announced from everywhere (labs, CI)

What cannot be served becomes a `Problem`, and the last good one of the same name stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from lbctl_l2.pool import Advertisement, Pool, Release, Usage


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with an object, as a stable reason and a sentence with the way out.

    `served` says whether it (or the last good one of it) is served nevertheless.
    """

    kind: str
    name: str
    reason: str
    message: str
    served: bool = False


class Supply(msgspec.Struct, frozen=True):
    """Everything that one look at the cluster (or a file) gave: what to serve, and what is wrong."""

    pools: tuple[Pool, ...] = ()
    advertisements: tuple[Advertisement, ...] = ()
    released: tuple[Release, ...] = ()
    problems: tuple[Problem, ...] = ()


def decode(objects: Iterable[Mapping[str, Any]], last: Supply = Supply()) -> Supply:
    """All objects, whatever their order, as pools and advertisements; `last` is where last good ones come from."""
    raise NotImplementedError


def ranges(texts: Sequence[str]) -> Supply:
    """One pool of these ranges, announced from everywhere."""
    raise NotImplementedError


def pool_status(
    pool: Pool, usage: Usage, released: Iterable[Release], problems: Iterable[Problem], now: datetime
) -> dict[str, Any]:
    """The `status` of an AddressPool."""
    raise NotImplementedError
