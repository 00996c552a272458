"""Networks in MNN: the same masks as in torch, nothing but the network, and another library where MNN fails."""

import ctypes
import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutout.inference.backends import fastest, mnn_export, onnx_export, runners
from cutout.inference.backends.mnn_export import MnnFailed, is_whole, why_not
from cutout.inference.backends.mnn_runner import MnnRunner, prints_kept
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.runners import TorchRunner, cpu_library, open_runner
from cutout.inference.errors import OutOfMemory, WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.fakes import PATIENCE
from tests.inference.backends.mnn_alone import SIZE, Small, pixels
from tests.namespaces import why_not_allowed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

ROOT = Path(__file__).parents[3]
# A checkpoint whose file says nothing: its network is always `Small`.
DATA = b"weights"
SMALL = dataclasses.replace(find("isnet-general"), input_size=SIZE, sha256=hashlib.sha256(DATA).hexdigest())
ALONE = [sys.executable, "-m", "tests.inference.backends.mnn_alone"]
NO_NETWORK = ["unshare", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ONNX graph of `Small`; an export takes a second, so there is only this one."""
    graph = tmp_path_factory.mktemp("exported") / "graph.onnx"
    onnx_export.export_onnx(Small(), graph, SIZE)
    return graph


@pytest.fixture(scope="module")
def ready(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a converted network."""
    folder = tmp_path_factory.mktemp("mnn") / "converted"
    mnn_export.convert(exported, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path) -> ModelsFolder:
    """Return a models folder with `Small`; torch's exporter gives the graph of `exported` for it."""

    def export(network: nn.Module, inputs: tuple[Tensor], **_: Any) -> Any:
        assert isinstance(network, Small)
        assert inputs[0].shape == (1, 3, SIZE, SIZE)
        return SimpleNamespace(save=lambda file: shutil.copyfile(exported, file))

    monkeypatch.setattr(torch.onnx, "export", export)
    folder = ModelsFolder(tmp_path)
    folder.file(SMALL).parent.mkdir()
    folder.file(SMALL).write_bytes(DATA)
    for module in (onnx_export, runners):
        monkeypatch.setattr(module, "load_network", lambda *_: Small())
    runners.warn_once.cache_clear()
    monkeypatch.setattr(fastest, "WORTH_IT", 1e9)  # MNN is the faster, unless a test says otherwise
    return folder


@pytest.fixture
def kept(folder: ModelsFolder, ready: Path) -> Path:
    """Return the converted network in `folder`, as if MNN had been found to be the faster library."""
    kept = mnn_export.folder_for(SMALL, folder, folder.verify(SMALL))
    shutil.copytree(ready, kept)
    fastest.remember(SMALL, folder, fastest.Measured("mnn", "said so"))
    return kept


def in_torch(count: int = 1) -> Tensor:
    return TorchRunner(Small(), torch.device("cpu")).run(pixels(count))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def beside(folder: ModelsFolder, pattern: str = "*") -> list[Path]:
    """Return what is beside the checkpoint's file."""
    file = folder.file(SMALL)
    return sorted(path for path in file.parent.glob(pattern) if path != file)


def test_masks_are_those_of_torch_from_any_thread(ready: Path) -> None:
    runner = MnnRunner(ready)
    expected = in_torch(3)
    assert expected.std() > 0.05
    with ThreadPoolExecutor(1) as pool:
        found = [runner.run(pixels(3)), pool.submit(runner.run, pixels(3)).result()]
    for masks in found:
        assert masks.shape == (3, 1, SIZE, SIZE)
        torch.testing.assert_close(masks, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="takes"):
        runner.run(torch.zeros(1, 3, SIZE, SIZE + 1))


@pytest.mark.parametrize(("code", "error"), [(1, OutOfMemory), (3, RuntimeError)])
def test_a_run_that_fails_gives_no_mask(
    ready: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    class Failing:
        def runSession(self, _: Any) -> int:  # noqa: N802 - MNN's name
            return code

    runner = MnnRunner(ready)
    monkeypatch.setattr(runner, "_network", Failing())
    with pytest.raises(error):
        runner.run(pixels())


def test_a_network_is_converted_and_measured_once(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cpu_library(SMALL, folder) == ("mnn or onnxruntime", "the first start finds out which is faster")
    runner = open_runner(SMALL, folder, "cpu")
    assert runner.backend == "mnn-cpu"
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    [record, kept] = beside(folder)
    assert {path.name for path in kept.iterdir()} == {
        mnn_export.GRAPH,
        mnn_export.WEIGHTS,
        mnn_export.CHECKSUMS,
    }
    library, reason = cpu_library(SMALL, folder)
    assert library == "mnn"
    assert re.fullmatch(r"measured here: .* s a run in MNN, .* s in ONNX Runtime", reason)

    monkeypatch.setattr(fastest, "_measure", None)  # which is not called again
    assert open_runner(SMALL, folder, "cpu").backend == "mnn-cpu"
    assert warnings_in(caplog) == []
    for attribute, value in (("GRAPH_VERSION", 99), ("_processor", lambda: ["another"])):
        monkeypatch.setattr(fastest, attribute, value)
        assert fastest.known(SMALL, folder) is None
    record.write_text('{"library"')
    assert fastest.known(SMALL, folder) is None


def test_where_onnx_runtime_is_faster_it_serves_and_nothing_of_mnn_is_kept(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fastest, "WORTH_IT", 0)
    for _ in range(2):
        runner = open_runner(SMALL, folder, "cpu")
        assert runner.backend == "onnxruntime-cpu"
        monkeypatch.setattr(fastest, "_measure", None)  # which is not called again
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    assert [path.suffix for path in beside(folder)] == [".json", ".onnx", ".sha256"]
    assert cpu_library(SMALL, folder)[0] == "onnxruntime"
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("file", [mnn_export.WEIGHTS, mnn_export.GRAPH, mnn_export.CHECKSUMS])
def test_damage_to_any_file_of_a_network_is_noticed(kept: Path, file: str) -> None:
    assert is_whole(kept)
    os.truncate(kept / file, (kept / file).stat().st_size // 2)
    assert not is_whole(kept)


def test_a_damaged_network_is_made_anew(
    folder: ModelsFolder, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = kept / mnn_export.WEIGHTS
    os.truncate(weights, weights.stat().st_size // 2)
    runner = open_runner(SMALL, folder, "cpu")
    assert runner.backend == "mnn-cpu"
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    assert is_whole(kept)
    [warning] = warnings_in(caplog)
    assert "is damaged or missing and is made anew" in warning


def test_only_one_process_at_a_time_measures(folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    measure = fastest._measure

    def counted(graph: Path, target: Path, size: int) -> fastest.Measured:
        calls.append(target)
        return measure(graph, target, size)

    monkeypatch.setattr(fastest, "_measure", counted)
    # flock works between two openings of a file, in whichever process.
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(open_runner, SMALL, folder, "cpu") for _ in range(2)]
    assert [each.result().backend for each in opened] == ["mnn-cpu", "mnn-cpu"]
    assert len(calls) == 1


# Until the limit, files are written without an error, as the converter does not look for one.
FULL = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
FULL += "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"


@pytest.mark.parametrize(
    ("converter", "said"),
    [
        (FULL + mnn_export.CONVERTER, "free some space or set CUTOUT_MODELS_DIR"),
        ("import os; os.abort()", "its converter ended with -6"),
        ("print('[ERROR] no such operator')", "no such operator"),
        (
            mnn_export.CONVERTER
            + "import os; size = os.path.getsize(w := sys.argv[3] + '.weight')\n"
            + "open(w, 'wb').write(bytes(size))",
            "gives other masks",
        ),
    ],
    ids=["full disk", "crash", "error", "wrong weights"],
)
def test_where_mnn_fails_onnx_runtime_serves_and_the_reason_is_said(
    folder: ModelsFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    converter: str,
    said: str,
) -> None:
    monkeypatch.setattr(mnn_export, "CONVERTER", converter)
    runner = open_runner(SMALL, folder, "cpu")
    assert isinstance(runner, OnnxRunner)
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    [warning] = warnings_in(caplog)
    assert "may run slower than it could" in warning
    assert said in warning
    assert not beside(folder, "*mnn*") + beside(folder, ".*")

    if "free some space" not in said:  # a full disk is tried again, what cannot be helped is not
        assert said in cpu_library(SMALL, folder)[1]
        assert open_runner(SMALL, folder, "cpu").backend == "onnxruntime-cpu"
        assert len(warnings_in(caplog)) == 1


def test_a_models_folder_that_cannot_be_written_to(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    graph = onnx_export.onnx_graph(SMALL, folder)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    assert open_runner(SMALL, folder, "cpu").backend == "onnxruntime-cpu"
    assert "Read-only file system); free some space or set CUTOUT_MODELS_DIR" in warnings_in(caplog)[0]
    graph.unlink()
    with pytest.raises(WeightsUnavailable, match=r"Read-only file system\); free some space"):
        open_runner(SMALL, folder, "cpu")


@pytest.mark.parametrize("damage", ["changed", "cut off", "no checksum"])
def test_a_damaged_graph_is_exported_anew(
    damage: str, folder: ModelsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """With other numbers in it, a graph opens as well and gives other masks."""
    graph = onnx_export.onnx_graph(SMALL, folder)
    pixels = torch.rand(1, 3, SIZE, SIZE)
    expected, data = OnnxRunner(graph).run(pixels), bytearray(graph.read_bytes())
    written = graph.stat().st_mtime_ns
    assert onnx_export.onnx_graph(SMALL, folder).stat().st_mtime_ns == written
    if damage == "no checksum":
        onnx_export.checksum_of(graph).unlink()
    else:
        graph.write_bytes(
            data[: len(data) // 2] if damage == "cut off" else data[:-1] + bytes([data[-1] ^ 255])
        )
    again = onnx_export.onnx_graph(SMALL, folder)
    assert again.stat().st_mtime_ns != written
    assert torch.equal(OnnxRunner(again).run(pixels), expected)
    assert [text for text in warnings_in(caplog) if "is damaged" in text] or damage == "no checksum"


@pytest.mark.usefixtures("kept")
def test_a_host_on_which_mnn_no_longer_works(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_runner(SMALL, folder, "cpu").backend == "mnn-cpu"
    monkeypatch.setitem(sys.modules, "MNN", None)
    assert open_runner(SMALL, folder, "cpu").backend == "onnxruntime-cpu"
    [warning] = warnings_in(caplog)
    assert "MNN cannot be used: import of MNN halted" in warning


def test_weights_that_are_not_there_are_no_reason_for_another_library(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="run: cutout models pull isnet-general"):
        open_runner(SMALL, ModelsFolder(tmp_path), "cpu")


def test_which_library_serves_and_why(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    birefnet = dataclasses.replace(SMALL, network="birefnet")
    assert cpu_library(birefnet, folder) == ("onnxruntime", "MNN cannot convert this network")
    assert cpu_library(SMALL, folder, "bfloat16") == ("torch", "no other library has bfloat16 on a CPU")
    with monkeypatch.context() as patch:
        patch.setattr(fastest, "open_fastest", None)  # which is not called for these
        assert open_runner(birefnet, folder, "cpu").backend == "onnxruntime-cpu"
        assert open_runner(SMALL, folder, "cpu", "bfloat16").backend == "torch-cpu"
        assert warnings_in(caplog) == []

        patch.setattr(sys, "platform", "win32")
        assert cpu_library(SMALL, folder) == ("onnxruntime", "MNN is used on Linux only")
        for _ in range(2):
            assert open_runner(SMALL, folder, "cpu").backend == "onnxruntime-cpu"
        assert warnings_in(caplog) == [
            "isnet-general may run slower than it could: MNN is used on Linux only"
        ]
    with monkeypatch.context() as patch:
        patch.setattr(mnn_export, "version", missing)
        assert cpu_library(SMALL, folder)[0] == "onnxruntime"
        assert "MNN is not installed; run: pip install" in cpu_library(SMALL, folder)[1]
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        assert cpu_library(SMALL, folder)[0] == "torch"
        with pytest.raises(MnnFailed, match="no engine"):
            mnn_export.converter()


def missing(name: str) -> str:
    raise PackageNotFoundError(name)


def test_a_network_that_mnn_cannot_load_is_told_with_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / mnn_export.GRAPH).write_bytes(b"")
    with pytest.raises(MnnFailed, match="is empty"):
        MnnRunner(tmp_path)


def test_what_c_code_prints_is_kept_and_stdout_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    libc, said = ctypes.CDLL(None), list[str]()

    def fails() -> None:
        libc.printf(b"one\ntwo\n")
        os.write(1, b"python\n")
        raise KeyError

    libc.printf(b"before\n")
    with pytest.raises(KeyError), prints_kept(said):
        fails()
    libc.printf(b"after\n")
    libc.fflush(None)
    assert said == ["one", "two"]
    assert sorted(capfd.readouterr().out.split()) == ["after", "before", "python"]


def test_mnn_calls_nobody_and_starts_nothing_but_its_converter(exported: Path, tmp_path: Path) -> None:
    """Where this host allows it, the process has no network: what it does without one, and what it tries, shows."""
    before = [] if why_not_allowed([*NO_NETWORK, "true"]) else NO_NETWORK
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*before, *ALONE, str(exported), str(tmp_path)],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "MNN" not in done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    torch.testing.assert_close(torch.tensor(told["masks"]), in_torch(3), atol=1e-4, rtol=0)
    started = [event for event in told["converting"] if event[0] == "subprocess.Popen"]
    assert len(started) == 1
    assert repr([sys.executable, "-I", "-S", "-c"])[1:-1] in started[0][1]
    # How Python itself starts a process depends on its version.
    assert {event[0] for event in told["converting"]} <= {"subprocess.Popen", "os.posix_spawn", "os.fork"}
    assert told["converter"] == []
    assert told["running"] == []
    assert "MNN" in told["modules"]
    assert [name for name in told["modules"] if name.startswith("MNN.tools")] == []
