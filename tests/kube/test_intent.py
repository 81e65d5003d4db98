"""What annotations say, whoever's they are. The law: what says internal anywhere never becomes public."""

from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl import intent
from lbctl.errors import Refused

BETA = "service.beta.kubernetes.io/"


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("lbctl.io/scheme", "internal", "internal"),
        ("lbctl.io/scheme", "internet-facing", "internet-facing"),
        (BETA + "aws-load-balancer-scheme", "internal", "internal"),
        (BETA + "aws-load-balancer-internal", "true", "internal"),
        (BETA + "aws-load-balancer-internal", "0.0.0.0/0", "internal"),
        (BETA + "aws-load-balancer-internal", "false", "internet-facing"),
        ("networking.gke.io/load-balancer-type", "Internal", "internal"),
        ("cloud.google.com/load-balancer-type", "internal", "internal"),
        (BETA + "azure-load-balancer-internal", "True", "internal"),
        (BETA + "azure-load-balancer-internal", "false", "internet-facing"),
        (BETA + "openstack-internal-load-balancer", "true", "internal"),
        (BETA + "alibaba-cloud-loadbalancer-address-type", "intranet", "internal"),
        ("service.kubernetes.io/qcloud-loadbalancer-internal-subnetid", "subnet-1", "internal"),
        (BETA + "do-loadbalancer-network", "INTERNAL", "internal"),
        ("yandex.cloud/load-balancer-type", "internal", "internal"),
    ],
)
def test_the_table_of_schemes(annotation, value, expected):
    assert intent.scheme({annotation: value}) == expected


def test_where_nobody_says_nothing_is_said():
    assert intent.scheme({"example.com/x": "internal"}) is None


def test_two_that_disagree_are_a_conflict():
    with pytest.raises(Refused, match="disagree") as caught:
        intent.scheme({"lbctl.io/scheme": "internet-facing", "networking.gke.io/load-balancer-type": "Internal"})
    assert caught.value.reason == "scheme-conflict"


@pytest.mark.parametrize("value", ["", "False", "0", " false", "no", "maybe"])
def test_what_peers_read_differently_is_refused(value):
    with pytest.raises(Refused) as caught:
        intent.scheme({BETA + "aws-load-balancer-internal": value})
    assert caught.value.reason == "bad-scheme"


def internal_values(name):
    words = intent.SCHEME_WORDS[name].internal
    exact = st.sampled_from(sorted(words)) if words else st.text(max_size=20)
    return st.tuples(exact, st.sampled_from(["", " ", "\t"]), st.booleans()).map(
        lambda t: t[1] + (t[0].upper() if t[2] else t[0]) + t[1]
    )


names = st.sampled_from(sorted(intent.SCHEME_WORDS))
anything = st.sampled_from(["internal", "false", "true", "internet-facing", "external", "public", "", " no", "0", "x"])
few = st.lists(st.tuples(names, anything), max_size=3).map(dict)


@given(names.flatmap(lambda n: st.tuples(st.just(n), internal_values(n))), few)
def test_what_says_internal_anywhere_never_becomes_public(said, others):
    annotations = {**others, said[0]: said[1]}
    with suppress(Refused):
        assert intent.scheme(annotations) == "internal"


@given(few.filter(bool))
def test_a_scheme_annotation_is_never_ignored(annotations):
    with suppress(Refused):
        assert intent.scheme(annotations) is not None


RANGES = BETA + "load-balancer-source-ranges"


@pytest.mark.parametrize(
    ("spec", "annotations", "families", "expected"),
    [
        ([], {}, ["IPv4"], []),
        (["10.0.0.0/8", "10.1.0.0/8 ", " 10.0.0.0/8"], {}, ["IPv4"], ["10.0.0.0/8"]),
        (["10.0.0.0/8"], {RANGES: "192.0.2.0/24"}, ["IPv4"], ["10.0.0.0/8"]),
        ([], {RANGES: " 192.0.2.0/24 , 10.0.0.0/8,"}, ["IPv4"], ["10.0.0.0/8", "192.0.2.0/24"]),
        ([], {"lbctl.io/source-ranges": "10.0.0.0/8", RANGES: "192.0.2.0/24"}, ["IPv4"], ["10.0.0.0/8"]),
        (["1.2.3.4/0", "10.0.0.0/8"], {}, ["IPv4"], []),
        (["0.0.0.0/0"], {}, ["IPv4", "IPv6"], ["0.0.0.0/0"]),
        (["0.0.0.0/0", "::/0"], {}, ["IPv4", "IPv6"], []),
    ],
)
def test_the_table_of_source_ranges(spec, annotations, families, expected):
    found = intent.source_ranges(spec, annotations, families)
    assert found == tuple(ip_network(text) for text in expected)


@given(st.lists(st.text(max_size=25), max_size=4))
def test_a_source_range_that_cannot_be_read_never_opens_the_door(texts):
    with suppress(Refused):
        assert intent.source_ranges(texts, {}) or not texts or any("/0" in text for text in texts)


@pytest.mark.parametrize(
    ("ip", "annotations", "expected"),
    [
        ("", {}, []),
        ("192.0.2.1", {}, ["192.0.2.1"]),
        ("", {"metallb.io/loadBalancerIPs": "192.0.2.1, 2001:db8::1"}, ["192.0.2.1", "2001:db8::1"]),
        ("", {"metallb.universe.tf/loadBalancerIPs": "192.0.2.1"}, ["192.0.2.1"]),
        ("192.0.2.1", {"lbctl.io/load-balancer-ips": "192.0.2.1"}, ["192.0.2.1"]),
    ],
)
def test_the_table_of_requested_addresses(ip, annotations, expected):
    assert [str(a) for a in intent.requested_addresses(ip, annotations)] == expected


def test_two_places_that_ask_for_different_addresses_are_a_conflict():
    with pytest.raises(Refused) as caught:
        intent.requested_addresses("192.0.2.1", {"metallb.io/loadBalancerIPs": "192.0.2.2"})
    assert caught.value.reason == "address-conflict"


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "web", "192.0.2.0/24"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(Refused) as caught:
        intent.requested_addresses(text, {})
    assert caught.value.reason == "bad-address"
