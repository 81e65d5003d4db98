"""`lbctl lab`: a small bare-metal cluster on this machine, left up for whoever wants to break it.

Nodes, a client and a router in network namespaces; a Kubernetes API, the controller and a speaker on every node, all
real processes, started as anybody would start them. It tells who announces what, and what each change cost a client.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from lbctl_l2.lab.api import NODES, Api
from lbctl_l2.lab.cluster import Cluster, Whole, bound
from lbctl_l2.lab.measured import Address, Longest
from lbctl_l2.lab.namespaces import LabError, missing, running, sweep
from lbctl_l2.lab.rig import Client, Watch

TITLE = "lab"
START = 30.0
"""Seconds within which the API must answer."""
AGAIN = 5.0
"""Seconds after which a speaker that ended is started again, as kubelet would."""
LOOK = 1.0
CLIENTS = 8
"""So many addresses have a client that asks; more would be what the machine is busy with."""
END = 20.0


@click.command("lab", context_settings={"obj": None})
@click.option("--nodes", type=click.IntRange(1, 20), default=3, show_default=True, metavar="NUMBER",
              help="how many nodes there are")  # fmt: skip
@click.option("--services", type=click.IntRange(1, 50), default=3, show_default=True, metavar="NUMBER",
              help="how many Services")  # fmt: skip
@click.option("--down", is_flag=True, help="end the labs of this machine that are up")
def lab(nodes: int, services: int, down: bool) -> int:
    """Bare metal on this machine: nodes, a client and a router in network namespaces, until Ctrl-C. Needs root.

    Kill a speaker, pull a cable, cordon a node, and read what it cost a client that asks every 10 ms.
    """
    if reason := missing():
        raise LabError(f"the lab cannot run here: {reason}")
    if down:
        return _down()
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with ExitStack() as opened:
        api = opened.enter_context(_api())
        cluster = Whole(nodes, services, api)
        cluster.lab.title = TITLE
        opened.enter_context(cluster)
        click.echo(hints(cluster))
        _tell(cluster, ended)
    click.echo("\nThe lab is gone.")
    return 0


def _down() -> int:
    """End the labs that are up, and what others left behind."""
    labs = running(TITLE)
    for pid in labs.values():
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + END
    while running(TITLE).keys() & labs.keys():
        if time.monotonic() > until:
            raise LabError(f"a lab does not end: look at the processes {', '.join(map(str, labs.values()))}")
        threading.Event().wait(0.2)
    click.echo(f"{len(labs)} ended, {len(sweep())} swept away.")
    return 0


# -- the cluster -----------------------------------------------------------------------------------------------------


@contextmanager
def _api() -> Iterator[Api]:
    """A Kubernetes API without nodes, as `lbctl sandbox` gives it. What it says is shown if it fails."""
    state = Path.cwd() / ".lbctl" / f"lab-{os.getpid()}"
    for left in state.parent.glob("lab-*"):
        if not Path("/proc", left.name.removeprefix("lab-")).exists():
            _swept(left)
    command = ["sandbox", "--provider=memory", "--nodes=1", f"--state={state}"]
    process = subprocess.Popen(bound(*command), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        api = _reached(state / "kubeconfig", process)
        for node in api.get(NODES)["items"]:
            api.delete(f"{NODES}/{node['metadata']['name']}")
        yield api
    finally:
        process.terminate()
        process.wait()
        _swept(state)


def _swept(state: Path) -> None:
    """Remove the folder, and the one around it unless others have something there."""
    shutil.rmtree(state, ignore_errors=True)
    with suppress(OSError):
        state.parent.rmdir()


def _reached(kubeconfig: Path, process: "subprocess.Popen[bytes]") -> Api:
    """Raises `LabError` when it does not come up."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        if kubeconfig.is_file() and kubeconfig.stat().st_size:
            return Api(kubeconfig)
        threading.Event().wait(0.1)
    raise LabError("the lab's Kubernetes API did not come up: try lbctl sandbox alone")


# -- what it says ----------------------------------------------------------------------------------------------------


