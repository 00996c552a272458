"""All errors of the engine, from decoding a photo to encoding its cut-out.

    CutoutError
    ├── InvalidPhoto            the bytes are not a complete picture
    │   ├── UnsupportedFormat   the file format is not supported
    │   └── PhotoTooLarge       the picture exceeds a size limit
    ├── InvalidOptions          an option has a value that cannot be used
    │   ├── RegionOutside       the region reaches beyond the photo
    │   ├── RegionEmpty         the region has no pixels
    │   ├── ResultTooLarge      the result would have more pixels than allowed
    │   └── InvalidBackground   the picture for the background cannot be read
    ├── MasksUnusable           what the network saw in a photo was kept, and cannot be used again
    ├── NoSubject               the photo shows no subject, and the options require one
    ├── Overloaded              too many photos are waiting, or the remote service needs a pause
    ├── DeadlineExceeded        the photo was not done by its deadline
    ├── NetworkFailed           this photo could not be processed, in the network or in a library; others can
    └── ModelUnavailable        no photo can be processed on this host in its current state
        ├── WeightsUnavailable  a checkpoint's file is missing, damaged or could not be downloaded
        ├── LicenceNotAccepted  the user must accept a checkpoint's licence first
        ├── RemoteRefused       the remote service refuses this host until its configuration is fixed
        ├── RemoteFailed        the remote service failed on this photo in every attempt
        └── DeviceUnavailable   the requested device or backend is not available
            ├── OutOfMemory     the device's memory is too small
            └── DeviceLost      the device has failed; only a new process may be able to use it again

Every message is one or two sentences for the user: what is wrong, and what to do. The HTTP service maps the errors to
status codes.
"""


class CutoutError(Exception):
    """Base class of all errors of the engine; `str()` gives a message for the user."""


class InvalidPhoto(CutoutError):
    """The bytes are not a complete picture of a known format."""


class UnsupportedFormat(InvalidPhoto):
    """The bytes are a file of a format that is not supported."""


class PhotoTooLarge(InvalidPhoto):
    """The picture exceeds a size limit. Normally found from its header, before decoding."""


class InvalidOptions(CutoutError):
    """An output option has a value that cannot be used."""


class RegionOutside(InvalidOptions):
    """The region reaches beyond the photo."""


class RegionEmpty(InvalidOptions):
    """The region has no pixels."""


class ResultTooLarge(InvalidOptions):
    """The result would have more pixels than allowed."""


class InvalidBackground(InvalidOptions):
    """The picture for the background cannot be read, or is too large."""


class MasksUnusable(CutoutError):
    """The masks that were kept of a photo do not fit it, or cannot be read."""


class NoSubject(CutoutError):
    """The network found no subject in the photo, and the options require one."""


class Overloaded(CutoutError):
    """No more photos are accepted now; `retry_after` is an estimate in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(CutoutError):
    """A photo was not done by its deadline."""


class NetworkFailed(CutoutError):
    """One photo could not be processed: the network failed on it even alone, or a library failed on it."""


class ModelUnavailable(CutoutError):
    """No photo can be processed on this host in its current state."""


class WeightsUnavailable(ModelUnavailable):
    """A checkpoint's file is missing, damaged, or could not be downloaded."""


class LicenceNotAccepted(ModelUnavailable):
    """A checkpoint's licence has not been accepted on this host."""


class RemoteRefused(ModelUnavailable):
    """The remote service refuses this host as it is configured; the message names the fix."""


class RemoteFailed(ModelUnavailable):
    """The remote service returned errors, or no valid mask."""


class DeviceUnavailable(ModelUnavailable):
    """The requested device or backend is not available."""


class OutOfMemory(DeviceUnavailable):
    """One photo needs more memory than the device or the host has."""


class DeviceLost(DeviceUnavailable):
    """The device failed or has stopped responding; this process cannot use it any more."""
