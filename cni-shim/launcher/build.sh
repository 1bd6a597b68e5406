#!/bin/sh
# build.sh DIRECTORY: make DIRECTORY/vpc-cni from vpc_cni.c and print its path.
#
# Nothing is done when it is newer than its source. musl before glibc: 0.15 ms to start against
# 0.47 ms; dynamic only where neither static libc is installed. Without any C compiler the exit
# status is 3, and vpc_cni.py is the launcher to use.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: build.sh DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
binary=$(cd "$1" && pwd)/vpc-cni
if [ "$binary" -nt "$here/vpc_cni.c" ]; then
  echo "$binary"
  exit 0
fi

# A file of its own until it is whole, then renamed: builds may run side by side, and a runtime that
# starts a half-written binary would fail a pod.
made=$(mktemp "$binary.XXXXXX")
trap 'rm -f "$made"' EXIT
flags="-std=c11 -Os -Wall -Wextra -s"
for compiler in "musl-gcc -static" "gcc -static" "cc -static" gcc cc; do
  command -v "${compiler%% *}" >/dev/null 2>&1 || continue
  # shellcheck disable=SC2086  # both are lists of words
  if $compiler $flags -o "$made" "$here/vpc_cni.c" 2>"$made.log"; then
    rm -f "$made.log"
    chmod 755 "$made"
    mv "$made" "$binary"
    echo "$binary"
    exit 0
  fi
  cat "$made.log" >&2
  rm -f "$made.log"
done
echo "No C compiler could build vpc-cni; on Debian: apt-get install gcc musl-tools" >&2
exit 3
