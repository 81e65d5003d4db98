"""How much memory a controller of AWS needs, at 100 and 10,000 Services: ruling figures, peak of the whole process.

The controller is a process of its own: JSON of Services decoded into stores, read, and looked at through the real SDK
over HTTP. AWS is another process that plays 10,000 Services back as AWS would page them: making so many first would
take a quarter of an hour. What it plays is what `desired` says, so the plan that ends the look must be empty; then come
an audit that reads all that AWS tells one at a time, and a thousand events. `growth` measures a process that creates.
"""

import json
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from lbctl.kube import objects
from lbctl.kube.source import StoreSource, stores
from lbctl.model import LoadBalancer, Owner, Resource, resolve
from lbctl.provider import Harness, Observation, Scope
from tests.bench.goal import Measured
from tests.bench.plans import cpu, service

CLUSTER, REGION, VPC, GROUP = "bench", "eu-central-1", "vpc-0b", "sg-0a0de5"
NODES = 100
INSTANCES = tuple(f"i-{number:017x}" for number in range(NODES))
ATTRIBUTES = ("DescribeLoadBalancerAttributes", "DescribeTargetGroupAttributes", "DescribeListenerAttributes")
ARN = f"arn:aws:elasticloadbalancing:{REGION}:123456789012:"


def measure() -> Iterator[Measured]:
    for size, goal in ((100, 120.0), (10_000, 200.0)):
        said = _measured(size)
        yield Measured(f"AWS: peak memory, {size:,} Services", goal, said["memory"], "MiB")
        yield Measured(f"AWS: full plan, {size:,} Services, read before", 2.0, said["plan"], "s of CPU")
        yield Measured(f"AWS: one event among {size:,} Services", 5.0, said["event"], "ms of CPU")


def _measured(size: int) -> dict[str, float]:
    me = [sys.executable, "-m", "tests.bench.aws_memory"]
    with subprocess.Popen([*me, "play", str(size)], stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout is not None
            endpoint = cloud.stdout.readline().strip()
            ran = subprocess.run([*me, "control", str(size), endpoint], check=True, stdout=subprocess.PIPE, text=True)
        finally:
            cloud.terminate()
    said: dict[str, float] = json.loads(ran.stdout)
    return said


def source(size: int) -> StoreSource:
    """So many Services and a hundred nodes, decoded from what the API server sends."""
    filled = stores()
    decoder = objects.decoder(objects.Service)
    decoded = (objects.decode(service(number), decoder) for number in range(size))
    filled.services.replace((item for item in decoded if isinstance(item, objects.Service)), str(size))
    nodes = [
        objects.Node(objects.Metadata(name=f"n{number}"), objects.NodeSpec(provider_id=f"aws:///{REGION}a/{instance}"))
        for number, instance in enumerate(INSTANCES)
    ]
    filled.nodes.replace(nodes, "1")
    return StoreSource(filled, provider="aws", default_provider="aws")


def read(size: int) -> list[LoadBalancer]:
    chosen = source(size)
    return [found for owner in chosen.owners() if (found := chosen.read(owner)) is not None]


def now() -> datetime:
    return datetime.now(UTC)


# -- the controller --------------------------------------------------------------------------------------------------


def control(size: int, endpoint: str) -> dict[str, float]:
    """A start, an audit that reads everything again, and a thousand events; the process's peak."""
    from lbctl import plugins
    from lbctl.policy import Policy
    from lbctl.reconcile import Reconciler
    from lbctl.stack import Stack
    from lbctl.wanted import Wanted

    settings = {"region": REGION, "vpc-id": VPC, "endpoint-url": endpoint, "audit-budget": "1000000"}
    clock = [now()]
    provider = plugins.plugin("aws").make(Harness(settings, CLUSTER, now=now))
    path = Reconciler(Stack(provider), Wanted(provider.shares), Policy(), now=lambda: clock[0])
    for found in read(size):
        path.wanted.put(found)
    for _ in range(2):
        plan = path.plan()
        assert plan.empty, plan.changes[0]
        clock[0] += timedelta(hours=1)
    warm = min(cpu(lambda: path.plan(fresh=False)) for _ in range(3))
    one = frozenset({Owner("ns1/s1")})
    event = cpu(lambda: [path.plan(one, fresh=False) for _ in range(1000)]) / 1000
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"memory": memory, "plan": warm, "event": event * 1000}


