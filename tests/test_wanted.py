"""The count of what is shared equals the one made from scratch, whatever came and went."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import LoadBalancer, Owner, Port
from lbctl.wanted import Wanted


def ports(lb: LoadBalancer) -> Iterable[int]:
    return (port.port for port in lb.ports)


def web(name: str, *numbers: int) -> LoadBalancer:
    return LoadBalancer(Owner(f"default/{name}"), ports=tuple(Port(number) for number in numbers))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.lists(st.integers(1, 3), max_size=3))))
def test_counting_event_by_event_equals_counting_all(events: list[tuple[str, list[int] | None]]) -> None:
    wanted = Wanted(ports)
    for name, numbers in events:
        wanted.remove(Owner(f"default/{name}")) if numbers is None else wanted.put(web(name, *numbers))
    assert wanted.shares == Counter(share for lb in wanted.by_owner.values() for share in ports(lb))
    assert all(count > 0 for count in wanted.shares.values())


def test_putting_the_same_again_changes_nothing() -> None:
    wanted = Wanted(ports)
    assert wanted.put(web("a", 80))
    assert not wanted.put(web("a", 80))


def test_a_narrow_look_takes_only_its_own() -> None:
    wanted = Wanted()
    wanted.put(web("a"))
    wanted.put(web("b"))
    assert [lb.name for lb in wanted.of(frozenset({Owner("default/b"), Owner("default/gone")}))] == ["b"]
    assert len(wanted.of(None)) == 2


def test_who_has_an_address_ranks_first() -> None:
    from lbctl.model import Ingress
    wanted = Wanted()
    wanted.put(web("a"))
    wanted.put(LoadBalancer(Owner("default/b"), status=(Ingress(ip="192.0.2.1"),)))
    assert wanted.ranking("default") == ["default/b", "default/a"]
