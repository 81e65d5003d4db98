"""What the sandbox serves: the built-in kinds, and those that CustomResourceDefinitions add while it runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

EVERY_VERB = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One resource in one version, and how its registry treats it (the strategies in kubernetes/pkg/registry)."""

    group: str
    version: str
    plural: str
    kind: str
    singular: str = ""
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = EVERY_VERB
    model: str = ""
    """The official client's class for it; empty for custom resources."""
    create_on_update: bool = False
    """A PUT to a name that does not exist creates it."""
    unconditional: bool = True
    """An update without resourceVersion is taken."""
    generation: bool = False
    """metadata.generation counts changes of the spec."""
    returns_deleted: bool = False
    """DELETE answers with the object, where others answer with a Status."""
    label_names: bool = False
    """Names are DNS-1123 labels, where others' are subdomains."""
    selectable: tuple[str, ...] = ()
    """Field selectors beside metadata.name and metadata.namespace."""
    custom: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Mapping[str, Any], ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The name that all versions share: `services`, `pools.lbctl.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def path(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    @property
    def prefix(self) -> bytes:
        """How each object's JSON begins; the store keeps what follows."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()


_EVENT_FIELDS = (
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
    "reason", "reportingComponent", "source", "type",
)  # fmt: skip

CRD = Kind(
    group="apiextensions.k8s.io", version="v1", plural="customresourcedefinitions", kind="CustomResourceDefinition",
    namespaced=False, short=("crd", "crds"), categories=("api-extensions",), subresources=("status",),
    model="V1CustomResourceDefinition", unconditional=False, generation=True,
)  # fmt: skip
NAMESPACE = Kind(
    group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False, short=("ns",),
    subresources=("status",), model="V1Namespace", selectable=("status.phase",), label_names=True,
)  # fmt: skip
SERVICE = Kind(
    group="", version="v1", plural="services", kind="Service", short=("svc",), categories=("all",),
    subresources=("status",), model="V1Service", create_on_update=True, returns_deleted=True,
    selectable=("spec.clusterIP", "spec.type"),
)  # fmt: skip
NODE = Kind(
    group="", version="v1", plural="nodes", kind="Node", namespaced=False, short=("no",), subresources=("status",),
    model="V1Node", selectable=("spec.unschedulable",),
)  # fmt: skip
REVIEW = Kind(
    group="authorization.k8s.io", version="v1", plural="selfsubjectaccessreviews", kind="SelfSubjectAccessReview",
    namespaced=False, verbs=("create",), model="V1SelfSubjectAccessReview",
)  # fmt: skip

# fmt: off
BUILT_IN = (
    NAMESPACE,
    SERVICE,
    NODE,
    Kind(group="", version="v1", plural="configmaps", kind="ConfigMap", short=("cm",), model="V1ConfigMap"),
    Kind(group="", version="v1", plural="secrets", kind="Secret", model="V1Secret", selectable=("type",)),
    Kind(
        group="", version="v1", plural="serviceaccounts", kind="ServiceAccount", short=("sa",),
        model="V1ServiceAccount", returns_deleted=True,
    ),
    Kind(
        group="", version="v1", plural="pods", kind="Pod", short=("po",), categories=("all",),
        subresources=("status",), model="V1Pod", returns_deleted=True,
        selectable=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
                    "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"),
    ),
    Kind(
        group="", version="v1", plural="endpoints", singular="endpoints", kind="Endpoints", short=("ep",),
        model="V1Endpoints", create_on_update=True,
    ),
    Kind(
        group="", version="v1", plural="events", kind="Event", short=("ev",), model="CoreV1Event",
        create_on_update=True, selectable=_EVENT_FIELDS,
    ),
    Kind(
        group="coordination.k8s.io", version="v1", plural="leases", kind="Lease", model="V1Lease",
        create_on_update=True, unconditional=False,
    ),
    Kind(
        group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice",
        model="V1EndpointSlice", generation=True,
    ),
    REVIEW,
    CRD,
)
# fmt: on


class Kinds:
    """Everything served now, found by its place in a URL."""

    def __init__(self) -> None:
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in BUILT_IN}

    def __iter__(self) -> Iterator[Kind]:
        return iter(tuple(self._kinds.values()))

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def replace(self, group: str, plural: str, versions: tuple[Kind, ...]) -> None:
        """Serve a custom resource in these versions and no others."""
        kept = {place: kind for place, kind in self._kinds.items() if (place[0], place[2]) != (group, plural)}
        self._kinds = kept | {(kind.group, kind.version, kind.plural): kind for kind in versions}
