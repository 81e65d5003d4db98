"""Who may share an address: MetalLB's rules, and the pool's word on namespaces."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal

import pytest

from lbctl.model import IPAddress, Owner
from lbctl_l2 import book as book_module
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.pool import Outcome, Pool, Request
from lbctl_l2.ranges import parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = ip_address("10.0.0.1")


def tenant(name: str, age: float, *ports: str, **more: Any) -> Request:
    """It asks for the one address of which all of this is about; ports like `80/TCP`."""
    pairs = frozenset((protocol, int(port)) for port, _, protocol in (text.partition("/") for text in ports))
    usual = {"key": "k", "addresses": (ADDRESS,), "ports": pairs}
    return Request(Owner(name), NOW - timedelta(hours=age), **usual | more)


def settled(*requests: Request, sharing: Literal["namespace", "cluster"] = "cluster") -> dict[str, Outcome]:
    book = Book([Pool("a", (parse("10.0.0.0/24"),), sharing=sharing)])
    for request in requests:
        book.put(request)
    return {str(owner): outcome for owner, outcome in allocate(book, None, NOW).items()}


def addresses(outcomes: dict[str, Outcome]) -> list[tuple[IPAddress, ...]]:
    return [outcomes[owner].addresses for owner in sorted(outcomes)]


@pytest.mark.parametrize(("second", "reason"), [
    (tenant("n/b", 1, "81/TCP"), ""),
    (tenant("n/b", 1, "80/UDP"), ""),
    (tenant("n/b", 1, "80/TCP"), "sharing-conflict"),
    (tenant("n/b", 1, "81/TCP", key="other"), "sharing-conflict"),
    (tenant("n/b", 1, "81/TCP", key=""), "address-in-use"),
    (tenant("n/b", 1, "81/TCP", backend="app=x"), "sharing-conflict"),
])
def test_same_key_other_ports_same_backend(second: Request, reason: str) -> None:
    outcome = settled(tenant("n/a", 2, "80/TCP"), second)["n/b"]
    assert (outcome.refusal.reason if outcome.refusal else "") == reason


def test_services_with_local_traffic_share_if_they_select_the_same_pods() -> None:
    same = settled(tenant("n/a", 2, "80/TCP", backend="app=x"), tenant("n/b", 1, "81/TCP", backend="app=x"))
    assert addresses(same) == [(ADDRESS,), (ADDRESS,)]


def test_a_service_without_a_key_shares_with_nobody_even_if_another_would() -> None:
    outcome = settled(tenant("n/a", 2, "80/TCP", key=""), tenant("n/b", 1, "81/TCP"))["n/b"]
    assert outcome.refusal is not None
    assert outcome.refusal.message == "10.0.0.1 of the pool a cannot be had: n/a has it"


def test_namespaces_share_only_where_the_pool_says_so() -> None:
    pair = tenant("m/a", 2, "80/TCP"), tenant("n/b", 1, "81/TCP")
    assert addresses(settled(*pair, sharing="namespace")) == [(ADDRESS,), ()]
    shared = settled(*pair, sharing="cluster")
    assert addresses(shared) == [(ADDRESS,), (ADDRESS,)]
    (note,) = shared["n/b"].notes
    assert (note.reason, "m/a" in note.message) == ("shared-across-namespaces", True)


def test_who_shares_across_namespaces_already_keeps_on_when_the_pool_no_longer_lets_others() -> None:
    pair = tenant("m/a", 2, "80/TCP", held=(ADDRESS,)), tenant("n/b", 1, "81/TCP", held=(ADDRESS,))
    assert addresses(settled(*pair, sharing="namespace")) == [(ADDRESS,), (ADDRESS,)]


def test_services_of_one_key_move_together_though_they_ask_for_no_address() -> None:
    found = settled(tenant("n/a", 2, "80/TCP", addresses=()), tenant("n/b", 1, "81/TCP", addresses=()))
    assert addresses(found) == [(ip_address("10.0.0.0"),)] * 2
    apart = settled(tenant("n/a", 2, "80/TCP", addresses=()), tenant("n/b", 1, "80/TCP", addresses=()))
    assert addresses(apart) == [(ip_address("10.0.0.0"),), (ip_address("10.0.0.1"),)]


def test_the_only_one_on_an_address_may_change_its_key() -> None:
    assert addresses(settled(tenant("n/a", 2, "80/TCP", held=(ADDRESS,), key="new"))) == [(ADDRESS,)]


def test_of_several_the_younger_loses_the_address_when_the_keys_part() -> None:
    found = settled(
        tenant("n/a", 2, "80/TCP", held=(ADDRESS,), addresses=()),
        tenant("n/b", 1, "81/TCP", held=(ADDRESS,), addresses=(), key="new"),
    )
    assert addresses(found) == [(ADDRESS,), (ip_address("10.0.0.0"),)]


def test_sharing_takes_no_second_place_in_a_namespaces_quota() -> None:
    book = Book([Pool("a", (parse("10.0.0.0/24"),), max_per_namespace=1)])
    for request in (tenant("n/a", 2, "80/TCP"), tenant("n/b", 1, "81/TCP")):
        book.put(request)
    assert all(outcome.refusal is None for outcome in allocate(book, None, NOW).values())


def test_where_a_pool_has_nothing_else_every_address_of_the_key_is_looked_at() -> None:
    full = [tenant(f"n/a{n:02}", 2, "80/TCP", "81/TCP", addresses=(), held=(ip_address(f"10.0.0.{n}"),))
            for n in range(31)]  # fmt: skip
    last = tenant("n/z", 2, "80/TCP", addresses=(), held=(ip_address("10.0.0.31"),))
    book = Book([Pool("a", (parse("10.0.0.0/27"),))])
    for request in (*full, last, tenant("n/new", 1, "81/TCP", addresses=())):
        book.put(request)
    assert allocate(book, None, NOW)[Owner("n/new")].addresses == last.held


def test_one_more_of_many_who_share_an_address_is_one_pass_over_them_and_not_one_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Counter[str]()
    alike, fitting = book_module._alike, Book.fitting
    monkeypatch.setattr(book_module, "_alike", lambda a, b: calls.update(["alike"]) or alike(a, b))
    monkeypatch.setattr(Book, "fitting", lambda self, request: calls.update(["fitting"]) or fitting(self, request))
    many = [tenant(f"n/s{n:03}", 2, f"{n}/TCP", held=(ADDRESS,)) for n in range(200)]
    settled(*many)
    assert (calls["alike"], calls["fitting"]) == (199, 400)
