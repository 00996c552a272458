"""`python -m tools.reference`: write the pages of the documentation that follow from the code.

A test compares the pages with the code, so they never go out of date unnoticed.
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client.core import Metric
from pydantic.fields import FieldInfo

from cutout.app.billing.ledger import CREDITS_MOVED
from cutout.app.compat_check.table import Api, as_markdown, rows_of
from cutout.app.config.base import SettingsGroup, environment_name
from cutout.app.config.settings import GROUPS
from cutout.app.jobs.queue_stats import Waiting
from cutout.app.observability.exposition import merged
from cutout.app.observability.metrics import Metrics
from cutout.app.system.database_metrics import DatabaseMetrics
from cutout.app.system.engine_metrics import EngineMetrics
from cutout.app.system.host_metrics import HostMetrics
from cutout.app.system.live_metrics import LiveMetrics
from cutout.inference.figures import DeviceMemory, Figures
from cutout.inference.presets import Preset, load_presets
from cutout.inference.tiers import Tier

DOCS = Path(__file__).parents[1] / "docs"
WRITTEN = "<!-- Written by `make docs` from the code. -->"
WRITTEN_ON = "<!-- Written by `make docs` from the code, to the end of the page. -->"
SETTINGS_INTRO = """
All settings come from the environment and are read once at the start. A setting that is unknown, malformed or unsafe stops
the start with a line that says why.
"""
PRESETS_INTRO = """
Each preset is a set of [options](pictures.md#options); options that are given with it override its values. `cutout presets`
lists them, with [those of your own](pictures.md#your-own-presets). The requirements were looked up in November 2026, and
change: the source has the current ones.
"""
METRICS_INTRO = """
The metrics of `/metrics`, in the text format of Prometheus. They are about one process since its start, except where they
say that they are about all hosts. `process_…` are the memory, the processor time and the open files of the process.
[Monitoring](monitoring.md) says how they are scraped, and has a dashboard and alerts.

The `/metrics` of a service also has the metrics of the workers that it started, with the label `worker`: 1, 2 and so on.
"""


def main() -> None:
    """Write all pages."""
    for path, text in pages().items():
        path.write_text(text)


def pages() -> dict[Path, str]:
    """Return the text of each generated page."""
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "metrics.md": metrics_page(),
        DOCS / "presets.md": presets_page(),
        DOCS / "migrate.md": migration_page(),
    }


def settings_page() -> str:
    """Return the page of all settings, group by group."""
    lines = ["# Settings", "", WRITTEN, SETTINGS_INTRO.rstrip()]
    for group in GROUPS:
        lines += ["", f"## {group.title}", "", "| name | default | |", "|---|---|---|"]
        lines += [_setting(group, name) for name in group.__annotations__ if name in group.model_fields]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return the page of all metrics."""
    lines = [
        "# Metrics",
        "",
        WRITTEN,
        METRICS_INTRO.rstrip(),
        "",
        "| metric | type | labels | |",
        "|---|---|---|---|",
    ]
    lines += [_metric(metric) for metric in all_metrics() if metric.name.startswith("cutout_")]
    return "\n".join(lines) + "\n"


def presets_page() -> str:
    """Return the page of the built-in presets."""
    lines = ["# Presets", "", WRITTEN, PRESETS_INTRO.rstrip(), "", "| preset | options | what is asked for |"]
    lines += ["|---|---|---|", *map(_preset, load_presets().values())]
    return "\n".join(lines) + "\n"


def _preset(preset: Preset) -> str:
    options = ", ".join(f"{name} `{_toml(value)}`" for name, value in preset.given.items())
    title = f"[{preset.title}]({preset.source})" if preset.source else preset.title
    return f"| `{preset.name}` | {options} | {title}. {preset.asks} |"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def migration_page() -> str:
    """Return the page about other APIs: its text as it is, and the tables of what is identical, after WRITTEN_ON."""
    text, _, _ = (DOCS / "migrate.md").read_text().partition(WRITTEN_ON)
    lines = [WRITTEN_ON]
    for api in Api:
        lines += ["", f"### {api}", "", *as_markdown(rows_of(api))]
    return text + "\n".join(lines) + "\n"


def _setting(group: type[SettingsGroup], name: str) -> str:
    field = group.model_fields[name]
    default = _default(field)
    shown = f"`{default}`" if default else ""
    return f"| `{environment_name(group, name)}` | {shown} | {field.description} |"


def _default(field: FieldInfo) -> str:
    """Return a default as it is written in the environment; nothing where there is none."""
    if field.default_factory is not None or field.default in (None, ()):
        return ""
    return str(int(field.default)) if isinstance(field.default, bool) else str(field.default)


def _metric(metric: Metric) -> str:
    name = {"counter": f"{metric.name}_total", "info": f"{metric.name}_info"}.get(metric.type, metric.name)
    labels = dict.fromkeys(label for sample in metric.samples for label in sample.labels if label != "le")
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {metric.type} | {shown} | {metric.documentation} |"


def all_metrics() -> Iterable[Metric]:
    """Return each metric once, with a sample of each label."""
    metrics = Metrics()
    metrics.about("", "")
    metrics.answered("GET", "/", 200, 0.0)
    metrics.completed(Tier.BASIC, "", 0.0, 0)
    metrics.notified("webhook", "delivered")
    metrics.stored("put", "stored")
    queue: Any = SimpleNamespace(is_kept=True, workers=list, waiting=lambda: Waiting(0, 0))
    readiness: Any = SimpleNamespace(database_answers=True, storage_answers=True)
    committed: Any = SimpleNamespace(of=lambda kind: {} if kind == CREDITS_MOVED else {("", "", ""): 0})
    metrics.registry.register(EngineMetrics(_engine))
    metrics.registry.register(LiveMetrics({}, queue))
    metrics.registry.register(DatabaseMetrics(committed))
    metrics.registry.register(HostMetrics(DOCS, readiness, lambda: {("queue", ""): 0}))
    return merged(metrics.registry.collect(), {"1": None}).values()


def _engine() -> Any:
    """Return an engine on a GPU that has counted a little of everything."""
    figures = Figures()
    figures.passed("", {"": 0.0})
    figures.batch_ran("", 1)
    figures.loaded("", 0.0)
    figures.called("ok")
    figures.waited("", 0.0)
    choice = SimpleNamespace(checkpoint=SimpleNamespace(name=""), substitute=False)
    serving = SimpleNamespace(choice=choice, runner=SimpleNamespace(backend=""))
    return SimpleNamespace(
        lost=None,
        waiting=0,
        in_work=0,
        network_seconds=0.0,
        figures=figures,
        memory=DeviceMemory(0, 0, 0, 0),
        kernels_on=True,
        breaker=SimpleNamespace(state="closed"),
        serving={Tier.BASIC: serving},
    )


if __name__ == "__main__":
    main()
