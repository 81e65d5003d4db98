"""Real packets on this machine alone: nodes, a client and a router in network namespaces, and faults for them.

`lbctl lab` leaves one up for people; tests and benchmarks build their own. It needs root on Linux, and iproute2.

    namespaces   made, entered, removed          instruments   processes that ask, answer and listen
    rig          the segment and its faults      command       `lbctl lab`
"""
