"""Errors by type and code, retries where nobody answered, the gate, and the count: against real HTTP."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lbctl.errors import CredentialsError, Refused, Retry, Unavailable
from lbctl.gate import Gate
from lbctl_aws.api import THROTTLES, Api, Told, category
from lbctl_aws.settings import parse

ERROR = ("<ErrorResponse><Error><Code>{}</Code><Message>{}</Message></Error><RequestId>secret</RequestId>"
         "</ErrorResponse>")
FINE = ('<DescribeLoadBalancersResponse><DescribeLoadBalancersResult><LoadBalancers/></DescribeLoadBalancersResult>'
        '</DescribeLoadBalancersResponse>')


class Script(ThreadingHTTPServer):
    """Answers by a list of (status, body); None closes the connection without a word. The last one is repeated."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers, self.asked = [(200, FINE)], 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A connection that was cut is what the test asked for."""


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        said = self.server.answers[min(self.server.asked, len(self.server.answers) - 1)]
        self.server.asked += 1
        if said is None:
            self.close_connection = True
            return
        self.send_response(said[0])
        self.send_header("Content-Length", str(len(said[1])))
        self.end_headers()
        self.wfile.write(said[1].encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    found = Script()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def heard():
    return []


@pytest.fixture
def slept():
    return []


@pytest.fixture
def api(server, heard, slept):
    settings = parse({"region": "eu-central-1", "endpoint-url": f"http://127.0.0.1:{server.server_port}"})
    return Api(settings, heard.append, Gate(lambda: 0.0), slept.append)


def look(api, **told):
    return api.call("elbv2", "DescribeLoadBalancers", **told)


@pytest.mark.parametrize(("code", "error", "reason"), [
    ("ExpiredToken", CredentialsError, "credentials"),
    ("AccessDenied", CredentialsError, "permission"),
    ("TooManyLoadBalancers", Refused, "quota"),
    ("ValidationError", Refused, "aws-refuses"),
])
def test_an_error_is_translated_by_its_code(api, server, code, error, reason):
    server.answers = [(400, ERROR.format(code, "for arn:aws:iam::1:user/x"))]
    with pytest.raises(error) as told:
        look(api)
    assert told.value.reason == reason
    assert "secret" not in str(told.value)


def test_a_forbidden_write_names_the_action_to_allow(api, server):
    server.answers = [(403, ERROR.format("AccessDenied", "no"))]
    with pytest.raises(Refused, match="elasticloadbalancing:DeleteLoadBalancer"):
        api.call("elbv2", "DeleteLoadBalancer", LoadBalancerArn="x")


def test_a_code_that_the_caller_expects_is_told(api, server):
    server.answers = [(400, ERROR.format("LoadBalancerNotFound", "no"))]
    with pytest.raises(Told) as told:
        look(api, told={"LoadBalancerNotFound"})
    assert told.value.code == "LoadBalancerNotFound"


@pytest.mark.parametrize("bad", [None, (500, ERROR.format("InternalFailure", "oops")), (503, "busy")])
def test_a_call_that_nobody_answered_is_sent_again(api, server, heard, slept, bad):
    server.answers = [bad, (200, FINE)]
    look(api)
    assert server.asked == 2
    assert len([call for call in heard if call.code is None]) == 2
    assert len(slept) == 1


def test_at_most_three_times(api, server, slept):
    server.answers = [None]
    with pytest.raises(Unavailable):
        look(api)
    assert server.asked == 3
    assert sum(slept) < 2


@pytest.mark.parametrize("code", sorted(THROTTLES))
def test_a_throttle_is_not_retried_but_closes_the_gate(api, server, code):
    server.answers = [(400, ERROR.format(code, "Rate exceeded"))]
    for _ in range(3):
        with pytest.raises(Retry):
            look(api)
    assert server.asked == 1


def test_every_call_is_heard_before_and_after(api, heard):
    look(api)
    assert [(call.service, call.operation, call.code) for call in heard] == [
        ("elbv2", "DescribeLoadBalancers", None), ("elbv2", "DescribeLoadBalancers", "ok")]


def test_who_listens_may_stop_a_call_before_it_is_sent(api, server):
    def stop(_call):
        raise Unavailable("cut")
    api._on_call = stop
    with pytest.raises(Unavailable, match="cut"):
        look(api)
    assert server.asked == 0


@pytest.mark.parametrize(("service", "operation", "found"), [
    ("ec2", "CreateSecurityGroup", "ec2 CreateSecurityGroup"),
    ("elbv2", "CreateLoadBalancer", "elbv2 resource-intensive"),
    ("elbv2", "RegisterTargets", "elbv2 registration"),
    ("elbv2", "DescribeTags", "elbv2 describing"),
    ("elbv2", "CreateListener", "elbv2 mutating"),
])
def test_calls_are_sorted_as_aws_throttles_them(service, operation, found):
    assert category(service, operation) == found


def test_importing_the_provider_imports_no_sdk():
    script = "import sys, lbctl_aws; print([m for m in sys.modules if m.startswith(('boto', 'moto', 'tenacity'))])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
