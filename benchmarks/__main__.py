"""`python -m benchmarks [NAME]…`: run the named benchmarks, or all.

`gpu` runs the benchmarks meant for a host with a GPU. Together they take under nine minutes and need only torch, numpy,
Pillow and the small wheels that `cutout.inference` depends on.
"""

import argparse
import importlib

BENCHMARKS = (
    "batches",
    "codecs",
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


def main() -> None:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*BENCHMARKS, *GROUPS)))
    names = parser.parse_args().names
    unknown = set(names) - set(BENCHMARKS) - set(GROUPS)
    if unknown:
        parser.error(
            f"unknown benchmarks: {', '.join(sorted(unknown))}. Choose from: {', '.join((*BENCHMARKS, *GROUPS))}"
        )
    for name in names or BENCHMARKS:
        for one in GROUPS.get(name, (name,)):
            # Imported one by one, because their dependencies differ.
            importlib.import_module(f"benchmarks.{one}").run()


if __name__ == "__main__":
    main()
