"""The controller's part of bare metal: never one address twice, whatever is read when; and what a Service hears."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.cluster import NoKubernetes, Object, Watch
from lbctl.errors import SettingsError
from lbctl.model import SHARED, Ingress, LoadBalancer, Node, Owner, Port, Refusal, Resource
from lbctl.plan import Plan, diff
from lbctl.provider import Desired, Harness, Observation, Scope
from lbctl_l2 import crds
from lbctl_l2.provider import AddressProvider

START = datetime(2026, 1, 1, tzinfo=UTC)
NODE = Node("node-1", addresses=(ip_address("198.51.100.1"),))


class Cluster(NoKubernetes):
    """What the cluster has, changed by hand; and who listens."""

    def __init__(self, **objects: list[Object]) -> None:
        self.found = objects
        self.told: list[Any] = []
        self.heard: list[Any] = []
        self.events: list[tuple[str, str]] = []

    def objects(self, watch: Watch) -> list[Object]:
        return self.found.get(watch.plural, []) if watch.group == "lbctl.io" else []

    def follow(self, watch: Watch, told: Any) -> None:
        self.told.append(told)

    def follow_holders(self, told: Any) -> None:
        self.heard.append(told)

    def event(self, owner: Owner, kind: str, reason: str, message: str) -> None:
        self.events.append((owner, reason))

    def patch(self, watch: Watch, name: str, body: Any, namespace: str = "", subresource: str = "") -> Object:
        return Object(name)

    def put(self, plural: str, *items: Object) -> None:
        self.found[plural] = list(items)
        for told in self.told:
            told(None, items[0] if items else None)

    def tell(self, lb: LoadBalancer, *, gone: bool = False) -> None:
        for told in self.heard:
            told(lb.owner, None if gone else lb)


class Stage:
    """A provider, what is asked of it, and what its lanes have in flight."""

    def __init__(self, addresses: str = "192.0.2.0/30", cluster: Cluster | None = None, **said: str) -> None:
        self.cluster = cluster or Cluster()
        self.again: list[Any] = []
        harness = Harness({"addresses": addresses, **said}, kubernetes=self.cluster, again=self.again.append)
        self.provider = AddressProvider(harness)
        self.lbs: dict[Owner, LoadBalancer] = {}
        self.shares: dict[Owner, Any] = {}
        self.flying: tuple[Resource, ...] = ()
        self.now = START

    def put(self, lb: LoadBalancer) -> None:
        """The store was read: this is what it says of the Service."""
        if self.lbs.get(lb.owner) != lb:
            self.lbs[lb.owner] = lb
            [self.shares[lb.owner]] = self.provider.shares(lb)

    def drop(self, name: str) -> None:
        del self.lbs[Owner(name)], self.shares[Owner(name)]

    def look(self, *names: str, fresh: bool = False, refused: Iterable[Refusal] = ()) -> tuple[Desired, Observation]:
        owners = frozenset(map(Owner, names)) if names else None
        lbs = tuple(lb for lb in self.lbs.values() if owners is None or lb.owner in owners)
        scope = Scope(
            self.now, owners, fresh, load_balancers=lbs, shares=Counter(self.shares.values()), taken=self.flying,
            refused=tuple(refused),
        )  # fmt: skip
        seen = self.provider.observe(scope)
        return self.provider.desired(lbs, seen), seen

    def plan(self, *names: str, fresh: bool = False) -> Plan:
        return diff(self.provider.kinds, *self.look(*names, fresh=fresh))

    def apply(self, plan: Plan) -> None:
        for change in plan.changes:
            self.provider.apply([change])

    def given(self, *names: str, fresh: bool = False) -> dict[str, list[str]]:
        desired, _ = self.look(*names, fresh=fresh)
        found: dict[str, list[str]] = {}
        for resource in desired.resources:
            found.setdefault(resource.owner, []).append(resource.fields["address"])
        return found

    def refusals(self, *names: str) -> dict[str, str]:
        return {no.owner: no.reason for no in self.look(*names)[0].refused}


def lb(name: str, *held: str, age: int = 0, **rest: Any) -> LoadBalancer:
    status = tuple(Ingress(ip=text, ip_mode="VIP") for text in held)
    created = START - timedelta(seconds=age)
    return LoadBalancer(Owner(name), created=created, ports=(Port(80),), status=status, nodes=(NODE,), **rest)


# -- promises ----------------------------------------------------------------------------------------------------------


def test_what_was_promised_is_not_given_to_another_before_the_status_is_read() -> None:
    stage = Stage("192.0.2.7")
    stage.put(lb("a/one"))
    stage.apply(stage.plan())
    stage.put(lb("a/two"))
    assert stage.refusals("a/two") == {"a/two": "pool-exhausted"}
    assert stage.plan("a/one").empty


def test_what_is_in_flight_is_not_given_to_another() -> None:
    stage = Stage("192.0.2.7")
    stage.put(lb("a/one"))
    stage.flying = tuple(change.after for change in stage.plan().changes if change.after)
    stage.put(lb("a/two", age=5))
    assert stage.refusals("a/two") == {"a/two": "pool-exhausted"}


def test_a_service_that_was_read_before_its_write_landed_keeps_what_it_was_promised() -> None:
    """It was edited while its lane was in flight, and read before the lane's PATCH: its status looks empty."""
    stage = Stage("192.0.2.7")
    stage.put(lb("a/one"))
    plan = stage.plan()
    stage.flying = tuple(change.after for change in plan.changes if change.after)
    stage.look("a/other")
    stage.apply(plan)
    stage.put(lb("a/one", annotations={"edited": "yes"}))
    stage.flying = ()
    stage.put(lb("a/two", age=5))
    assert stage.refusals() == {"a/two": "pool-exhausted"}


