"""Where region and VPC come from when nobody gives them: nodes, then the machine's own metadata (IMDSv2, real HTTP)."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lbctl.daemon import make_provider
from lbctl.errors import SettingsError
from lbctl.model import Node
from lbctl.provider import Harness
from lbctl.testing import driver
from lbctl_aws import api, machine, plugin

MAC = "02:29:96:8f:6a:2d"


class Metadata(ThreadingHTTPServer):
    """The Instance Metadata Service, version 2: nothing is told without a token."""

    daemon_threads = True

    def __init__(self, region, vpc):
        super().__init__(("127.0.0.1", 0), Telling)
        self.told = {"placement/region": region, "mac": MAC, f"network/interfaces/macs/{MAC}/vpc-id": vpc}
        self.asked = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Telling(BaseHTTPRequestHandler):
    def do_PUT(self):  # noqa: N802
        fine = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._say(200 if fine else 400, "a-token")

    def do_GET(self):  # noqa: N802
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            return self._say(401, "")
        path = self.path.removeprefix("/latest/meta-data/")
        self.server.asked.append(path)
        said = self.server.told.get(path)
        return self._say(200 if said else 404, said or "")

    def _say(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata(aws, monkeypatch, tmp_path):
    """A machine in the stand-in's VPC, with nothing in the environment or the SDK's files."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = Metadata(aws.standin.region, aws.standin.vpc)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", found.address)
    api._session.cache_clear()
    yield found
    found.shutdown()
    found.server_close()
    api._session.cache_clear()


def provider(aws, nodes, **settings):
    """Made as the controller makes it, with the stand-in's address and nothing else."""
    given = {"endpoint-url": aws.standin.endpoint, "cluster-name": "sandbox", **settings}
    return make_provider(plugin, Harness(given, "laws", on_call=aws.wire), nodes)


def serve(aws, made, *lbs):
    """One pass, changes included."""
    driver.carry_out(made, driver.plan(made, lbs, at=aws.now))


def balancers(aws):
    return [(b["VpcId"], b["Scheme"]) for b in aws.client().describe_load_balancers()["LoadBalancers"]]


def bare(nodes):
    """Nodes that tell their instance and nothing else."""
    return tuple(Node(node.name, node.provider_id.rpartition("/")[2]) for node in nodes)


def test_nodes_tell_both_and_the_machine_is_not_asked(aws, metadata):
    nodes = aws.standin.nodes(2)
    serve(aws, provider(aws, nodes), aws.service(nodes=nodes))
    assert balancers(aws) == [(aws.standin.vpc, "internet-facing")]
    assert metadata.asked == []


def test_the_machine_tells_the_region_where_nodes_do_not(aws, metadata):
    nodes = bare(aws.standin.nodes(2))
    serve(aws, provider(aws, nodes), aws.service(nodes=nodes))
    assert balancers(aws) == [(aws.standin.vpc, "internet-facing")]
    assert metadata.asked == ["placement/region"]


def test_the_machine_tells_the_vpc_where_there_are_no_nodes_yet(aws, metadata):
    alone = aws.service(nodes=(Node("not-registered-yet"),))
    serve(aws, provider(aws, ()), alone)
    assert balancers(aws) == [(aws.standin.vpc, "internet-facing")]
    assert metadata.asked == ["mac", f"network/interfaces/macs/{MAC}/vpc-id", "placement/region"]


def test_the_nodes_vpc_counts_not_the_machines(aws, metadata):
    metadata.told[f"network/interfaces/macs/{MAC}/vpc-id"] = "vpc-0e15e"
    nodes = aws.standin.nodes(2)
    serve(aws, provider(aws, nodes), aws.service(nodes=nodes))
    assert balancers(aws) == [(aws.standin.vpc, "internet-facing")]


def test_a_region_that_the_sdk_is_configured_with_comes_before_the_machines(aws, metadata, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", aws.standin.region)
    api._session.cache_clear()
    metadata.told["placement/region"] = "sa-east-1"
    nodes = bare(aws.standin.nodes(2))
    provider(aws, nodes).observe(driver.scope(aws.provider, [aws.service(nodes=nodes)], at=aws.now))
    assert metadata.asked == []


@pytest.mark.parametrize(("missing", "named"), [("placement/region", "region"), ("mac", "vpc-id")])
def test_what_nobody_tells_is_an_error_that_names_the_ways(aws, metadata, missing, named):
    del metadata.told[missing]
    with pytest.raises(SettingsError, match=f"--aws-{named}"):
        serve(aws, provider(aws, ()), aws.service(nodes=(Node("n"),)))


def test_metadata_that_is_switched_off_is_not_asked(aws, metadata, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SettingsError):
        serve(aws, provider(aws, ()), aws.service(nodes=(Node("n"),)))
    assert metadata.asked == []


def test_where_nobody_answers_nothing_is_told():
    assert machine.region("http://127.0.0.1:9") == machine.vpc("http://127.0.0.1:9") == ""


@pytest.mark.parametrize(("environ", "where"), [
    ({}, "http://169.254.169.254"),
    ({"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, "http://[fd00:ec2::254]"),
    ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1338/"}, "http://127.0.0.1:1338/"),
    ({"AWS_EC2_METADATA_DISABLED": "true", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1338/"}, ""),
])
def test_the_endpoint_is_said_in_the_sdks_words(environ, where):
    assert machine.endpoint(environ) == where
