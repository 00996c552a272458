"""Whether results can be stored, asked at intervals beside the requests."""

from datetime import timedelta

from cutout.app.core.probe import Probe
from cutout.app.storage.base import Storage, StorageError, require_usable

# A storage may be far away. After so long without an answer it counts as hanging.
HANGING = timedelta(seconds=10)
STORAGE_HANGS = "The storage of results does not answer. Try again in a minute."


class StorageProbe(Probe[None]):
    """Writes, reads and deletes a small file, every so often and after an error."""

    def __init__(self, storage: Storage, every: timedelta) -> None:
        super().__init__("storage", lambda: require_usable(storage), every, HANGING)

    def require(self) -> None:
        """Return unless the storage hangs: a caller would wait for it in vain.

        Raises:
            StorageError: it hangs.

        """
        if self.hangs:
            raise StorageError(STORAGE_HANGS, f"no answer in {HANGING.total_seconds():g} s")
