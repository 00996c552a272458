"""`python -m benchmarks [NAME]…`: run the named benchmarks, or all.

`gpu` runs the benchmarks meant for a host with a GPU. Together they take under nine minutes and need only torch, numpy,
Pillow and the small wheels that `cutout.inference` depends on. The parts of `quality` run alone as well; those with
arguments of their own come first and alone: `python -m benchmarks quality-real --help`.
"""

import argparse
import importlib
import sys

from benchmarks import quality

BENCHMARKS = (
    "batches",
    "codecs",
    "cpu_runners",
    "engine",
    "folder",
    "killing",
    "memory",
    "network",
    "overhead",
    "peers",
    "quality",
    "rewrites",
    "service",
    "targets",
)
GROUPS = {"gpu": ("network", "engine")}
PARTS = {f"quality-{name}": name for name in ("cost", "recipe", "whole", "second")}
WITH_ARGUMENTS = {f"quality-{name}": name for name in ("compare", "order", "real")}


def main() -> None:
    """Run the benchmarks named on the command line."""
    if sys.argv[1:2] == ["selftest"]:
        sys.exit(importlib.import_module("benchmarks.selftest").main(sys.argv[2:]))
    if sys.argv[1:2] and (own := WITH_ARGUMENTS.get(sys.argv[1])):
        quality.part(own).main(sys.argv[2:])
        return
    known = (*BENCHMARKS, *GROUPS, *PARTS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join((*known, *WITH_ARGUMENTS, "selftest"))
    )
    names = parser.parse_args().names
    if unknown := set(names) - set(known):
        parser.error(f"unknown benchmarks: {', '.join(sorted(unknown))}. Choose from: {', '.join(known)}")
    for name in names or BENCHMARKS:
        if name in PARTS:
            quality.part(PARTS[name]).run()
            continue
        for one in GROUPS.get(name, (name,)):
            # Imported one by one, because their dependencies differ.
            importlib.import_module(f"benchmarks.{one}").run()


if __name__ == "__main__":
    main()
