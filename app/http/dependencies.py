"""FastAPI dependencies shared by the endpoints of all domains."""

from typing import Annotated

from fastapi import Depends

from cutout.app.config.settings import Settings
from cutout.app.core.shutdown import Shutdown
from cutout.app.db.session import Database
from cutout.app.http.openapi import raises
from cutout.app.http.state import provided
from cutout.app.net.image_fetcher import ImageFetcher
from cutout.app.observability.exposition import Exposition
from cutout.app.observability.metrics import Metrics
from cutout.app.observability.tracing import Tracing
from cutout.app.ratelimit.limits import RateLimited, RateLimits
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.presets import Presets

SettingsDep = Annotated[Settings, Depends(provided(Settings))]
DatabaseDep = Annotated[Database, Depends(provided(Database))]
StorageDep = Annotated[Storage, Depends(raises(StorageError)(provided(Storage)))]
RateLimitsDep = Annotated[RateLimits, Depends(raises(RateLimited)(provided(RateLimits)))]
ImageFetcherDep = Annotated[ImageFetcher, Depends(provided(ImageFetcher))]
PresetsDep = Annotated[Presets, Depends(provided(Presets))]
MetricsDep = Annotated[Metrics, Depends(provided(Metrics))]
TracingDep = Annotated[Tracing, Depends(provided(Tracing))]
ExpositionDep = Annotated[Exposition, Depends(provided(Exposition))]
# Set when the server is told to stop; responses that would otherwise never end, such as event streams, end then.
ShutdownDep = Annotated[Shutdown, Depends(provided(Shutdown))]
