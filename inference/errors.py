"""Everything that can go wrong between a photo's bytes and its cut-out's bytes.

    CutoutError
    ├── InvalidPhoto            the bytes are no whole picture
    │   ├── UnsupportedFormat   … or of a kind that is not read
    │   └── PhotoTooLarge       … or larger than the limit
    ├── InvalidOptions          an option that cannot be met
    ├── Overloaded              the engine has as much waiting as it may, or a service elsewhere needs a pause
    ├── DeadlineExceeded        the photo was not done in its time
    ├── NetworkFailed           this photo could not be worked on, in the network or elsewhere; others are not affected
    └── ModelUnavailable        no picture can be made on this host as it is
        ├── WeightsUnavailable  a checkpoint's file is missing, broken or could not be fetched
        ├── LicenceNotAccepted  a checkpoint's terms need the user's word first
        ├── RemoteRefused       a service elsewhere will not serve this host until somebody mends it
        ├── RemoteFailed        … or has failed on this photo, however often it was asked
        └── DeviceUnavailable   the wanted device or backend is not there
            ├── OutOfMemory     … or its memory is too small
            └── DeviceLost      … or it was there and has failed; only a new process may find it again

Every message is one sentence or two for the user: what is wrong, and what to do. Codes of HTTP are
the service's business.
"""


class CutoutError(Exception):
    """Base of all errors of the engine; `str()` is a message for the user."""


class InvalidPhoto(CutoutError):
    """The bytes are not a whole picture of a known format."""


class UnsupportedFormat(InvalidPhoto):
    """The bytes are a kind of file that is not read."""


class PhotoTooLarge(InvalidPhoto):
    """The picture has more pixels than the limit; found from its header, before decoding."""


class InvalidOptions(CutoutError):
    """An output option has a value that cannot be met."""


class Overloaded(CutoutError):
    """No more photos are taken now; `retry_after` is a guess in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(CutoutError):
    """A photo was not done in the time it was given."""


class NetworkFailed(CutoutError):
    """One photo could not be worked on: the network could not be run on it, alone, or a library failed on it."""


class ModelUnavailable(CutoutError):
    """No picture can be made on this host as it is."""


class WeightsUnavailable(ModelUnavailable):
    """A checkpoint's file is missing, broken, or could not be fetched."""


class LicenceNotAccepted(ModelUnavailable):
    """A checkpoint's licence has not been accepted on this host."""


class RemoteRefused(ModelUnavailable):
    """A service elsewhere will not serve this host as it is; the message names the fix."""


class RemoteFailed(ModelUnavailable):
    """A service elsewhere gave errors, or no mask."""


class DeviceUnavailable(ModelUnavailable):
    """The device or backend that was asked for is not there."""


class OutOfMemory(DeviceUnavailable):
    """The device's memory does not hold what one photo needs."""


class DeviceLost(DeviceUnavailable):
    """The device failed, or has stopped answering; nothing more can be run on it by this process."""