def test_a_status_that_somebody_wipes_later_is_believed() -> None:
    stage = Stage("192.0.2.7")
    stage.put(lb("a/one"))
    stage.apply(stage.plan())
    stage.put(lb("a/one", "192.0.2.7"))
    stage.look()
    stage.look("a/one")
    stage.put(lb("a/one"))
    assert [change.action for change in stage.plan("a/one").changes] == ["create"]


def test_who_moves_has_the_new_address_before_the_old_one_is_free() -> None:
    cluster = Cluster(addresspools=[pool("lab", "192.0.2.1", uid="1")])
    stage = Stage("", cluster)
    stage.put(lb("a/one", "192.0.2.1"))
    stage.look()
    cluster.put("addresspools", pool("lab", "192.0.2.8/30", uid="1"))
    plan = stage.plan()
    assert [(c.action, c.name) for c in plan.changes] == [("create", "a/one 192.0.2.8"), ("delete", "a/one 192.0.2.1")]
    assert plan.changes[0].because == "192.0.2.8 from pool lab, instead of 192.0.2.1"
    stage.apply(plan)
    assert stage.plan().empty


def test_an_address_that_was_given_up_is_free_though_the_old_status_was_the_last_that_was_read() -> None:
    stage = Stage("192.0.2.7, 192.0.2.9")
    stage.put(lb("a/one", "192.0.2.7"))
    stage.look()
    stage.put(lb("a/one", "192.0.2.7", requested_addresses=(ip_address("192.0.2.9"),)))
    stage.apply(stage.plan())
    stage.put(lb("a/two", requested_addresses=(ip_address("192.0.2.7"),)))
    assert stage.given("a/two") == {"a/two": ["192.0.2.7"]}


def test_a_deleted_services_promise_goes_with_it_and_rests() -> None:
    stage = Stage("192.0.2.0/30")
    stage.put(lb("a/one"))
    stage.apply(stage.plan())
    stage.drop("a/one")
    assert stage.plan("a/one").empty
    stage.put(lb("a/two"))
    assert stage.given("a/two") == {"a/two": ["192.0.2.1"]}
    stage.now += timedelta(hours=1)
    assert stage.given("a/two") == {"a/two": ["192.0.2.0"]}


# -- the same as from scratch ------------------------------------------------------------------------------------------

