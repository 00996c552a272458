"""The report of a self-test: a JSON file to keep, to commit or to send in. It names no host, user or path of theirs."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cutout.inference.selftest.checklist import Checklist
from cutout.inference.selftest.device import describe
from cutout.inference.selftest.run import Plan

FORMAT = 1  # increment this when fields change their meaning


def write_report(plan: Plan, checklist: Checklist, file: Path | None = None) -> Path:
    """Write the report to `file`, by default into the current folder, named after the device. Return its path.

    Raises:
        OSError: it cannot be written.

    """
    if file is None:
        name = "".join(c if c.isalnum() else " " for c in str(describe(plan.device)["name"]).lower())
        file = Path(f"cutout-selftest-{'-'.join(name.split())}.json")
    file.write_text(as_json(plan, checklist) + "\n")
    return file


def as_json(plan: Plan, checklist: Checklist) -> str:
    """Return the report as JSON; see `as_dict`. Messages name files, so the folders that lead to them are left out."""
    text = json.dumps(as_dict(plan, checklist), indent=2, ensure_ascii=False, default=str)
    folders = [] if plan.folder is None else [(plan.folder.path, "MODELS")]
    for folder, name in [*folders, (Path.home(), "~")]:
        if folder != Path(folder.root):
            text = text.replace(json.dumps(str(folder), ensure_ascii=False)[1:-1], name)
    return text


def as_dict(plan: Plan, checklist: Checklist) -> dict[str, Any]:
    """Return the report: the host, what was tested, and every finding with its figures."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ok": not checklist.failed,
        "seconds": round(checklist.elapsed, 1),
        "host": describe(plan.device),
        "precision": plan.precision,
        "subjects": [
            {
                "checkpoint": subject.checkpoint.name,
                "weights": "published" if subject.trained else "random",
                "tiers": [choice.tier.value for choice in subject.choices],
            }
            for subject in plan.subjects
        ],
        "findings": [
            {**asdict(finding), "seconds": round(finding.seconds, 2)} for finding in checklist.findings
        ],
    }
