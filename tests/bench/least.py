"""The least that a controller of lbctl's make could take: begin, list, PATCH every status. No plan, no watch, no Event.

    python -m tests.bench.least KUBECONFIG NAMESPACE

`ipam` shows it beside the bare loop, whose process is there already when its clock starts.
"""

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address

import msgspec

from lbctl.kube.claims import UNWARNED
from lbctl.kube.client import STRATEGIC, Client, Patch
from lbctl.kube.objects import SERVICES, Bare, ListEnvelope
from lbctl.kube.status import AT_ONCE
from tests.bench import pool


def main(kubeconfig: str, namespace: str) -> None:
    """Raises the first error that the API server answers with."""
    client = Client.from_config(kubeconfig, component="least")
    listed = msgspec.json.decode(client.get(SERVICES.path(namespace), {"resourceVersion": "0"}), type=ListEnvelope)
    for _number, answer in client.patch_all(_patches(listed), AT_ONCE):
        if isinstance(answer, Exception):
            raise answer


def _patches(listed: ListEnvelope) -> Iterator[Patch]:
    for number, raw in enumerate(listed.items or ()):
        metadata = msgspec.json.decode(raw, type=Bare).metadata
        body = {"status": {"loadBalancer": {"ingress": [{"ip": str(IPv4Address(pool.FIRST + number))}]}}}
        path = SERVICES.path(metadata["namespace"], metadata["name"], "status")
        yield Patch(f"{path}?{UNWARNED}", body, STRATEGIC)


if __name__ == "__main__":
    main(*sys.argv[1:])