NAMES = ("a/one", "a/two", "b/three", "b/four")
ADDRESSES = ("192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.9")
DEEDS = ("put", "drop", "move", "share", "apply", "wipe", "stranger", "leaves", "pool")
CHANGES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(DEEDS), st.sampled_from(ADDRESSES)), min_size=1, max_size=15
)


@settings(max_examples=300)
@given(CHANGES)
def test_events_come_to_what_a_new_process_reads(changes: list[tuple[str, str, str]]) -> None:
    """What narrow looks make of events is what a provider says that starts now; and nobody ever has another's."""
    ranges, strangers = "192.0.2.0/30", dict[str, LoadBalancer]()
    cluster = Cluster(addresspools=[pool("lab", ranges, uid="1", cooldownSeconds=0)])
    stage = Stage("", cluster)
    for number, (name, what, address) in enumerate(changes):
        old = stage.lbs.get(Owner(name))
        held = tuple(entry.ip for entry in old.status) if old else ()
        match what:
            case "put":
                stage.put(lb(name, *held, age=number))
            case "move":
                stage.put(lb(name, *held, requested_addresses=(ip_address(address),)))
            case "share":
                stage.put(lb(name, *held, annotations={"lbctl.io/allow-shared-ip": "k"}))
            case "wipe" if old:
                stage.put(msgspec.structs.replace(old, status=()))
            case "drop" if old:
                stage.drop(name)
            case "stranger":
                strangers[address] = lb(f"x/{address}", external_ips=(ip_address(address),))
                cluster.tell(strangers[address])
            case "leaves" if address in strangers:
                cluster.tell(strangers.pop(address), gone=True)
            case "pool":
                ranges = "192.0.2.0-192.0.2.9" if number % 2 else "192.0.2.0/30"
                cluster.put("addresspools", pool("lab", ranges, uid="1", cooldownSeconds=0))
        stage.look(name)
        if what == "apply" and name in stage.given(name):
            stage.apply(stage.plan(name))
            stage.put(msgspec.structs.replace(stage.lbs[Owner(name)], status=lb("x", *stage.given(name)[name]).status))
            # Twice, as after a flight: once it may have been read too early.
            stage.look(name)
        scratch = Stage("", Cluster(addresspools=[pool("lab", ranges, uid="1", cooldownSeconds=0)]))
        for stranger in strangers.values():
            scratch.cluster.tell(stranger)
        for one in stage.lbs.values():
            scratch.put(one)
        stage.look()
        assert stage.given() == scratch.given()
        assert stage.refusals() == scratch.refusals()


# -- what is not known -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["192.0.2.0-192.0.2.300", "198.51.100.0/24"], ids=["invalid", "overlapping"])
def test_a_restart_moves_nobody_whose_pool_cannot_be_read_any_more(wrong: str) -> None:
    good = pool("good", "198.51.100.0/24", uid="1")
    stage = Stage("", Cluster(addresspools=[pool("lab", wrong, uid="2"), good]))
    stage.put(lb("a/one", "192.0.2.7", annotations={"lbctl.io/address-pool": "lab"}))
    stage.put(lb("a/two", "192.0.2.8"))
    stage.put(lb("a/new"))
    assert stage.given() == {"a/one": ["192.0.2.7"], "a/two": ["192.0.2.8"], "a/new": ["198.51.100.0"]}
    notes = [note for note in stage.look()[0].notes if note.owner == "a/one"]
    assert [(note.reason, "until lab can be read again" in note.message) for note in notes] == [("pool-unknown", True)]
    stage.cluster.put("addresspools", pool("lab", "192.0.2.0/29", uid="2"), good)
    assert stage.given("a/one", "a/two") == {"a/one": ["192.0.2.7"], "a/two": ["198.51.100.1"]}


def test_who_has_an_address_of_a_pool_that_could_not_be_read_moves_when_that_is_deleted() -> None:
    good = pool("good", "198.51.100.0/24", uid="1")
    stage = Stage("", Cluster(addresspools=[pool("lab", "nonsense", uid="2"), good]))
    stage.put(lb("a/one", "192.0.2.7"))
    assert stage.given() == {"a/one": ["192.0.2.7"]}
    stage.cluster.put("addresspools", good)
    assert stage.given() == {"a/one": ["198.51.100.0"]}


