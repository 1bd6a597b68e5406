"""`python -m cni_shim` is the `vpc-cnid` program."""

from cni_shim.server import main

main()