# -- the cloud -------------------------------------------------------------------------------------------------------


class Pages:
    """What AWS holds for so many Services, as it would say it."""

    def __init__(self, size: int) -> None:
        made = _resources(size)
        self.by_kind: dict[str, list[Resource]] = defaultdict(list)
        for found in made:
            self.by_kind[found.kind].append(found)
        self.by_arn = {found.outputs["arn"]: found for found in made if "arn" in found.outputs}
        self.answers: Mapping[str, Callable[[dict[str, str]], str]] = {
            "DescribeLoadBalancers": lambda asked: self._paged(asked, "LoadBalancers", "load-balancer", _balancer),
            "DescribeTargetGroups": lambda asked: self._paged(asked, "TargetGroups", "target-group", _target_group),
            "DescribeTargetHealth": self._health,
            **{name: partial(_attributes, name) for name in ATTRIBUTES},
            "DescribeListeners": self._listeners,
            "DescribeSecurityGroups": self._security_groups,
            "DescribeInstances": lambda _asked: _ec2("DescribeInstances", "reservationSet", map(_instance, INSTANCES)),
            "DescribeSubnets": lambda _asked: _ec2("DescribeSubnets", "subnetSet", [_SUBNET]),
            "DescribeRouteTables": lambda _asked: _ec2("DescribeRouteTables", "routeTableSet", []),
        }

    def _paged(self, asked: dict[str, str], key: str, kind: str, say: Callable[[Resource], Any]) -> str:
        start, size = int(asked.get("Marker", "0")), int(asked["PageSize"])
        found = self.by_kind[kind]
        following = {"NextMarker": str(start + size)} if start + size < len(found) else {}
        return _elb(f"Describe{key}", {key: [say(r) for r in found[start : start + size]], **following})

    def _health(self, asked: dict[str, str]) -> str:
        group = self.by_arn[asked["TargetGroupArn"]]
        port = str(group.fields["port"])
        said = [{"Target": {"Id": target, "Port": port}, "TargetHealth": {"State": "healthy"}}
                for target in group.fields["targets"]]  # fmt: skip
        return _elb("DescribeTargetHealth", {"TargetHealthDescriptions": said})

    def _listeners(self, asked: dict[str, str]) -> str:
        arns = [value for key, value in asked.items() if key.startswith("ListenerArns.member.")]
        return _elb("DescribeListeners", {"Listeners": [_listener(self.by_arn[arn]) for arn in arns]})

    def _security_groups(self, asked: dict[str, str]) -> str:
        start, size = int(asked.get("NextToken", "0")), int(asked["MaxResults"])
        ours = [*self.by_kind["security-group"], *self.by_kind["backend-group"]]
        nodes = [_node_group(self.by_kind["node-rule"])] if start == 0 else []
        token = f"<nextToken>{start + size}</nextToken>" if start + size < len(ours) else ""
        groups = [*nodes, *map(_security_group, ours[start : start + size])]
        return _ec2("DescribeSecurityGroups", "securityGroupInfo", groups, token)

    def tag_index(self, asked: Mapping[str, Any]) -> str:
        start, size = int(asked.get("PaginationToken") or 0), int(asked["ResourcesPerPage"])
        found = list(self.by_arn.items())
        page = [{"ResourceARN": arn, "Tags": _pairs(r.fields["tags"])} for arn, r in found[start : start + size]]
        following = str(start + size) if start + size < len(found) else ""
        return json.dumps({"ResourceTagMappingList": page, "PaginationToken": following})


