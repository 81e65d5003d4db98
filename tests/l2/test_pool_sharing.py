"""Who may share an address: MetalLB's rules, and the pool's word on namespaces."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import IPAddress, Owner
from lbctl_l2 import sharing
from lbctl_l2.allocation import allocate
from lbctl_l2.book import Book
from lbctl_l2.pool import Outcome, Pool, Request
from lbctl_l2.ranges import parse
from lbctl_l2.sharing import clash, keepers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = ip_address("10.0.0.1")


def tenant(name: str, age: float, *ports: str, **more: Any) -> Request:
    """It asks for the one address of which all of this is about; ports like `80/TCP`."""
    pairs = frozenset((protocol, int(port)) for port, _, protocol in (text.partition("/") for text in ports))
    usual = {"key": "k", "addresses": (ADDRESS,), "ports": pairs}
    return Request(Owner(name), NOW - timedelta(hours=age), **usual | more)


def settled(*requests: Request, among: Literal["namespace", "cluster"] = "cluster") -> dict[str, Outcome]:
    book = Book([Pool("a", (parse("10.0.0.0/24"),), sharing=among)])
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
    assert addresses(settled(*pair, among="namespace")) == [(ADDRESS,), ()]
    shared = settled(*pair, among="cluster")
    assert addresses(shared) == [(ADDRESS,), (ADDRESS,)]
    (note,) = shared["n/b"].notes
    assert (note.reason, "m/a" in note.message) == ("shared-across-namespaces", True)


def test_who_shares_across_namespaces_already_keeps_on_when_the_pool_no_longer_lets_others() -> None:
    pair = tenant("m/a", 2, "80/TCP", held=(ADDRESS,)), tenant("n/b", 1, "81/TCP", held=(ADDRESS,))
    assert addresses(settled(*pair, among="namespace")) == [(ADDRESS,), (ADDRESS,)]


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
    alike, fitting = sharing.alike, Book.fitting
    monkeypatch.setattr(sharing, "alike", lambda a, b: calls.update(["alike"]) or alike(a, b))
    monkeypatch.setattr(Book, "fitting", lambda self, request: calls.update(["fitting"]) or fitting(self, request))
    many = [tenant(f"n/s{n:03}", 2, f"{n}/TCP", held=(ADDRESS,)) for n in range(200)]
    settled(*many)
    assert (calls["alike"], calls["fitting"]) == (199, 400)


# ── who keeps an address when its sharers part ────────────────────────────────────────────────────────────────────────

AT = {"held": (ADDRESS,), "addresses": ()}
ELSEWHERE = ip_address("10.0.0.0")


def trio(**changed: Any) -> tuple[Request, ...]:
    """Three who shared, the oldest of whom has changed."""
    return (
        msgspec.structs.replace(tenant("n/old", 3, "80/TCP", **AT), **changed),
        tenant("n/mid", 2, "81/TCP", **AT), tenant("n/new", 1, "82/TCP", **AT),
    )  # fmt: skip


@pytest.mark.parametrize("changed", [
    {"key": "other"}, {"key": ""}, {"backend": "app=x"}, {"ports": frozenset({("TCP", 81), ("TCP", 82)})},
])
def test_who_parts_with_several_leaves_the_address_to_them_however_old_it_is(changed: dict[str, Any]) -> None:
    found = settled(*trio(**changed))
    assert [found[name].addresses for name in ("n/old", "n/mid", "n/new")] == [(ELSEWHERE,), (ADDRESS,), (ADDRESS,)]


def test_of_two_who_part_nobody_can_tell_which_one_changed_so_the_older_stays() -> None:
    for keys in (("k", "other"), ("other", "k")):
        pair = [tenant(f"n/{age}", age, f"{age}/TCP", key=key, **AT) for age, key in zip((2, 1), keys, strict=True)]
        assert addresses(settled(*pair)) == [(ELSEWHERE,), (ADDRESS,)]


def test_who_takes_one_others_port_parts_with_that_one_only() -> None:
    found = settled(*trio(ports=frozenset({("TCP", 81)})))
    assert [found[name].addresses for name in ("n/old", "n/mid", "n/new")] == [(ADDRESS,), (ELSEWHERE,), (ADDRESS,)]


def test_where_equally_many_part_the_ones_with_the_oldest_stay() -> None:
    keys = ("l", "k", "k", "l")
    four = [tenant(f"n/{n}", n, f"{n}/TCP", key=key, **AT) for n, key in enumerate(keys, 1)]
    found = settled(*four)
    assert [n for n in range(1, 5) if found[f"n/{n}"].addresses == (ADDRESS,)] == [1, 4]


@given(
    ages=st.lists(st.integers(0, 3), min_size=2, max_size=6), who=st.integers(0, 5),
    key=st.sampled_from(["k", "l", ""]), backend=st.sampled_from(["", "app=x"]),
    ports=st.frozensets(st.sampled_from([("TCP", n) for n in range(8)])),
)  # fmt: skip
def test_of_sharers_of_whom_one_changed_that_one_leaves_or_else_the_younger_of_a_pair(
    ages: list[int], who: int, key: str, backend: str, ports: frozenset[tuple[str, int]]
) -> None:
    before = [tenant(f"n/{n}", age, f"{n}/TCP", **AT) for n, age in enumerate(ages)]
    who %= len(before)
    changed = msgspec.structs.replace(before[who], key=key, backend=backend, ports=ports)
    others = before[:who] + before[who + 1 :]
    against = [other for other in others if clash(changed, [other])]
    leaves = {changed.owner} if len(against) > 1 else {max((changed, *against), key=lambda r: r.turn).owner}
    stays = {request.owner for request in before} - (leaves if against else set())
    assert {request.owner for request in keepers([*others, changed])} == stays


# ── who contradicts itself about its key ──────────────────────────────────────────────────────────────────────────────

TORN = {"key": "", "torn": ("j", "k"), "families": (), **AT}


def test_who_says_two_keys_stays_with_those_who_say_one_of_them() -> None:
    for age in (1, 3):
        found = settled(tenant("n/torn", age, "80/TCP", **TORN), tenant("n/b", 2, "81/TCP", **AT))
        assert found["n/b"].addresses == (ADDRESS,)
        book = Book([Pool("a", (parse("10.0.0.0/24"),))])
        book.put(tenant("n/torn", age, "80/TCP", **TORN))
        book.put(tenant("n/b", 2, "81/TCP", **AT))
        assert set(book.holders(ADDRESS)) == {"n/torn", "n/b"}


@pytest.mark.parametrize("asked", [(ADDRESS,), ()])
@pytest.mark.parametrize("age", [1, 3])
def test_others_of_the_key_still_join_who_shares_with_it(age: float, asked: tuple[IPAddress, ...]) -> None:
    joins = tenant("n/c", 0, "82/TCP", addresses=asked)
    found = settled(tenant("n/torn", age, "80/TCP", **TORN), tenant("n/b", 2, "81/TCP", **AT), joins)
    assert found["n/c"].addresses == (ADDRESS,)
    port = settled(tenant("n/torn", age, "82/TCP", **TORN), tenant("n/b", 2, "81/TCP", **AT), joins)
    assert port["n/c"].addresses != (ADDRESS,)


def test_nobody_moves_in_with_who_says_two_keys_and_is_alone_and_hears_why() -> None:
    found = settled(tenant("n/torn", 1, "80/TCP", **TORN), tenant("n/c", 0, "82/TCP"))
    assert found["n/c"].refusal is not None
    assert (found["n/c"].refusal.reason, found["n/c"].refusal.message) == (
        "sharing-conflict",
        "10.0.0.1 of the pool a cannot be had: n/torn has it, and its annotations disagree about the key",
    )


def test_who_says_two_keys_counts_in_its_namespaces_quota() -> None:
    book = Book([Pool("a", (parse("10.0.0.0/24"),), max_per_namespace=1)])
    for request in (tenant("n/torn", 1, "80/TCP", **TORN), tenant("n/more", 0, "82/TCP", key="", addresses=())):
        book.put(request)
    refusal = allocate(book, None, NOW)[Owner("n/more")].refusal
    assert refusal is not None
    assert refusal.reason == "namespace-quota"
