"""What the machine says: region and VPC of the EC2 instance that lbctl runs on. The last to be asked.

`api.py` asks where no setting, node or SDK configuration tells. Instance Metadata Service, version 2 only (EC2 user
guide, "Access instance metadata"): a token first, then one plain answer per path. No SDK: botocore asks for the region
alone, and reads no endpoint while it does.
"""

from collections.abc import Mapping
from http.client import HTTPException
from urllib.request import ProxyHandler, Request, build_opener

ENDPOINTS = {"": "http://169.254.169.254", "ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
SECONDS = 1.0
"""How long an answer may take. Outside EC2, and in pods behind a hop limit of 1, there is none."""

TOKEN, LIFETIME = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"


def endpoint(environ: Mapping[str, str]) -> str:
    """Where the metadata is, in the words that the SDKs know; empty where it is switched off."""
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return ""
    mode = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower()
    return environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINTS.get(mode, ENDPOINTS[""])


def region(where: str) -> str:
    """The machine's region; empty where nobody answers."""
    return _told(where, "placement/region")


def vpc(where: str) -> str:
    """The VPC of the machine's first interface; empty where nobody answers."""
    mac = _told(where, "mac")
    return _told(where, f"network/interfaces/macs/{mac}/vpc-id") if mac else ""


def _told(where: str, path: str) -> str:
    if not where:
        return ""
    base = where.rstrip("/")
    try:
        token = _said(Request(f"{base}/latest/api/token", headers={LIFETIME: "60"}, method="PUT"))
        return _said(Request(f"{base}/latest/meta-data/{path}", headers={TOKEN: token}))
    except (OSError, HTTPException):
        # Nobody there, or not for us: then the setting has to be given, and the error says how.
        return ""


def _said(request: Request) -> str:
    """A proxy has another machine's metadata."""
    with build_opener(ProxyHandler({})).open(request, timeout=SECONDS) as answer:
        said: bytes = answer.read(1024)
    return said.decode("ascii", "replace").strip()
