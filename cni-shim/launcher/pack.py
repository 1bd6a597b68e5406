#!/usr/bin/env python3
"""pack.py FILE: write vpc_cni.py to FILE as one executable that carries its own bytecode.

A script is compiled anew at each start, and for vpc_cni.py that takes 2 to 3 ms of 8 to 10: too
much for what a runtime does for every pod. A __pycache__ beside the CNI binaries would be a second
file to install and to keep in step, and a zipapp costs 1.6 ms itself; so the bytecode is a literal
in the script. It fits one version of the bytecode, that of the interpreter which runs pack.py; any
other compiles the source, which is in there too. So use the interpreter of the first line.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "vpc_cni.py"
TEMPLATE = """\
{first_line}
# Made by pack.py from vpc_cni.py: its source, and its bytecode for one version of Python.
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads

SOURCE = {source!r}
BYTECODE = {bytecode!r}
exec(loads(BYTECODE) if MAGIC_NUMBER == {magic!r} else SOURCE)
"""


def packed(source: str, magic: bytes = importlib.util.MAGIC_NUMBER) -> str:
    """The text of the executable. `magic` names the bytecode's version, as in a .pyc file."""
    bytecode = marshal.dumps(compile(source, "vpc_cni.py", "exec", dont_inherit=True))
    return TEMPLATE.format(
        first_line=source.partition("\n")[0], source=source, bytecode=bytecode, magic=magic
    )


def main() -> None:
    """Write the file whole or not at all, as runtimes may be starting it."""
    if len(sys.argv) != 2:
        sys.exit("usage: pack.py FILE")
    target = Path(sys.argv[1])
    made = target.with_name(f".{target.name}.{os.getpid()}")
    made.write_text(packed(SOURCE.read_text()))
    made.chmod(0o755)
    made.rename(target)


if __name__ == "__main__":
    main()