def _resources(size: int) -> list[Resource]:
    """What `desired` says of these Services, with the ids that AWS would have given."""
    from lbctl_aws.desired import desired
    from lbctl_aws.facts import Facts, Instance, Subnet
    from lbctl_aws.marks import Mark
    from lbctl_aws.resources import Context, shares
    from lbctl_aws.settings import Settings

    settings = Settings(region=REGION, vpc_id=VPC)
    instances = {name: Instance(name, VPC, "running", (GROUP,)) for name in INSTANCES}
    subnet = Subnet("subnet-0a", f"{REGION}a", free=200, tags={"kubernetes.io/role/elb": "1"})
    facts = Facts(VPC, (subnet,), instances)
    wanted = read(size)
    counted = {share: 1 for lb in wanted for share in shares(lb, settings)}
    seen = Observation(Scope(at=now(), shares=counted))
    said = desired(wanted, seen, Context(settings, Mark(CLUSTER), facts)).resources
    outputs = {found.key: _outputs(number, found) for number, found in enumerate(said)}
    return [
        Resource(r.kind, r.name, r.owner, resolve(r.fields, outputs), outputs[r.key]) for r in said
    ]  # fmt: skip


def _outputs(number: int, found: Resource) -> dict[str, str]:
    match found.kind:
        case "security-group" | "backend-group":
            return {"id": f"sg-{number:017x}"}
        case "load-balancer":
            host = f"{found.name}-{number:016x}.elb.{REGION}.amazonaws.com"
            return {"arn": f"{ARN}loadbalancer/net/{found.name}/{number:016x}", "hostname": host}
        case "target-group":
            return {"arn": f"{ARN}targetgroup/{found.name}/{number:016x}"}
        case "listener":
            return {"arn": f"{ARN}listener/net/{found.name.replace(':', '/')}/{number:016x}"}
    return {}


def _balancer(found: Resource) -> dict[str, Any]:
    fields = found.fields
    zones = [{"ZoneName": f"{REGION}a", "SubnetId": subnet} for subnet in fields["subnets"]]
    return {
        "LoadBalancerArn": found.outputs["arn"], "LoadBalancerName": found.name, "DNSName": found.outputs["hostname"],
        "CanonicalHostedZoneId": "Z3F0SRJ5LGBH90", "CreatedTime": "2026-01-01T00:00:00.000Z", "Type": "network",
        "Scheme": fields["scheme"], "VpcId": VPC, "State": {"Code": "active"}, "IpAddressType": "ipv4",
        "AvailabilityZones": zones, "SecurityGroups": [*fields["security_groups"], fields["backend_group"]],
    }  # fmt: skip


def _target_group(found: Resource) -> dict[str, Any]:
    fields, check = found.fields, found.fields["health_check"]
    return {
        "TargetGroupArn": found.outputs["arn"], "TargetGroupName": found.name, "Protocol": fields["protocol"],
        "Port": str(fields["port"]), "VpcId": VPC, "TargetType": "instance", "IpAddressType": "ipv4",
        "HealthCheckProtocol": check["protocol"], "HealthCheckPort": check["port"], "HealthCheckEnabled": "true",
        "HealthCheckIntervalSeconds": str(check["interval"]), "HealthCheckTimeoutSeconds": str(check["timeout"]),
        "HealthyThresholdCount": str(check["healthy"]), "UnhealthyThresholdCount": str(check["unhealthy"]),
    }  # fmt: skip


def _attributes(operation: str, _asked: Mapping[str, str]) -> str:
    """Nothing but defaults."""
    return _elb(operation, {"Attributes": []})


