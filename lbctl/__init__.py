"""lbctl: a load-balancer controller for Kubernetes in which every change is a plan first.

Read `reconcile.py` first: it is the one path that the controller, the command line, dry runs, drift repair,
garbage collection and crash recovery share.
"""

__version__ = "0.1.0"
