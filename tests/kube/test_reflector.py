"""List, watch, and everything that goes wrong with them, against a server that does as it is told."""

import pytest

from lbctl.kube import objects, store
from lbctl.kube.client import Throttled
from lbctl.kube.reflector import Backoff, Reflector

PATH = "/api/v1/services"


def service(name, version, **spec):
    metadata = {"name": name, "namespace": "default", "resourceVersion": str(version), "uid": f"uid-{name}"}
    return {"metadata": metadata, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec}}


def listed(version, *items):
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def event(kind, item):
    return {"type": kind, "object": item}


def bookmark(version):
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class Heard:
    def __init__(self, services):
        self.events = []
        services.subscribe(lambda what, old, new: self.events.append((what, objects.key(new or old))))


@pytest.fixture
def services():
    return store.services()


@pytest.fixture
def reflect(client, services):
    made = []

    def make(**options):
        options = {"chance": lambda: -0.95, **options}
        reflector = Reflector(client, objects.SERVICES, services, **options)
        made.append(reflector)
        reflector.start()
        return reflector

    yield make
    for reflector in made:
        reflector.stop()


def test_it_lists_what_is_certain_and_watches_from_there(api, services, reflect):
    api.plan(api.json(listed(10, service("web", 5))), api.watch(event("ADDED", service("api", 11)), bookmark(12)))
    assert reflect().synced.wait(5)
    first, second = api.heard(2)
    assert first["params"] == {"limit": "500"}
    assert second["params"]["resourceVersion"] == "10"
    assert second["params"]["allowWatchBookmarks"] == "true"


def test_a_watch_asks_for_five_to_ten_minutes(api, services, reflect):
    api.plan(api.json(listed(1)))
    reflect(chance=lambda: 0.5)
    assert api.heard(2)[1]["params"]["timeoutSeconds"] == "450"


def test_a_watch_that_ends_is_taken_up_again_without_a_list(api, services, reflect):
    api.plan(
        api.json(listed(10)),
        api.watch(event("ADDED", service("web", 11)), bookmark(20), hold=False),
    )
    reflect()
    assert api.heard(3)[2]["params"]["resourceVersion"] == "20"
    assert services.get("default/web") is not None


def test_a_very_short_watch_is_followed_by_a_list(api, services, reflect):
    api.plan(api.json(listed(10)), api.watch(hold=False), api.json(listed(11)))
    reflect()
    asked = api.heard(4)
    assert "watch" not in asked[2]["params"]
    assert asked[2]["params"]["resourceVersion"] == "10"


def test_an_expired_version_is_listed_afresh(api, services, reflect):
    api.plan(api.json(listed(10)), api.error(410, "Expired"), api.json(listed(99, service("web", 98))))
    reflect()
    asked = api.heard(4)
    assert asked[2]["params"] == {"limit": "500"}
    assert asked[3]["params"]["resourceVersion"] == "99"


def test_an_expiry_within_the_watch_is_the_same(api, services, reflect):
    gone = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    api.plan(api.json(listed(10)), api.watch(gone), api.json(listed(99)))
    reflect()
    assert api.heard(4)[3]["params"]["resourceVersion"] == "99"


def test_another_error_within_the_watch_lists_from_where_it_was(api, services, reflect):
    broken = event("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd"})
    api.plan(api.json(listed(10)), api.watch(broken), api.json(listed(99)))
    reflect()
    assert api.heard(3)[2]["params"] == {"resourceVersion": "10"}


@pytest.mark.parametrize("refusal", ["throttled", "no connection"])
def test_no_connection_is_no_reason_to_list(api, services, reflect, refusal):
    api.plan(api.json(listed(10)), api.error(429) if refusal == "throttled" else api.hang_up())
    reflector = reflect()
    asked = api.heard(3)
    assert [a["params"].get("watch") for a in asked] == [None, "true", "true"]
    assert reflector.synced.is_set()


def test_what_a_new_list_lacks_is_told_as_deleted(api, services, reflect):
    heard = Heard(services)
    api.plan(
        api.json(listed(10, service("web", 5), service("api", 6))),
        api.error(410),
        api.json(listed(20, service("api", 6))),
    )
    reflect()
    api.heard(4)
    assert heard.events == [("added", "default/web"), ("added", "default/api"), ("deleted", "default/web")]


