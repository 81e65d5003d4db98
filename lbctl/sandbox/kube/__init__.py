"""The sandbox's Kubernetes API: HTTP on loopback, state in memory, good enough for `kubectl` and the official client.

A stand-in for tests, the demo and `lbctl sandbox`; no part of the controller imports it. It answers as kube-apiserver
does, in codes, reasons, messages and columns; what it leaves out it refuses with the API's own status. Where it differs
from the real one, it is wrong. Ways in: `KubeSandbox`, and `Fault` for what should go wrong.

    store    objects, resourceVersions, history          kinds     what is served        schema   fields and their types
    verbs    create, update, patch, delete, list, watch  services  a Service's rules     crds     kinds made at run time
    tables   kubectl's columns                           faults    what goes wrong      patch   the three patches
    server   HTTP (the only one that imports aiohttp)    discovery /api, /apis, /openapi wire    bytes and calls
"""

from lbctl.sandbox.kube.faults import Fault, Faults, Recorded
from lbctl.sandbox.kube.sandbox import KubeSandbox

__all__ = ["Fault", "Faults", "KubeSandbox", "Recorded"]