def test_a_look_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("", Cluster(addresspools=[pool("lab", "192.0.2.7", uid="1")]))
    stage.put(lb("a/one"))
    with monkeypatch.context() as patch:
        patch.setattr(crds, "supply", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stage.look()
    assert stage.given() == {"a/one": ["192.0.2.7"]}


# -- who asks, who does not --------------------------------------------------------------------------------------------


def test_who_is_refused_by_others_takes_nothing_and_keeps_what_it_has() -> None:
    stage = Stage("192.0.2.0/31")
    stage.put(lb("a/barred", "192.0.2.0", age=9))
    stage.put(lb("a/late", age=8))
    stage.put(lb("a/good"))
    barred = [Refusal(Owner("a/barred"), "quota-namespace", ""), Refusal(Owner("a/late"), "quota-namespace", "")]
    desired, _ = stage.look(refused=barred)
    assert [resource.fields["address"] for resource in desired.resources] == ["192.0.2.1"]
    assert {no.owner: no.reason for no in desired.refused} == {}


def test_who_contradicts_itself_hears_how_and_keeps_what_it_has() -> None:
    stage = Stage("192.0.2.0/31")
    both = {"lbctl.io/address-pool": "a", "metallb.io/address-pool": "b"}
    stage.put(lb("a/torn", "192.0.2.0", annotations=both))
    stage.put(lb("a/good"))
    assert stage.refusals() == {"a/torn": "pool-conflict"}
    assert stage.given() == {"a/good": ["192.0.2.1"]}


def test_who_is_refused_keeps_nothing_that_is_an_older_ones() -> None:
    stage = Stage("192.0.2.0/31")
    stage.put(lb("a/owner", "192.0.2.0", age=9))
    torn = {"lbctl.io/address-pool": "a", "metallb.io/address-pool": "b"}
    stage.put(lb("a/thief", "192.0.2.0", annotations=torn))
    stage.put(lb("a/barred", "192.0.2.0", "192.0.2.1"))
    desired, seen = stage.look(refused=[Refusal(Owner("a/barred"), "quota-namespace", "")])
    assert {owner: [ref.name for ref in refs] for owner, refs in desired.keeps.items()} == {
        "a/thief": [], "a/barred": ["a/barred 192.0.2.1"],
    }  # fmt: skip
    assert {resource.name for resource in seen.resources} == {"a/owner 192.0.2.0", "a/barred 192.0.2.1"}


def test_who_is_refused_and_older_is_not_robbed() -> None:
    stage = Stage("192.0.2.0/31")
    torn = {"lbctl.io/address-pool": "a", "metallb.io/address-pool": "b"}
    stage.put(lb("a/torn", "192.0.2.0", age=9, annotations=torn))
    stage.put(lb("a/young", "192.0.2.0"))
    assert stage.given() == {"a/young": ["192.0.2.1"]}
    assert stage.look()[0].keeps == {}


def test_who_is_refused_shares_as_before() -> None:
    stage = Stage("192.0.2.0/31")
    shares = {"lbctl.io/allow-shared-ip": "k"}
    torn = {**shares, "lbctl.io/address-pool": "a", "metallb.io/address-pool": "b"}
    stage.put(lb("a/torn", "192.0.2.0", age=9, annotations=torn))
    stage.put(msgspec.structs.replace(lb("a/good", "192.0.2.0", annotations=shares), ports=(Port(81),)))
    assert (stage.given(), stage.look()[0].keeps) == ({"a/good": ["192.0.2.0"]}, {})


def test_who_contradicts_itself_about_the_key_stays_with_who_says_one_of_them_and_counts() -> None:
    stage = Stage("192.0.2.0/31")
    torn = {"lbctl.io/allow-shared-ip": "k", "metallb.io/allow-shared-ip": "j"}
    stage.put(lb("a/torn", "192.0.2.0", age=9, annotations=torn))
    shares = {"lbctl.io/allow-shared-ip": "k"}
    stage.put(msgspec.structs.replace(lb("a/good", "192.0.2.0", annotations=shares), ports=(Port(81),)))
    assert (stage.given(), stage.look()[0].keeps) == ({"a/good": ["192.0.2.0"]}, {})
    assert stage.refusals() == {"a/torn": "sharing-key-conflict"}
    assert stage.provider._ledger.book.usage(START)["default"].services == 2


def test_who_has_one_family_of_two_is_woken_when_an_address_of_the_other_is_free() -> None:
    stage = Stage("192.0.2.0/31,2001:db8::7")
    stage.put(six := lb("a/six", "2001:db8::7", ip_families=("IPv6",)))
    stage.cluster.tell(six)
    both = {"ip_families": ("IPv4", "IPv6"), "ip_family_policy": "PreferDualStack"}
    stage.put(two := lb("a/two", "192.0.2.0", **both))
    stage.cluster.tell(two)
    assert stage.given("a/two") == {"a/two": ["192.0.2.0"]}
    stage.again.clear()
    stage.drop("a/six")
    stage.cluster.tell(six, gone=True)
    assert "a/two" in stage.again[0]
    assert stage.given("a/two") == {"a/two": ["192.0.2.0", "2001:db8::7"]}
    stage.again.clear()
    stage.cluster.tell(msgspec.structs.replace(six, labels={"edited": "yes"}))
    assert "a/two" not in stage.again[-1]


def test_who_loses_an_address_because_an_older_sharer_parted_is_looked_at_next() -> None:
    stage = Stage("192.0.2.0/31")
    shares = {"metallb.io/allow-shared-ip": "k"}
    stage.put(old := lb("a/old", "192.0.2.0", age=9, annotations=shares))
    stage.put(msgspec.structs.replace(lb("a/new", "192.0.2.0", annotations=shares), ports=(Port(81),)))
    stage.look()
    stage.put(msgspec.structs.replace(old, annotations={}))
    stage.again.clear()
    assert stage.given("a/old") == {"a/old": ["192.0.2.0"]}
    assert stage.again == [{"a/new"}]
    assert stage.given("a/new") == {"a/new": ["192.0.2.1"]}
    assert stage.again == [{"a/new"}]


def test_a_strangers_address_is_taken_and_free_again_when_it_goes() -> None:
    stage = Stage("192.0.2.7")
    stage.look()
    stranger = lb("x/theirs", "192.0.2.7")
    stage.cluster.tell(stranger)
    stage.put(lb("a/one"))
    assert stage.refusals() == {"a/one": "pool-exhausted"}
    stage.again.clear()
    stage.cluster.tell(stranger, gone=True)
    assert "a/one" in stage.again[0]
    assert stage.given("a/one") == {"a/one": ["192.0.2.7"]}


def test_who_shares_an_address_and_makes_room_wakes_whoever_waits_for_it() -> None:
    stage = Stage("192.0.2.7")
    shares = {"metallb.io/allow-shared-ip": "k"}
    stage.put(first := lb("a/one", "192.0.2.7", age=1, annotations=shares))
    stage.cluster.tell(first)
    stage.put(lb("a/two", annotations=shares))
    assert stage.refusals() == {"a/two": "pool-exhausted"}
    stage.again.clear()
    stage.put(first := msgspec.structs.replace(first, ports=(Port(81),)))
    stage.cluster.tell(first)
    assert "a/two" in stage.again[0]
    assert stage.given("a/two") == {"a/two": ["192.0.2.7"]}
    stage.again.clear()
    stage.cluster.tell(msgspec.structs.replace(first, labels={"edited": "yes"}))
    assert stage.again == []


def test_a_stranger_that_claims_a_pools_address_by_external_ips_hears_it_once() -> None:
    stage = Stage("192.0.2.7")
    stage.put(lb("a/one", "192.0.2.7"))
    stage.cluster.tell(lb("x/plain", external_ips=(ip_address("192.0.2.7"),)))
    for _ in range(2):
        desired, _ = stage.look()
    assert stage.cluster.events == [("x/plain", "ExternalIPConflict")]
    assert desired.notes == ()


def test_a_note_of_a_conflict_reaches_who_is_served() -> None:
    stage = Stage("192.0.2.7, 192.0.2.8")
    stage.put(lb("a/one", "192.0.2.7"))
    stage.put(lb("a/two", "192.0.2.8", external_ips=(ip_address("192.0.2.7"),)))
    desired, _ = stage.look()
    assert [(note.owner, note.reason) for note in desired.notes] == [("a/two", "external-ip-conflict")]


# -- pools -------------------------------------------------------------------------------------------------------------


def pool(name: str, *ranges: str, uid: str = "", **spec: Any) -> Object:
    return Object(name, uid=uid, version="1", spec={"addresses": list(ranges), **spec})


ADVERT = Object("everywhere", uid="2", version="1")


def test_statuses_out_of_our_pools_are_adopted_and_no_others() -> None:
    stage = Stage("192.0.2.0/24")
    assert stage.provider.adopts([Ingress(ip="192.0.2.9", ip_mode="VIP")])
    assert not stage.provider.adopts([Ingress(ip="192.0.2.9"), Ingress(ip="198.51.100.1")])
    assert not stage.provider.adopts([Ingress(hostname="lb.example.com")])
    assert not stage.provider.adopts([])


def test_an_edit_of_a_pool_asks_for_a_look_at_everybody_and_a_status_does_not() -> None:
    cluster = Cluster(addresspools=[pool("lab", "192.0.2.0/24", uid="1")])
    stage = Stage("", cluster)
    told = cluster.told[0]
    one = pool("lab", "192.0.2.0/24", uid="1")
    told(one, msgspec.structs.replace(one, status={"usage": {}}))
    assert stage.again == []
    told(one, pool("lab", "192.0.2.0/25", uid="1"))
    assert stage.again == [None]


def test_pools_come_from_a_file_too(tmp_path: Any) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("kind: AddressPool\napiVersion: lbctl.io/v1alpha1\nmetadata: {name: lab}\n"
                    "spec: {addresses: [192.0.2.64/30]}\n")
    stage = Stage("", pools=str(file))
    stage.put(lb("a/one"))
    assert stage.given() == {"a/one": ["192.0.2.64"]}


@pytest.mark.parametrize("said", [
    {"addresses": "192.0.2.0/24, 192.0.2.7"}, {"addresses": "nonsense"}, {"pools": "/nowhere"}, {"cooldown": "soon"},
])  # fmt: skip
def test_settings_that_cannot_be_used_are_errors_that_name_them(said: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"--l2-{next(iter(said))}"):
        Stage(**{"addresses": "192.0.2.0/24", **said})


@pytest.mark.parametrize(("text", "why"), [
    ("&a [*a]", "aliases"),
    ("\n".join(f"- &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]" for n in range(9)), "aliases"),
    ("[" * 2000 + "]" * 2000, "nested too deeply"),
    ("- !!python/object:os.system x", "cannot be read"),
], ids=["self", "bomb", "depth", "tag"])  # fmt: skip
def test_a_file_of_pools_that_would_explode_is_an_error(text: str, why: str, tmp_path: Any) -> None:
    (tmp_path / "pools.yaml").write_text(text)
    with pytest.raises(SettingsError, match=why):
        Stage("", pools=str(tmp_path / "pools.yaml"))


def test_looking_for_what_is_shared_only_disturbs_nobody() -> None:
    stage = Stage()
    stage.put(lb("a/one"))
    desired, seen = stage.look(SHARED)
    assert (desired.resources, seen.resources) == ((), ())


def test_its_watches_are_our_objects_and_metallbs_and_the_speakers_leases() -> None:
    from lbctl_l2.plugin import watches

    plurals = [watch.plural for watch in watches({"home": "lbctl-system"})]
    assert plurals[:2] == ["addresspools", "l2advertisements"]
    assert {"ipaddresspools", "bgppeers", "leases"} <= set(plurals)
    assert [watch.plural for watch in watches({"metallb-namespace": "none"})] == ["addresspools", "l2advertisements"]
    assert crds.ADDRESS_POOLS in watches({})
