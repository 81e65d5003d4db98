"""The least that a controller of lbctl's make could take: begin, list, watch, and PATCH an address and two conditions
into every status. It plans nothing, remembers nothing, logs nothing, and does not even read what its watch says.

    python -m tests.bench.least KUBECONFIG NAMESPACE

`ipam` shows it beside the bare loop, whose process is there already when its clock starts, which watches nothing (whose
clock is stopped by the bench's own watch, as all are) and writes nothing but an address.
"""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any

import msgspec

from lbctl.kube.claims import UNWARNED
from lbctl.kube.client import STRATEGIC, Client, Patch
from lbctl.kube.conditions import stamp
from lbctl.kube.objects import SERVICES, Bare, ListEnvelope
from lbctl.kube.status import AT_ONCE
from tests.bench import pool

SAID = (
    ("lbctl.io/Ready", "True", "ready", "the load balancer is ready"),
    ("lbctl.io/Serving", "False", "no-nodes", "no node may receive traffic: see kubectl get nodes"),
)
"""What lbctl says of every Service in a cluster without nodes."""

PAGE = "500"


def main(kubeconfig: str, namespace: str) -> None:
    """Raises the first error that the API server answers with."""
    client = Client.from_config(kubeconfig, component="least")
    listed = list(_list(client, namespace))
    asked = {"watch": "true", "resourceVersion": listed[-1].metadata.resource_version}
    watch = client.stream(SERVICES.path(), asked, 600.0)
    threading.Thread(target=deque, args=(watch, 0), daemon=True).start()
    for _number, answer in client.patch_all(_patches(listed), AT_ONCE):
        if isinstance(answer, Exception):
            raise answer


def _list(client: Client, namespace: str) -> Iterator[ListEnvelope]:
    more = ""
    while True:
        raw = client.get(SERVICES.path(namespace), {"limit": PAGE} | ({"continue": more} if more else {}))
        page = msgspec.json.decode(raw, type=ListEnvelope)
        yield page
        if not (more := page.metadata.continue_):
            return


def _patches(listed: list[ListEnvelope]) -> Iterator[Patch]:
    conditions = [_condition(*said) for said in SAID]
    for number, raw in enumerate(item for page in listed for item in page.items or ()):
        metadata = msgspec.json.decode(raw, type=Bare).metadata
        ingress = {"ip": str(IPv4Address(pool.FIRST + number)), "ipMode": "VIP"}
        status = {"loadBalancer": {"ingress": [ingress]}, "conditions": conditions}
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
        path = SERVICES.path(metadata["namespace"], metadata["name"], "status")
        yield Patch(f"{path}?{UNWARNED}", body, STRATEGIC)


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    since = stamp(datetime.now(UTC))
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


if __name__ == "__main__":
    main(*sys.argv[1:])