def hints(cluster: Cluster) -> str:
    """How to look around, and what to try."""
    enter = {node.name: f"ip netns exec {node.namespace.name} bash" for node in cluster.lab.nodes.values()}
    shells = "\n".join(f"  {name:8} {command}" for name, command in enter.items())
    first = cluster.addresses[0]
    node = next(iter(cluster.lab.nodes.values()))
    return f"""
The lab is up: {len(enter)} nodes, {len(cluster.addresses)} Services of the class lbctl.io/l2, a client, a router.

A shell on each (as root, in another terminal):
{shells}
  {"client":8} ip netns exec {cluster.lab.client.name} bash
  {"router":8} ip netns exec {cluster.lab.router.name} bash

See:    export KUBECONFIG={cluster.api.kubeconfig} LBCTL_CONFIG={cluster.config}
        export PATH={Path(sys.executable).parent}:$PATH
        lbctl status; lbctl election; lbctl explain web-0; lbctl doctor
        ip netns exec {cluster.lab.client.name} ip neigh
        tail -f {cluster.lab.folder}/*.log
Ask:    ip netns exec {cluster.lab.client.name} {sys.executable} -c \\
          'import socket; print(socket.create_connection(("{first}", 9000)).recv(99))'
Break:  kill -9 $(ip netns pids {node.namespace.name})        a whole speaker; it is started again after {AGAIN:g} s
        ip -n {cluster.lab.wire.name} link set {node.name} down        its cable; and back: up
        ip -n {cluster.lab.wire.name} link set {node.name} nomaster    silence; and back: master left
        kubectl delete service web-0

Who announces, and what each change cost a client that asks that address every 10 ms.
Ctrl-C, or lbctl lab --down, ends it.
"""


def _tell(cluster: Cluster, ended: threading.Event) -> None:
    """A line for every change, until the end."""
    watch = cluster.lab.watch(*cluster.addresses)
    clients = Clients({address: cluster.lab.ask(address) for address in cluster.addresses[:CLIENTS]})
    before: dict[Address, frozenset[str]] = {}
    dead: dict[str, float] = {}
    while not ended.wait(LOOK):
        before = _changes(watch, clients, before)
        _revive(cluster, dead)


class Clients:
    """A client for each address, and the longest that each has waited since that was told."""

    def __init__(self, clients: Mapping[Address, Client]) -> None:
        self._clients = clients
        self._waits = {address: Longest() for address in clients}

    def look(self) -> None:
        """Hear all of them at the same time: each takes a while to answer."""
        with ThreadPoolExecutor(len(self._clients)) as threads:
            heard = threads.map(Client.take, self._clients.values())
        for wait, answers in zip(self._waits.values(), heard, strict=True):
            wait.see(answers)

    def cost(self, address: Address) -> str:
        """What the client of this address waited; empty where none asks it."""
        wait = self._waits.get(address)
        return f"   a client waited {1000 * wait.tell():.0f} ms" if wait is not None else ""


def _changes(
    watch: Watch, clients: Clients, before: Mapping[Address, frozenset[str]]
) -> dict[Address, frozenset[str]]:
    """Say who announces now where that is news."""
    seen = watch.take()
    clients.look()
    now = {address: seen.announcers(address, 0.2) for address in {probe.address for probe in seen.probes}}
    for address, nodes in sorted(now.items(), key=lambda item: int(item[0])):
        if nodes != before.get(address):
            cost = clients.cost(address)
            said = cost if before else ""
            click.echo(f"{time.strftime('%H:%M:%S')}  {address}  {', '.join(sorted(nodes)) or 'nobody'}{said}")
    return now


def _revive(cluster: Cluster, dead: dict[str, float]) -> None:
    """Start again whoever has been dead for a while. `dead` says since when."""
    for name, speaker in cluster.speakers.items():
        if speaker.process.poll() is None:
            dead.pop(name, None)
        elif name not in dead:
            click.echo(f"{time.strftime('%H:%M:%S')}  the speaker of {name} has ended")
            dead[name] = time.monotonic()
        elif time.monotonic() - dead[name] > AGAIN:
            cluster.start(name)
            click.echo(f"{time.strftime('%H:%M:%S')}  the speaker of {name} is started again")
