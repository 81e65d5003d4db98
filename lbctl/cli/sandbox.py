"""`lbctl sandbox` and `lbctl demo`: Kubernetes and clouds on this machine alone."""

import signal
import threading
from pathlib import Path

import click

from lbctl.cli import codes, output

STATE = Path(".lbctl")
STATE_HELP = f"the folder for kubeconfig and lbctl.yaml, which stay there  [default: {STATE}, removed at the end]"


def _default_providers() -> tuple[str, ...]:
    """AWS's stand-in where it is installed, the dict otherwise."""
    from lbctl import plugins

    stands = plugins.points(plugins.STANDINS)
    return ("aws",) if "aws" in stands and "aws" in plugins.points(plugins.PROVIDERS) else ("memory",)


def _interruption() -> threading.Event:
    """Set by Ctrl-C and SIGTERM from now on."""
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    return ended


def _wait(ended: threading.Event) -> None:
    """Without a timeout, Python would not look at signals while it waits."""
    while not ended.wait(1.0):
        pass


@click.command("sandbox")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="whose cloud stands in  [default: aws]")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="where the Kubernetes API listens; 0: any")  # fmt: skip
@click.option("--nodes", type=click.IntRange(1, 100), default=3, show_default=True, metavar="NUMBER",
              help="how many nodes there are")  # fmt: skip
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help=STATE_HELP)
def sandbox(providers: tuple[str, ...], port: int, nodes: int, state: Path | None) -> int:
    """A small Kubernetes and small clouds on loopback, in memory, until Ctrl-C.

    kubectl works against it, and so does `lbctl run`: everything but the network is as in a cluster.
    """
    from lbctl.sandbox.sandbox import Sandbox

    ended = _interruption()
    world = Sandbox(providers or _default_providers(), state or STATE, port=port, nodes=nodes, lent=state is None)
    try:
        world.start()
        output.say(
            f"A Kubernetes API with {nodes} nodes, and a stand-in for {', '.join(world.providers)}, are up on loopback."
            f"\n\nIn another terminal:\n\n"
            f"  export KUBECONFIG={world.kubeconfig.resolve()} LBCTL_CONFIG={world.config.resolve()}\n"
            f"  lbctl run --no-leader-elect &\n"
            f"  kubectl apply -f your-service.yaml\n"
            f"  kubectl get services -A -w\n"
            f"  lbctl status; lbctl explain your-service\n\nCtrl-C ends it; nothing is kept.\n"
        )
        _wait(ended)
    finally:
        world.stop()
    return codes.OK


@click.command("demo")
@click.option("--provider", metavar="NAME", help="whose cloud stands in  [default: aws where it is installed]")
@click.option("--keep", is_flag=True, help="stay up at the end, until Ctrl-C")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help=STATE_HELP)
def demo(provider: str | None, keep: bool, state: Path | None) -> int:
    """The life of a few Services on this machine: applied, served, damaged, repaired, deleted, and nothing left.

    The real controller against the sandbox. It checks what it shows, and ends with an error if something is not as it
    should be.
    """
    import logging
    import sys

    from lbctl.sandbox.demo import Demo
    from lbctl.telemetry import configure_logging

    # SIGTERM ends it as Ctrl-C does: in good order, with nothing left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging("text", "error", sys.stderr)
    logging.getLogger("lbctl").setLevel(logging.CRITICAL)

    def say(text: str) -> None:
        output.say(text.rstrip("\n") + "\n")

    show = Demo(provider or _default_providers()[0], state or STATE, say, lent=state is None)
    show.run(keep=(lambda: _wait(_interruption())) if keep else None)
    output.say("\nThat was all of it. Next: lbctl sandbox, or lbctl plan --help\n")
    return codes.OK
