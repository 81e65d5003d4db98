"""Every call of AWS: sent once, counted, held back while AWS is busy, retried only where nobody answered.

The only module of this provider that imports the SDK, and only when the first client is made. Above it there are no
SDK exceptions: errors become lbctl's own by type and code, never by text. The SDK's own retries are off, so that
counted calls are sent calls.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential
from tenacity.nap import sleep as nap

from lbctl.errors import CredentialsError, LbctlError, Refused, Unavailable
from lbctl.gate import Gate, Throttled
from lbctl.provider import Call
from lbctl_aws import machine
from lbctl_aws.settings import Settings, missing

if TYPE_CHECKING:
    from boto3.session import Session

TRIES, SECONDS = 3, 2.0
"""A call that nobody answered is sent at most so often, within so many seconds."""

CONNECT_SECONDS, READ_SECONDS = 3, 20

THROTTLES = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "LimitExceededException", "PriorRequestNotComplete",
    "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown", "ThrottledException",
    "Throttling", "ThrottlingException", "TooManyRequestsException",
})
CREDENTIALS = frozenset({
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId",
    "InvalidClientTokenId", "MissingAuthenticationToken", "OptInRequired", "RequestExpired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})
PERMISSION = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
QUOTAS: Mapping[str, str] = {
    "AddressLimitExceeded": "Elastic IPs",
    "RulesPerSecurityGroupLimitExceeded": "rules per security group",
    "SecurityGroupLimitExceeded": "security groups per VPC",
    "SecurityGroupsPerInterfaceLimitExceeded": "security groups per interface",
    "TagLimitExceeded": "tags per resource",
    "TooManyCertificates": "certificates per load balancer",
    "TooManyListeners": "listeners per load balancer",
    "TooManyLoadBalancers": "load balancers per region",
    "TooManyRegistrationsForTargetId": "target groups per instance",
    "TooManyTags": "tags per resource",
    "TooManyTargetGroups": "target groups per region",
    "TooManyTargets": "targets per load balancer",
    "TooManyUniqueTargetGroupsPerLoadBalancer": "target groups per load balancer",
}
UNCLEAR = frozenset({"InternalError", "InternalFailure", "InternalServiceException", "ServiceUnavailable",
                     "ServiceUnavailableException", "Unavailable"})

RESOURCE_INTENSIVE = frozenset({"CreateLoadBalancer", "DeleteLoadBalancer", "SetSubnets", "SetIpAddressType",
                                "SetSecurityGroups"})
REGISTRATION = frozenset({"RegisterTargets", "DeregisterTargets"})

IAM_PREFIX = {"ec2": "ec2", "elbv2": "elasticloadbalancing", "resourcegroupstaggingapi": "tag"}
"""How IAM calls a service's actions."""

Answer = Mapping[str, Any]


class Told(LbctlError):
    """AWS answered with an error that the caller asked to be told: `code` says which."""

    reason = "told"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _NoAnswer(Exception):
    """Nobody answered, or AWS could not say: the call may or may not have taken effect."""


class Api:
    """The three services of AWS that load balancers need. Safe to use from several threads.

    on_call   told of every call before it is sent and after its outcome is known; whatever it raises goes through
    gate      holds calls back while AWS throttles
    sleep     between tries of a call that nobody answered (seconds)
    """

    def __init__(
        self, settings: Settings, on_call: Callable[[Call], None], gate: Gate, sleep: Callable[[float], None] = nap
    ) -> None:
        self._settings, self._on_call, self._gate = settings, on_call, gate
        self._region = settings.region
        self._retrying = Retrying(
            retry=retry_if_exception_type(_NoAnswer),
            stop=stop_after_attempt(TRIES) | stop_after_delay(SECONDS),
            wait=wait_random_exponential(multiplier=0.1, max=0.5),
            sleep=sleep,
            reraise=True,
        )

    def call(self, service: str, operation: str, /, *, told: Collection[str] = (), **parameters: Any) -> Answer:
        """One call, e.g. `call("elbv2", "CreateLoadBalancer", Name=…)`, and its answer.

        Raises `Told` for the codes in `told`; `Retry` while AWS throttles; `Unavailable` where the outcome is unclear;
        `CredentialsError`; `Refused` for every other no.
        """
        client = self._client(service)
        try:
            return self._retrying.copy()(self._once, client, service, operation, told, parameters)
        except _NoAnswer as error:
            raise Unavailable(f"AWS gave no clear answer to {operation}: lbctl looks again and goes on") from error

    def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> Iterator[Answer]:
        """The items under `key` of all pages of a listing."""
        marker: Mapping[str, Any] = {}
        while True:
            page = self.call(service, operation, **parameters, **marker)
            yield from page.get(key, ())
            following = _next_page(page)
            if not following or following == marker:
                return
            marker = following

    def vpc_of_this_machine(self) -> str:
        """What the instance's metadata says, for where nothing else does; empty if nobody answers."""
        return machine.vpc(machine.endpoint(os.environ))

    def _once(
        self, client: Any, service: str, operation: str, told: Collection[str], parameters: Mapping[str, Any]
    ) -> Answer:
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.parsers import ResponseParserError

        with self._gate.passing(category(service, operation)):
            _line.on_call = self._on_call
            try:
                answer: Answer = getattr(client, xform_name(operation))(**parameters)
            except ClientError as error:
                code, text, status = _said(error)
                if code in THROTTLES:
                    raise Throttled(code) from error
                if code in UNCLEAR or status >= 500:
                    raise _NoAnswer(code) from error
                if code in told:
                    raise Told(code, text) from error
                raise _translated(service, operation, code, text) from error
            except (HTTPClientError, ResponseParserError) as error:
                raise _NoAnswer(type(error).__name__) from error
            except BotoCoreError as error:
                raise _local(error, operation) from error
            return answer

    def _client(self, service: str) -> Any:
        with _making:
            self._region = self._region or _region_of_this_machine()
            if not self._region:
                raise missing("region")
            return _made_client(service, self._region, self._settings.endpoint_url)


