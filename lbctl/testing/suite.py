"""The laws as tests: `pytest --pyargs lbctl.testing.suite --lbctl-provider=NAME`.

`NAME` is an entry point in the groups `lbctl.providers` and `lbctl.standins`, or `--lbctl-provider=module:plugin` comes
with `--lbctl-standin=module:standin`. Each test is one law of `lbctl.testing.laws`, and its name is what the law says.
"""

import pytest

from lbctl.testing.laws import LAWS
from lbctl.testing.standin import Standin
from lbctl.testing.world import World, load


@pytest.fixture
def world(request: pytest.FixtureRequest, lbctl_standin: Standin) -> World:
    """The provider on trial before an empty cloud."""
    plugin = load("lbctl.providers", request.config.getoption("--lbctl-provider"))
    lbctl_standin.reset()
    return World(plugin.make, lbctl_standin, small=request.config.getoption("--lbctl-small"))


globals().update({f"test_{name}": law for name, law in LAWS.items()})
