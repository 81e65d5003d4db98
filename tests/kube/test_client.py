"""The one place that speaks HTTP."""

import json
import ssl
import threading

import pytest
from urllib3.exceptions import ConnectTimeoutError, ProxyError, ReadTimeoutError, SSLError

from lbctl import __version__
from lbctl.errors import SettingsError, Unavailable
from lbctl.kube.client import (
    MERGE,
    STRATEGIC,
    ApiError,
    Client,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    Patch,
    Throttled,
    Unreachable,
)


def test_bytes_come_back_as_they_are(api, client):
    api.plan(api.json({"a": 1}))
    assert client.get("/api/v1/services", {"limit": "5"}) == b'{"a": 1}'
    assert api.asked[0]["params"] == {"limit": "5"}


def test_it_says_who_it_is_and_carries_the_credentials(api, client):
    api.plan(api.json({}))
    client.get("/api")
    assert api.asked[0]["headers"]["User-Agent"] == f"lbctl/{__version__} (test)"
    assert api.asked[0]["headers"]["authorization"] == "Bearer made-up"


def test_a_body_goes_out_with_its_content_type(api, client):
    api.plan(api.json({}))
    client.request("PATCH", "/x", {"a": [1]}, MERGE)
    assert api.asked[0]["body"] == {"a": [1]}
    assert api.asked[0]["headers"]["Content-Type"] == MERGE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (410, Gone), (403, Forbidden), (429, Throttled), (500, ApiError)],
)
def test_every_refusal_has_its_own_error(api, client, status, kind):
    api.plan(api.error(status, "Because", "it is so", Retry_After="7"))
    with pytest.raises(kind) as caught:
        client.get("/x")
    assert (caught.value.status, caught.value.reason, str(caught.value)) == (status, "Because", "it is so")
    assert caught.value.retry_after == 7


def test_an_error_that_is_not_json_is_still_an_error(api, client):
    def bad_gateway(handler):
        handler.send_response(502)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"oops")

    api.plan(bad_gateway)
    with pytest.raises(ApiError, match="oops"):
        client.get("/x")


def test_no_answer_is_unavailable(api, client):
    api.plan(api.hang_up())
    with pytest.raises(Unavailable, match="no answer from the API server"):
        client.get("/x")


def untrusted() -> ssl.SSLCertVerificationError:
    why = ssl.SSLCertVerificationError(1, "certificate verify failed")
    why.verify_message = "self-signed certificate"
    return why


@pytest.mark.parametrize(("broken", "kind", "said"), [
    (SSLError(untrusted()), Unreachable, "self-signed certificate"),
    (ConnectTimeoutError("x"), Unreachable, "no connection within the time for it"),
    (ProxyError("x", ConnectTimeoutError("x")), Unreachable, "no connection within the time for it"),
    (ReadTimeoutError(None, "/", "x"), Unavailable, "ReadTimeoutError"),
])  # fmt: skip
def test_whether_anybody_was_reached_is_said_apart(client, broken: Exception, kind: type[Exception], said: str):
    told = client._no_answer(broken)
    assert type(told) is kind
    assert f": {said}" in told.message
    assert ("Check --kubeconfig" in told.message) == (kind is Unreachable)


def test_a_write_is_sent_once_even_when_the_connection_breaks(api, client):
    api.plan(api.hang_up())
    with pytest.raises(Unavailable):
        client.request("POST", "/x", {})
    assert len(api.asked) == 1


def test_a_watch_gives_whole_lines(api, client):
    api.plan(api.watch({"type": "ADDED", "object": {"n": "x" * 100_000}}, {"type": "BOOKMARK"}, hold=False))
    lines = list(client.stream("/x", {"watch": "true"}, 5.0))
    assert [len(line) > 100_000 for line in lines] == [True, False]


def test_a_watch_can_be_closed_from_another_thread(api, client):
    api.plan(api.watch())
    stream = client.stream("/x", {}, 30.0)
    threading.Timer(0.1, stream.close).start()
    assert list(stream) == []


