"""AWS for lbctl: Network Load Balancers that send traffic to the nodes' instances.

`plugin` is the entry point. Importing this package imports no SDK; `make` does, through `api.py`.
"""

import time

from lbctl.provider import Harness, Plugin, Provider
from lbctl_aws.annotations import PRIVILEGED
from lbctl_aws.settings import SETTINGS, discover


def make(harness: Harness) -> Provider:
    """The provider. Raises `SettingsError` for settings that cannot be read, ImportError without boto3."""
    from lbctl.gate import Gate
    from lbctl_aws.api import Api, require_sdk
    from lbctl_aws.provider import AwsProvider
    from lbctl_aws.settings import parse

    settings = parse(harness.settings)
    require_sdk()
    return AwsProvider(harness, Api(settings, harness.on_call, Gate(time.monotonic)))


def preview(harness: Harness) -> tuple[Provider, tuple[str, ...]]:
    """A provider that asks nobody, and what it assumes. Raises `SettingsError` for settings that cannot be read."""
    from lbctl_aws.preview import AwsPreview

    made = AwsPreview(harness)
    return made, made.assumptions()


plugin = Plugin(
    name="aws", make=make, preview=preview, settings=SETTINGS, discover=discover, privileged=PRIVILEGED, extra="aws",
    needs_provider_ids=True,
)