class _Line(threading.local):
    """Who is told of this thread's calls, and when its last one was sent."""

    on_call: Callable[[Call], None] | None = None
    sent_at: float | None = None


_line = _Line()
_making = threading.Lock()


@cache
def _made_client(service: str, region: str, endpoint: str) -> Any:
    """One client per process: making one reads megabytes of service description."""
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": 1}, user_agent_extra="lbctl",
    )
    where = {"endpoint_url": endpoint} if endpoint else {}
    client = _session().client(service, region_name=region, config=config, **where, **_credentials(endpoint))  # type: ignore[call-overload]
    name = client.meta.service_model.service_id.hyphenize()
    events = client.meta.events
    events.register(f"before-send.{name}", lambda event_name, **_: _before(service, event_name))
    events.register(f"response-received.{name}", lambda event_name, **more: _after(service, event_name, more))
    return client


def _before(service: str, event_name: str) -> None:
    """botocore's `before-send`: fires for what is sent, and for nothing else."""
    _line.sent_at = None
    if _line.on_call is not None:
        _line.on_call(Call(service, event_name.rpartition(".")[2]))
    _line.sent_at = time.monotonic()


def _after(service: str, event_name: str, more: Mapping[str, Any]) -> None:
    """botocore's `response-received`: an answer, or what came instead of one."""
    if _line.sent_at is None or _line.on_call is None:
        return
    error = (more.get("parsed_response") or {}).get("Error", {})
    exception = more.get("exception")
    code = type(exception).__name__ if exception else str(error.get("Code", "")) or "ok"
    _line.on_call(Call(service, event_name.rpartition(".")[2], code, time.monotonic() - _line.sent_at))


def require_sdk() -> None:
    """Raises ImportError where boto3 is not installed."""
    import boto3  # noqa: F401


def category(service: str, operation: str) -> str:
    """What AWS throttles by: EC2 each action by itself, load balancing by four groups of actions.

    Elastic Load Balancing API throttling; Amazon EC2 API throttling (AWS, developer guides).
    """
    if service != "elbv2":
        return f"{service} {operation}"
    if operation in RESOURCE_INTENSIVE:
        return "elbv2 resource-intensive"
    if operation in REGISTRATION:
        return "elbv2 registration"
    return "elbv2 describing" if operation.startswith("Describe") else "elbv2 mutating"


def _next_page(page: Answer) -> Mapping[str, Any]:
    for there, here in (("NextMarker", "Marker"), ("NextToken", "NextToken"), ("PaginationToken", "PaginationToken")):
        if page.get(there):
            return {here: page[there]}
    return {}


def _said(error: Any) -> tuple[str, str, int]:
    said = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(said.get("Code", "")), str(said.get("Message", "")), int(status)


def _translated(service: str, operation: str, code: str, text: str) -> LbctlError:
    if code in CREDENTIALS:
        return CredentialsError(f"AWS does not accept the credentials ({code}): renew them")
    if code in PERMISSION:
        action = f"{IAM_PREFIX[service]}:{operation}"
        message = f"AWS does not permit {action}: allow it in the role's policy (`lbctl policy aws` prints one)"
        if operation.startswith(("Describe", "Get")):
            return CredentialsError(message, reason="permission")
        return Refused(message, reason="permission")
    if code in QUOTAS:
        return Refused(f"AWS's quota of {QUOTAS[code]} is used up: have it raised, or delete what nobody needs",
                       reason="quota")
    return Refused(f"AWS refuses {operation} ({code}): {text[:300]}", reason="aws-refuses")


def _local(error: Any, operation: str) -> LbctlError:
    """The SDK itself says no, before anything was sent."""
    from botocore import exceptions as sdk

    if isinstance(error, (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError,
                          sdk.TokenRetrievalError, sdk.SSOError, sdk.ProfileNotFound)):
        return CredentialsError("no AWS credentials were found: give lbctl a role (IRSA, Pod Identity, an instance "
                                "profile), or set AWS_PROFILE")
    return LbctlError(f"the AWS SDK cannot send {operation}: {type(error).__name__}", reason="sdk")


def _credentials(endpoint: str) -> dict[str, str]:
    """A stand-in on this machine never sees real credentials."""
    host = endpoint.partition("//")[2].partition("/")[0].rpartition(":")[0]
    if host in ("127.0.0.1", "localhost", "[::1]"):
        return {"aws_access_key_id": "stand-in", "aws_secret_access_key": "stand-in"}
    return {}


@cache
def _session() -> "Session":
    """One for the process: it reads the SDK's descriptions of the services once (EC2's alone is 1.5 MB)."""
    import boto3

    return boto3.session.Session()


def _region_of_this_machine() -> str:
    """The last resort: what the SDK's configuration or the instance's metadata says. Empty if nobody does."""
    return str(_session().region_name or "") or machine.region(machine.endpoint(os.environ))
