"""The documentation covers every setting, command, option, endpoint, error and checkpoint of the code."""

import re
from pathlib import Path

import pytest
import typer

from benchmarks import report
from cutout.app.app import create_app
from cutout.app.batches.form import BatchForm
from cutout.app.cli import cli
from cutout.app.config import settings as app_settings
from cutout.app.config.base import PREFIX
from cutout.app.config.settings import VERIFY_KEY, Settings
from cutout.app.core.errors import kinds_by_code
from cutout.app.removals.form import RemovalForm
from cutout.models.catalog import CHECKPOINTS
from tools import reference

ROOT = Path(__file__).parents[1]
DOCS = {file.stem: file.read_text() for file in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.stem)
def test_the_generated_pages_are_up_to_date(page: Path) -> None:
    assert page.read_text() == reference.pages()[page], "run: make docs"


def test_no_setting_is_described_that_is_not_there() -> None:
    for text in (*DOCS.values(), (ROOT / "README.md").read_text()):
        for name in re.findall(rf"{PREFIX}[A-Z_]+", text):
            assert name == VERIFY_KEY or name.removeprefix(PREFIX).lower() in Settings.model_fields, name


def test_every_command_and_option_is_described() -> None:
    root = typer.main.get_command(cli)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        assert f"## `cutout {name}" in DOCS["command"]
        for leaf, sub in getattr(command, "commands", {"": command}).items():
            assert leaf in DOCS["command"]
            for parameter in sub.params:
                for option in parameter.opts:
                    if option.startswith("--") and option not in ("--help", "--out"):
                        assert f"`{option}" in DOCS["command"], option


def test_every_endpoint_is_described_and_no_other(tmp_path: Path) -> None:
    paths = create_app(app_settings.load(data_dir=tmp_path)).openapi()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    described = re.findall(r"^## `([A-Z]+ /.*)`$", DOCS["api"], re.MULTILINE)
    assert sorted(described) == sorted(there)


def test_every_form_field_is_described() -> None:
    for field in (RemovalForm.model_fields | BatchForm.model_fields).values():
        assert re.search(rf"^\| .*`{field.alias}`.* \|", DOCS["api"], re.MULTILINE), field.alias


def test_every_error_code_is_described() -> None:
    codes = kinds_by_code()
    assert "OVERLOADED" in codes
    for code in codes:
        assert f"`{code}`" in DOCS["api"], code


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_is_described(name: str) -> None:
    assert f"| `{name}` |" in DOCS["models"]


def test_links_between_documents_lead_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_page_of_figures_is_made_from_the_results() -> None:
    assert report.PAGE.read_text() == report.page()