def test_a_bad_object_blocks_no_other_and_stays_as_it_was_known(api, services, reflect):
    bad = service("web", 12)
    bad["spec"]["ports"] = "eighty"
    api.plan(
        api.json(listed(10, service("web", 5))),
        api.watch(event("MODIFIED", bad), event("ADDED", service("api", 13)), hold=False),
        api.error(410),
        api.json(listed(20, bad, service("api", 13))),
    )
    reflector = reflect()
    api.heard(5)
    assert services.get("default/web").metadata.resource_version == "5"
    assert services.get("default/api") is not None
    assert list(reflector.bad) == ["default/web"]


def test_a_bad_object_is_reported_once(api, services, reflect, caplog):
    bad = service("web", 12)
    bad["spec"]["ports"] = "eighty"
    api.plan(api.json(listed(10, bad)), api.watch(event("MODIFIED", bad), event("MODIFIED", bad), hold=False))
    told = []
    reflect(misread=lambda key, _why: told.append(key))
    api.heard(3)
    assert [r.object for r in caplog.records if "cannot be decoded" in r.message] == told == ["default/web"]


def test_silence_is_a_dead_connection(api, services, reflect):
    api.plan(api.json(listed(10)), api.watch(bookmark(11)))
    reflect(silence=0.2)
    assert api.heard(3)[2]["params"]["resourceVersion"] == "11"


def test_the_server_says_how_long_to_wait(client, services):
    reflector = Reflector(client, objects.SERVICES, services, chance=lambda: 0.0)
    waits = []
    reflector._stop.wait = waits.append
    reflector._wait(Throttled(429, "TooManyRequests", "busy", retry_after=7.0))
    reflector._wait(Throttled(429, "TooManyRequests", "busy"))
    assert waits == [7.0, 1.6]


def test_pages_make_one_consistent_list(api, services, reflect):
    first = {"metadata": {"resourceVersion": "99", "continue": "more"}, "items": [service("web", 5)]}
    api.plan(api.json(first), api.json(listed(99, service("api", 6))))
    assert reflect().synced.wait(5)
    assert api.heard(2)[1]["params"] == {"limit": "500", "continue": "more"}
    assert len(services) == 2


def test_an_expired_page_is_listed_in_one_piece(api, services, reflect):
    first = {"metadata": {"resourceVersion": "99", "continue": "more"}, "items": [service("web", 5)]}
    api.plan(api.json(first), api.error(410), api.json(listed(99, service("api", 6))))
    assert reflect().synced.wait(5)
    assert api.heard(3)[2]["params"] == {}
    assert [objects.key(s) for s in services.all()] == ["default/api"]


def test_it_stops_at_once_whatever_it_waits_for(api, services, reflect):
    api.plan(api.error(500))
    reflector = reflect(chance=lambda: 1.0)
    api.heard(1)
    reflector.stop()
    assert not reflector.alive


def test_it_stops_at_once_in_the_middle_of_a_watch(api, services, reflect):
    api.plan(api.json(listed(10)))
    reflector = reflect()
    api.heard(2)
    reflector.stop()
    assert not reflector.alive


def test_waiting_doubles_to_thirty_seconds_and_is_forgotten_after_two_healthy_minutes():
    now = [0.0]
    backoff = Backoff(lambda: now[0], lambda: 0.0)
    waits = [backoff.seconds() for _ in range(8)]
    now[0] = 121.0
    assert waits == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert backoff.seconds() == 0.8


def test_chance_stretches_a_wait_up_to_twice_its_length():
    assert Backoff(lambda: 0.0, lambda: 1.0).seconds() == 1.6


def test_what_the_server_is_known_to_lack_is_empty_at_once_and_asked_for_later(api, client, monkeypatch) -> None:
    monkeypatch.setattr("lbctl.kube.reflector.UNKNOWN", 0.2)
    reflector = Reflector(client, objects.SERVICES, store.services(), optional=True)
    reflector.start(absent=True)
    try:
        assert reflector.synced.wait(0.1)
        assert not api.asked
        assert api.heard(1)[0]["path"] == "/api/v1/services"
    finally:
        reflector.stop()


@pytest.mark.parametrize("where", ["list", "watch"])
def test_what_is_no_text_is_asked_for_again(api, services, reflect, where):
    def garbled(handler):
        data = b'{"type":"\xff","metadata":{"resourceVersion":"\xff"}}\n'
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    whole = api.json(listed(10, service("web", 5)))
    api.plan(*{"list": (garbled, whole), "watch": (whole, garbled, whole)}[where])
    reflector = reflect()
    api.heard({"list": 3, "watch": 4}[where])
    assert reflector.alive
    assert services.get("default/web") is not None