def test_a_silent_watch_is_dead(api, client):
    api.plan(api.watch())
    with pytest.raises(Unavailable, match="broke off"):
        list(client.stream("/x", {}, 0.2))


def test_a_refused_watch_raises_when_it_is_opened(api, client):
    api.plan(api.error(410, "Expired", "too old"))
    with pytest.raises(Gone):
        client.stream("/x", {}, 5.0)


def test_a_refused_watch_whose_words_break_off_is_still_that_refusal(api, client):
    api.plan(api.half(429))
    with pytest.raises(Throttled):
        client.stream("/x", {"watch": "true"}, 5.0)


def test_a_token_that_cannot_be_read_just_now_is_unavailable(api, client):
    def away(_configuration):
        raise FileNotFoundError("token")

    client._api.configuration.refresh_api_key_hook = away
    with pytest.raises(Unavailable, match="credentials"):
        client.get("/x")


def test_calls_are_told_before_and_after(api, tmp_path, client):
    seen = []
    watched = Client(client._api, observe=seen.append)
    api.plan(api.json({}), api.error(404), api.hang_up())
    watched.get("/x")
    with pytest.raises(NotFound):
        watched.get("/x")
    with pytest.raises(Unavailable):
        watched.get("/x")
    assert [(c.operation, c.code) for c in seen] == [
        ("get", None), ("get", "ok"), ("get", None), ("get", "404"), ("get", None), ("get", "no-answer"),
    ]  # fmt: skip


def test_a_missing_kubeconfig_names_the_ways_out(tmp_path):
    with pytest.raises(SettingsError, match=r"--kubeconfig FILE or set KUBECONFIG.*inside a cluster.*lbctl sandbox"):
        Client.from_config(str(tmp_path / "none"))


def test_a_broken_kubeconfig_is_named(tmp_path):
    path = tmp_path / "config"
    path.write_text("clusters: [}")
    with pytest.raises(SettingsError, match=str(path)):
        Client.from_config(str(path))


def test_without_any_configuration_it_says_so(tmp_path):
    with pytest.raises(SettingsError, match="no Kubernetes cluster is configured"):
        Client.from_config(environ={"KUBECONFIG": str(tmp_path / "none")})


def test_an_exec_plugin_is_asked_for_credentials(api, tmp_path, kubeconfig):
    plugin = tmp_path / "plugin"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "fresh"}}
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    plugin.chmod(0o755)
    ask = {"apiVersion": answer["apiVersion"], "command": str(plugin), "interactiveMode": "Never"}
    path = kubeconfig(tmp_path, api.url, user={"exec": ask})
    api.plan(api.json({}))
    Client.from_config(str(path)).get("/x")
    assert api.asked[0]["headers"]["authorization"] == "Bearer fresh"


def test_a_user_agent_of_its_own_for_each_component(api, client):
    api.plan(api.json({}))
    Client(client._api, component="speaker").get("/x")
    assert api.asked[0]["headers"]["User-Agent"].endswith("(speaker)")


