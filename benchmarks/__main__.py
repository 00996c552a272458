"""`python -m benchmarks [NAME]…`: run the named benchmarks, or all."""

import argparse
from collections.abc import Callable

from benchmarks import codecs, folder, memory, peers, quality, rewrites, targets

BENCHMARKS: dict[str, Callable[[], None]] = {
    "codecs": codecs.run,
    "folder": folder.run,
    "memory": memory.run,
    "peers": peers.run,
    "quality": quality.run,
    "rewrites": rewrites.run,
    "targets": targets.run,
}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
