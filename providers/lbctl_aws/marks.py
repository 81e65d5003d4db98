"""Tags that say whose a resource is: ours alone by tags, never by name.  PURE.

AWS's tags are the state; there is no state file. `lbctl.io/cluster` and `lbctl.io/owner` make a resource ours,
`lbctl.io/installation` tells a copied cluster from its original, `lbctl.io/uid` a Service from its successor.
"""

import re
from collections.abc import Mapping

import msgspec

from lbctl.errors import Refused
from lbctl.model import Owner

CLUSTER, OWNER, INSTALLATION, UID = "lbctl.io/cluster", "lbctl.io/owner", "lbctl.io/installation", "lbctl.io/uid"

DETAILS = "lbctl.io/details"
"""On what has attributes or certificates beside AWS's defaults, so that a cold start knows where to look."""

RESERVED = (
    "lbctl.io/", "aws:", "kubernetes.io/cluster/", "kubernetes.io/service-name", "kubernetescluster",
    "kubernetes.io/role/", "elbv2.k8s.aws/", "service.k8s.aws/", "ingress.k8s.aws/",
)
"""How the keys begin that belong to us, to AWS or to a peer (in lower case)."""

MOST_TAGS = 50
"""Tags that a resource may carry (AWS, Tag restrictions)."""


class Mark(msgspec.Struct, frozen=True):
    """Whose cluster this is. `take_over` makes another installation's resources ours."""

    cluster_id: str
    installation_id: str = ""
    take_over: bool = False

    def tags(self, owner: Owner, uid: str = "") -> dict[str, str]:
        """What a resource of this owner must carry."""
        said = {CLUSTER: self.cluster_id, OWNER: owner, INSTALLATION: self.installation_id, UID: uid}
        return {key: value for key, value in said.items() if value}

    def is_ours(self, tags: Mapping[str, str]) -> bool:
        return self.why_not(tags) == ""

    def why_not(self, tags: Mapping[str, str]) -> str:
        """Empty if it is ours; else a reason token."""
        if tags.get(CLUSTER) != self.cluster_id or not tags.get(OWNER):
            return "ownership-lost" if any(key.startswith("lbctl.io/") for key in tags) else "not-ours"
        theirs = tags.get(INSTALLATION, "")
        if self.installation_id and theirs not in ("", self.installation_id) and not self.take_over:
            return "other-installation"
        return ""


def check_user_tags(tags: Mapping[str, str]) -> None:
    """Raises `Refused` for a tag that would pose as somebody's mark, or that AWS does not take."""
    for key, value in tags.items():
        if key.lower().startswith(RESERVED):
            raise Refused(f"tag {key[:80]!r} is reserved: choose a key of your own", reason="reserved-tag")
        if len(key) > 128 or len(value) > 256 or not re.fullmatch(r"[\w\s+\-=.:/@]*", key + value):
            raise Refused(
                f"tag {key[:80]!r}={value[:80]!r} is not one that AWS takes: at most 128 and 256 letters, digits, "
                f"spaces and + - = . _ : / @", reason="bad-tag",
            )
    if len(tags) > MOST_TAGS - 5:
        raise Refused(f"{len(tags)} tags are more than AWS takes: remove some", reason="bad-tag")
