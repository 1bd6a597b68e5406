"""Decisions about addresses, as pure functions over frozen values.

Nothing here reads a clock, draws a random number, logs or awaits: `now` is an argument, results
carry their reason. The reconciler and the RPC workflows apply what is decided here.
"""
