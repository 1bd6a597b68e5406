"""The `vpc-cnid` program, also as `python -m cni_shim`."""

from cni_shim.lean import spare_memory


def main() -> None:
    """Spare memory, then import the daemon and run it."""
    spare_memory()
    from cni_shim.server import main as serve  # late: it imports what was just spared

    serve()


if __name__ == "__main__":
    main()
