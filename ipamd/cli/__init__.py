"""ipamctl: the tool that says why."""
