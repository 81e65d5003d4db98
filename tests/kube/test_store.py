"""What is known, in what order it is told, and whose word counts."""

from contextlib import suppress

from lbctl.errors import Unavailable
from lbctl.kube import objects, store


def service(name="web", version="1", finalizers=(), namespace="default", uid="u1"):
    metadata = objects.Metadata(
        name=name, namespace=namespace, uid=uid, resource_version=version, finalizers=tuple(finalizers)
    )
    return objects.Service(metadata, objects.ServiceSpec(type="LoadBalancer"))


def heard(services):
    events = []
    services.subscribe(lambda what, old, new: events.append((what, old, new)))
    return events


def test_a_late_handler_hears_of_everything_first():
    services = store.services()
    services.put(service())
    assert heard(services) == [("added", None, service())]


def test_the_store_knows_before_the_handler_hears():
    services = store.services()
    seen = []
    services.subscribe(lambda *_: seen.append(services.get("default/web")))
    services.put(service())
    assert seen == [service()]


def test_an_echo_is_dropped_without_a_word():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    services.put(service(version="5"))
    services.put(service(version="4"))
    assert len(events) == 1


def test_versions_are_numbers_not_texts():
    services = store.services()
    services.put(service(version="9"))
    services.put(service(version="10"))
    assert services.get("default/web").metadata.resource_version == "10"


def test_our_own_write_is_known_at_once_and_told_to_nobody():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    services.put_if_newer(service(version="6", finalizers=["lbctl.io/aws"]))
    services.put(service(version="6", finalizers=["lbctl.io/aws"]))
    assert len(events) == 1
    assert len(services.by("finalizer", "lbctl.io/aws")) == 1


def test_somebody_elses_change_within_our_answer_is_told():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    services.put_if_newer(service(version="7", uid="u2"), news=lambda old, new: True)
    assert [what for what, _, _ in events] == ["added", "updated"]


def test_an_echo_that_overtakes_the_answer_is_nobodys_news():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    with services.writing("default/web") as answered:
        services.put(service(version="6"))
        answered(service(version="6"))
    assert len(events) == 1


def test_what_somebody_else_wrote_meanwhile_is_told_after_our_write():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    with services.writing("default/web") as answered:
        services.put(service(version="6"))
        services.put(service(version="7"))
        assert len(events) == 1
        answered(service(version="6"))
    assert events[1:] == [("updated", service(version="5"), service(version="7"))]


def test_what_the_watch_said_during_a_write_that_failed_is_told():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    with suppress(Unavailable), services.writing("default/web"):
        services.put(service(version="6"))
        raise Unavailable("no answer")
    assert events[1:] == [("updated", service(version="5"), service(version="6"))]


def test_a_deletion_during_a_write_is_told_once_and_at_once():
    services = store.services()
    services.put(service(version="5"))
    events = heard(services)
    with services.writing("default/web") as answered:
        services.put(service(version="6"))
        services.remove("default/web", "7")
        answered(service(version="6"))
    assert [what for what, _, _ in events] == ["added", "deleted"]


def test_our_late_answer_does_not_bring_back_what_is_deleted():
    services = store.services()
    services.put(service(version="5"))
    services.remove("default/web", "8")
    services.put_if_newer(service(version="7"))
    assert services.get("default/web") is None


def test_a_list_tells_what_is_missing_with_the_last_that_was_known():
    services = store.services()
    services.put(service("web", "5"))
    services.put(service("api", "6"))
    events = heard(services)[:0]
    services.subscribe(lambda what, old, new: events.append((what, old, new)))
    events.clear()
    services.replace([service("api", "6")], "10")
    assert events == [("deleted", service("web", "5"), None)]


def test_a_list_from_before_our_own_write_does_not_undo_it():
    services = store.services()
    services.replace([service(version="5")], "5")
    services.put_if_newer(service(version="9", finalizers=["lbctl.io/aws"]))
    services.replace([service(version="5")], "8")
    assert services.get("default/web").metadata.resource_version == "9"


def test_a_cluster_that_was_restored_from_a_backup_is_believed():
    services = store.services()
    services.replace([service(version="500"), service("api", "400")], "600")
    services.replace([service(version="50")], "100")
    assert [s.metadata.resource_version for s in services.all()] == ["50"]


def test_what_cannot_be_decoded_is_not_missing():
    services = store.services()
    services.replace([service(version="5")], "5")
    services.replace([], "9", keep=["default/web"])
    assert services.get("default/web") is not None


def test_an_index_follows_every_change():
    services = store.services()
    services.put(service(version="1", finalizers=["a", "b"]))
    services.put(service(version="2", finalizers=["b"]))
    assert (services.by("finalizer", "a"), len(services.by("finalizer", "b"))) == ((), 1)
    services.remove("default/web", "3")
    assert services.by("finalizer", "b") == ()


def test_a_snapshot_stays_as_it_was():
    services = store.services()
    services.put(service("web"))
    before = services.all()
    services.put(service("api"))
    assert (len(before), len(services.all())) == (1, 2)
