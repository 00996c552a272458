"""Networks in MNN: the same masks as in torch, nothing but the network, and another library where MNN fails."""

import ctypes
import dataclasses
import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cutout.inference.backends import mnn_export, onnx_export, runners
from cutout.inference.backends.mnn_export import MnnFailed, converted, is_whole, why_not
from cutout.inference.backends.mnn_runner import MnnRunner, prints_kept
from cutout.inference.backends.runners import OnnxRunner, TorchRunner, cpu_library, open_runner
from cutout.inference.errors import OutOfMemory, WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.fakes import PATIENCE
from tests.inference.backends.mnn_alone import SIZE, Small

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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelsFolder:
    folder = ModelsFolder(tmp_path)
    folder.file(SMALL).parent.mkdir()
    folder.file(SMALL).write_bytes(DATA)
    for module in (mnn_export, onnx_export, runners):
        monkeypatch.setattr(module, "load_network", lambda *_: Small())
    runners.warn_once.cache_clear()
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a converted network."""
    folder = tmp_path_factory.mktemp("mnn") / "converted"
    mnn_export.convert(Small(), folder, SIZE)
    return folder


def pixels(count: int = 1) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) - 0.5


def in_torch(count: int = 1) -> Tensor:
    return TorchRunner(Small(), torch.device("cpu")).run(pixels(count))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def others(folder: ModelsFolder) -> set[str]:
    """Return the names beside the checkpoint's file, without those of converted networks."""
    return {path.name for path in folder.file(SMALL).parent.iterdir()} - {SMALL.file}


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


def test_a_network_is_converted_once_and_kept_whole(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = open_runner(SMALL, folder, "cpu")
    assert runner.backend == "mnn-cpu"
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    [name] = others(folder)
    kept = folder.file(SMALL).with_name(name)
    assert {file.name for file in kept.iterdir()} == {
        mnn_export.GRAPH,
        mnn_export.WEIGHTS,
        mnn_export.CHECKSUMS,
    }
    before = (kept / mnn_export.GRAPH).stat().st_mtime_ns
    assert open_runner(SMALL, folder, "cpu").backend == "mnn-cpu"
    assert (kept / mnn_export.GRAPH).stat().st_mtime_ns == before
    assert warnings_in(caplog) == []

    for file in (mnn_export.WEIGHTS, mnn_export.GRAPH, mnn_export.CHECKSUMS):
        whole = (kept / file).read_bytes()
        (kept / file).write_bytes(whole[: len(whole) // 2])
        assert not is_whole(kept)
        (kept / file).write_bytes(whole)
    assert is_whole(kept)
    os.truncate(kept / mnn_export.WEIGHTS, 100)
    runner = open_runner(SMALL, folder, "cpu")
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    assert others(folder) == {name}
    assert "is damaged and is made anew" in caplog.text

    for attribute, value in (("GRAPH_VERSION", 99), ("version", lambda _: "4.0")):
        monkeypatch.setattr(mnn_export, attribute, value)
        assert not converted(SMALL, folder, lambda made: MnnRunner(made).logits).samefile(kept)
    assert len(others(folder)) == 3


def test_what_another_process_made_meanwhile_is_taken(folder: ModelsFolder, ready: Path) -> None:
    def opened(made: Path) -> Any:
        if not others(folder) & {made.name}:
            mnn_export.convert(Small(), folder.file(SMALL).with_name(made.name), SIZE)
        return MnnRunner(made).logits

    assert is_whole(converted(SMALL, folder, opened))
    assert len(others(folder)) == 1


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
def test_where_mnn_fails_onnx_runtime_serves_and_it_is_said_once(
    folder: ModelsFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    converter: str,
    said: str,
) -> None:
    monkeypatch.setattr(mnn_export, "CONVERTER", converter)
    for _ in range(2):
        runner = open_runner(SMALL, folder, "cpu")
        assert isinstance(runner, OnnxRunner)
    torch.testing.assert_close(runner.run(pixels()), in_torch(), atol=1e-4, rtol=0)
    [warning] = warnings_in(caplog)
    assert warning.startswith("isnet-general runs in onnxruntime and not in MNN")
    assert said in warning
    assert [name for name in others(folder) if not name.endswith(".onnx")] == []


def test_a_models_folder_that_cannot_be_written_to(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    onnx_export.onnx_graph(SMALL, folder)
    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    assert open_runner(SMALL, folder, "cpu").backend == "onnxruntime-cpu"
    assert "Read-only file system); free some space or set CUTOUT_MODELS_DIR" in caplog.text
    for name in others(folder):
        folder.file(SMALL).with_name(name).unlink()
    with pytest.raises(WeightsUnavailable, match=r"Read-only file system\); free some space"):
        open_runner(SMALL, folder, "cpu")


def test_weights_that_are_not_there_are_no_reason_for_another_library(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="run: cutout models pull isnet-general"):
        open_runner(SMALL, ModelsFolder(tmp_path), "cpu")


def test_which_library_serves_and_why(
    folder: ModelsFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    isnet, birefnet = find("rmbg-1.4"), find("birefnet-lite")
    assert cpu_library(isnet) == ("mnn", "the fastest for this network")
    assert cpu_library(birefnet) == ("onnxruntime", "MNN cannot convert this network")
    assert cpu_library(isnet, "bfloat16") == ("torch", "the others have no bfloat16 on a CPU")
    assert open_runner(SMALL, folder, "cpu", "bfloat16").backend == "torch-cpu"
    monkeypatch.setattr(runners, "converted", None)  # which is not called for this network
    small = dataclasses.replace(SMALL, network="birefnet")
    assert open_runner(small, folder, "cpu").backend == "onnxruntime-cpu"
    assert warnings_in(caplog) == []

    monkeypatch.setattr(sys, "platform", "win32")
    assert cpu_library(isnet) == ("onnxruntime", "MNN is used on Linux only")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cpu_library(isnet)[0] == "torch"
    assert why_not() == "MNN is not installed; run: pip install 'cutout-server[cpu]'"


def test_an_installation_without_a_converter_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MnnFailed, match="no engine"):
        mnn_export.converter()


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


@pytest.fixture(scope="module", params=["with a network", "without a network"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run `mnn_alone`, and return what it did."""
    before: list[str] = []
    if request.param == "without a network":
        before = NO_NETWORK
        try:
            trial = subprocess.run([*before, "true"], check=False, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("no unshare here, with which a process gets a network of its own")
        if trial.returncode:
            pytest.skip(f"a process may not have a network of its own here: {trial.stderr.strip()}")
    folder = tmp_path_factory.mktemp("alone")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*before, *ALONE, str(folder)],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return {"stdout": done.stdout, **json.loads((folder / "told.json").read_text())}


def test_mnn_calls_nobody_and_starts_nothing_but_its_converter(told: dict[str, Any]) -> None:
    assert told["differs"] < 1e-4
    assert told["spread"] > 0.05
    started = [event for event in told["converting"] if event[0] == "subprocess.Popen"]
    assert len(started) == 1
    assert repr([sys.executable, "-I", "-S", "-c"])[1:-1] in started[0][1]
    # How Python itself starts a process depends on its version.
    assert {event[0] for event in told["converting"]} <= {"subprocess.Popen", "os.posix_spawn", "os.fork"}
    assert told["converter"] == []
    assert told["running"] == []
    assert "MNN" in told["modules"]
    assert [name for name in told["modules"] if name.startswith("MNN.tools")] == []


def test_stdout_stays_clean(told: dict[str, Any]) -> None:
    assert told["stdout"] == ""
