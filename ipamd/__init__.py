"""The address half of the node agent: pool, ledger, planner and the doors.

Holds no netlink and no cloud SDK; see ARCHITECTURE.md for who talks to whom.
"""
