"""`python -m cutout.inference.selftest`: the self-test on a host that has only what `cutout.inference` needs."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from cutout.inference.backends.runners import pick_device
from cutout.inference.errors import DeviceUnavailable
from cutout.inference.selftest import Checklist, Finding, Outcome, Plan, Subject, installed, run, write_report
from cutout.inference.weights.store import ModelsFolder

MARKS = {Outcome.PASSED: "ok", Outcome.WARNED: "!", Outcome.FAILED: "FAILED", Outcome.SKIPPED: "-"}
Subjects = Callable[[Literal["cuda", "cpu"]], list[Subject]]


def main(arguments: Sequence[str] | None = None, stand_ins: Subjects | None = None) -> int:
    """Test this host and return the exit code: 1 if anything failed. `stand_ins` replaces the installed networks."""
    parser = argparse.ArgumentParser(prog="selftest", description=__doc__)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--report", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--seconds", type=float, default=180, help="skip what is not necessary after this time"
    )
    if stand_ins is None:
        usual = Path(os.environ.get("CUTOUT_MODELS_DIR") or "~/.cache/cutout/models")
        parser.add_argument("--models", type=Path, default=usual, help="the folder of the weights")
    options = parser.parse_args(arguments)
    try:
        device = pick_device(options.device)
    except DeviceUnavailable as error:
        _say(f"FAILED  device: {error}")
        return 1
    if stand_ins is None:
        folder = ModelsFolder(options.models.expanduser())
        subjects, unserved = installed(folder, device)
        plan = Plan(device, subjects, folder, unserved)
    else:
        plan = Plan(device, stand_ins(device))
    checklist = Checklist(end=_show, seconds=options.seconds)
    run(plan, checklist)
    file = write_report(plan, checklist, options.report)
    _say(f"{'FAILED' if checklist.failed else 'ok'} after {checklist.elapsed:.0f} s; report: {file}")
    return 1 if checklist.failed else 0


def _show(finding: Finding) -> None:
    name = finding.check + (f" ({finding.subject})" if finding.subject else "")
    _say(f"{MARKS[finding.outcome]:<7} {name}: {finding.text}  [{finding.seconds:.1f} s]")
    if finding.advice:
        _say(f"{'':<7} → {finding.advice}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