def _listener(found: Resource) -> dict[str, Any]:
    fields = found.fields
    forward = {"Type": "forward", "TargetGroupArn": fields["target_group"]}
    return {
        "ListenerArn": found.outputs["arn"], "LoadBalancerArn": fields["load_balancer"], "Port": str(fields["port"]),
        "Protocol": fields["protocol"], "DefaultActions": [forward],
    }  # fmt: skip


def _security_group(found: Resource) -> str:
    pairs = found.fields["tags"].items()
    tags = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in pairs)
    rules = "".join(
        _permission(protocol, port, port, f"<ipRanges><item><cidrIp>{cidr}</cidrIp></item></ipRanges>")
        for protocol, port, cidr in (rule.split(":") for rule in found.fields.get("rules", ()))
    )
    return (
        f"<groupId>{found.outputs['id']}</groupId><groupName>{found.name}</groupName><vpcId>{VPC}</vpcId>"
        f"<ipPermissions>{rules}</ipPermissions><tagSet>{tags}</tagSet>"
    )


def _node_group(rules: Sequence[Resource]) -> str:
    """The nodes' own group, with the rules that let ours in."""
    said = "".join(
        _permission(r.fields["protocol"], r.fields["from_port"], r.fields["to_port"],
                    f"<groups><item><groupId>{r.fields['source']}</groupId></item></groups>")
        for r in rules
    )  # fmt: skip
    return (
        f"<groupId>{GROUP}</groupId><groupName>nodes</groupName><vpcId>{VPC}</vpcId>"
        f"<ipPermissions>{said}</ipPermissions>"
    )


def _permission(protocol: str, first: object, last: object, sources: str) -> str:
    ports = f"<ipProtocol>{protocol}</ipProtocol><fromPort>{first}</fromPort><toPort>{last}</toPort>"
    return f"<item>{ports}{sources}</item>"


def _instance(name: str) -> str:
    group = f"<groupSet><item><groupId>{GROUP}</groupId></item></groupSet>"
    return (
        f"<instancesSet><item><instanceId>{name}</instanceId><vpcId>{VPC}</vpcId><instanceState><name>running</name>"
        f"</instanceState>{group}</item></instancesSet>"
    )


_SUBNET = (
    f"<subnetId>subnet-0a</subnetId><vpcId>{VPC}</vpcId><availabilityZone>{REGION}a</availabilityZone>"
    "<cidrBlock>10.0.0.0/16</cidrBlock><availableIpAddressCount>200</availableIpAddressCount>"
    "<tagSet><item><key>kubernetes.io/role/elb</key><value>1</value></item></tagSet>"
)


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _elb(operation: str, said: Mapping[str, Any]) -> str:
    return f"<{operation}Response><{operation}Result>{_xml(said)}</{operation}Result></{operation}Response>"


def _ec2(operation: str, key: str, items: Iterator[str] | Sequence[str], more: str = "") -> str:
    inside = "".join(f"<item>{item}</item>" for item in items)
    return f"<{operation}Response><{key}>{inside}</{key}>{more}</{operation}Response>"


def _xml(said: Any) -> str:
    if isinstance(said, Mapping):
        return "".join(f"<{key}>{_xml(value)}</{key}>" for key, value in said.items())
    if isinstance(said, list):
        return "".join(f"<member>{_xml(item)}</member>" for item in said)
    return escape(said)


class Handler(BaseHTTPRequestHandler):
    """Answers from `pages`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    pages: Pages

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "GetResources" in self.headers.get("X-Amz-Target", ""):
            return self._say(self.pages.tag_index(json.loads(body)), "application/x-amz-json-1.1")
        asked = dict(parse_qsl(body.decode()))
        return self._say(self.pages.answers[asked["Action"]](asked), "text/xml")

    def _say(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """One line per request would drown the table."""


def play(size: int) -> None:
    """Answer until terminated; the first line of output is the address."""
    Handler.pages = Pages(size)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "play":
        play(int(sys.argv[2]))
    else:
        print(json.dumps(control(int(sys.argv[2]), sys.argv[3])))