def test_many_threads_share_one_client(api, client):
    api.plan(*[api.json({"n": 1}) for _ in range(40)])
    threads = [threading.Thread(target=lambda: [client.get("/x") for _ in range(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.asked) == 40


def test_many_writes_go_as_one_write_does(api, client):
    api.plan(api.json({"n": 1}), api.json({"n": 2}))
    patches = [Patch("/x", {"a": [1]}), Patch("/y", {}, MERGE)]
    assert dict(client.patch_all(iter(patches), 1)) == {0: b'{"n": 1}', 1: b'{"n": 2}'}
    assert [(asked["method"], asked["path"], asked["body"]) for asked in api.asked] == [
        ("PATCH", "/x", {"a": [1]}), ("PATCH", "/y", {}),
    ]  # fmt: skip
    heads = [asked["headers"] for asked in api.asked]
    assert [head["Content-Type"] for head in heads] == [STRATEGIC, MERGE]
    assert {(head["authorization"], head["User-Agent"]) for head in heads} == {
        ("Bearer made-up", f"lbctl/{__version__} (test)")
    }


def test_what_became_of_each_of_many_writes_is_a_value_and_told_of(api, client):
    seen = []
    watched = Client(client._api, observe=seen.append)
    api.plan(api.json({}), api.error(404), api.hang_up(), api.error(429, Retry_After="7"))
    answers = dict(watched.patch_all(iter([Patch("/x", {})] * 4), 1))
    assert [type(answers[number]) for number in range(4)] == [bytes, NotFound, Unavailable, Throttled]
    assert answers[3].retry_after == 7
    assert {call.operation for call in seen} == {"patch"}
    assert [call.code for call in seen] == [None, "ok", None, "404", None, "no-answer", None, "429"]


def test_many_writes_to_nobody_are_unreachable_each(api, client):
    nobody = Client(client._api)
    nobody._wire._pool.port = 1
    answers = dict(nobody.patch_all(iter([Patch("/x", {})] * 3), 2))
    assert [type(answers[number]) for number in range(3)] == [Unreachable] * 3


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def rotating(client):
    """(a client whose token is changed by hand, its clock, what gives a token or raises)."""
    clock, tokens = Clock(), iter(["Bearer one", "Bearer two", "Bearer three"])
    made = Client(client._api, clock=clock)

    def hook(configuration):
        # As newer and as older releases of the official client name it.
        configuration.api_key.update(dict.fromkeys(("BearerToken", "authorization"), next(tokens)))

    client._api.configuration.refresh_api_key_hook = hook
    return made, clock


def shown(api):
    return [asked["headers"]["authorization"] for asked in api.asked]


def test_a_stream_of_writes_asks_for_its_credentials_again_after_a_second(api, rotating):
    client, clock = rotating
    api.plan(*[api.json({})] * 4)

    def patches():
        for moment in (0.0, 0.9, 1.0, 1.9):
            clock.now = moment
            yield Patch("/x", {})

    assert len(list(client.patch_all(patches(), 1))) == 4
    assert shown(api) == ["Bearer one", "Bearer one", "Bearer two", "Bearer two"]


def test_credentials_that_cannot_be_read_again_just_now_serve_on(api, rotating):
    client, clock = rotating
    api.plan(*[api.json({})] * 3)

    def away(_configuration):
        raise FileNotFoundError("token")

    def patches():
        yield Patch("/x", {})
        known, client._api.configuration.refresh_api_key_hook = client._api.configuration.refresh_api_key_hook, away
        clock.now = 1.5
        yield Patch("/x", {})
        client._api.configuration.refresh_api_key_hook = known
        clock.now = 3.0
        yield Patch("/x", {})

    assert len(list(client.patch_all(patches(), 1))) == 3
    assert shown(api) == ["Bearer one", "Bearer one", "Bearer two"]


def test_a_stream_of_writes_does_not_begin_without_credentials(api, client):
    def away(_configuration):
        raise FileNotFoundError("token")

    client._api.configuration.refresh_api_key_hook = away
    patches = iter([Patch("/x", {})])
    with pytest.raises(Unreachable, match="credentials"):
        list(client.patch_all(patches, 1))
    assert list(patches), "whoever brings it has to hear of it another way, and may bring it again"


def test_there_is_no_calm_while_a_stream_of_writes_goes_on(api, client):
    api.plan(api.json({}), api.json({}))
    answers = client.patch_all(iter([Patch("/x", {})] * 2), 1)
    next(answers)
    assert not client.calm(0.0)
    assert len(list(answers)) == 1
    assert client.calm(0.0)


def test_an_observer_that_raises_hangs_up_on_what_is_on_its_way(api, client):
    left = threading.Event()

    def until_it_hangs_up(handler):
        handler.connection.recv(1)
        left.set()

    def observe(call):
        if call.code == "ok":
            raise LookupError("a crash")

    api.plan(until_it_hangs_up, api.json({}))
    with pytest.raises(LookupError) as held:
        list(Client(client._api, observe=observe).patch_all(iter([Patch("/x", {})] * 2), 2))
    assert left.wait(10), held
