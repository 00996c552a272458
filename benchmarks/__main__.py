"""`python -m benchmarks [NAME]…`: run the named benchmarks, or all.

`gpu` runs the benchmarks meant for a host with a GPU. Together they take under nine minutes and need only torch, numpy,
Pillow and the small wheels that `cutout.inference` depends on. After an interruption, the same command goes on where it
was, unless the device or the code has changed; `--again` measures everything anew. On a host without a GPU, it runs a
small part of both and publishes nothing.

The parts of `quality` run alone as well; those with arguments of their own come first and alone:
`python -m benchmarks quality-real --help`. So do `selftest`, which is `cutout doctor --deep` without weights, and `soak`
and `crowd`, which put a whole service under load.
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
    "refine",
    "rewrites",
    "roofline",
    "service",
    "targets",
)
GROUPS = {"gpu": ("network", "engine")}
PARTS = {f"quality-{name}": name for name in ("cost", "recipe", "whole", "second", "halo", "flicker")}
WITH_ARGUMENTS = {f"quality-{name}": name for name in ("compare", "order", "real")}
# Those whose exit code says whether all is as it should be; they take arguments of their own.
GATES = ("selftest", "soak", "crowd")


def main() -> None:
    """Run the benchmarks named on the command line."""
    if sys.argv[1:2] and sys.argv[1] in GATES:
        sys.exit(importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]))
    if sys.argv[1:2] and (own := WITH_ARGUMENTS.get(sys.argv[1])):
        quality.part(own).main(sys.argv[2:])
        return
    known = (*BENCHMARKS, *GROUPS, *PARTS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*known, *WITH_ARGUMENTS, *GATES)))
    parser.add_argument("--again", action="store_true", help="measure anew what `gpu` has measured before")
    options = parser.parse_args()
    names = options.names
    if unknown := set(names) - set(known):
        parser.error(f"unknown benchmarks: {', '.join(sorted(unknown))}. Choose from: {', '.join(known)}")
    for name in names or BENCHMARKS:
        if name in PARTS:
            quality.part(PARTS[name]).run()
            continue
        # Imported one by one, because their dependencies differ.
        for one in GROUPS.get(name, ()):
            module = importlib.import_module(f"benchmarks.{one}")
            module.run(again=options.again, small=not module.CUDA)
        if name not in GROUPS:
            importlib.import_module(f"benchmarks.{name}").run()


if __name__ == "__main__":
    main()
