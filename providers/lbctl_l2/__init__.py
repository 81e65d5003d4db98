"""Bare metal: addresses out of pools, announced by ARP and NDP from one node each."""
