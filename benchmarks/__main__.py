"""`python -m benchmarks [NAME]…`: run the named benchmarks, or all.

`gpu` names those that a host with a GPU is there for: under nine minutes together, with nothing installed but torch,
numpy, Pillow and the small wheels that `inference` needs.
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
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*BENCHMARKS, *GROUPS)))
    names = parser.parse_args().names
    unknown = set(names) - set(BENCHMARKS) - set(GROUPS)
    if unknown:
        parser.error(
            f"there is no {', '.join(sorted(unknown))}; there are: {', '.join((*BENCHMARKS, *GROUPS))}"
        )
    for name in names or BENCHMARKS:
        for one in GROUPS.get(name, (name,)):
            # One by one: some need what others do without.
            importlib.import_module(f"benchmarks.{one}").run()


if __name__ == "__main__":
    main()
