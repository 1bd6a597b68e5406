"""Fleets of pool engines on one emulated EC2 account, in virtual time: see docs/fleet.md."""
