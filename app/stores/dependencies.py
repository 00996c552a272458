"""The stores as a FastAPI dependency."""

from typing import Annotated

from fastapi import Depends

from cutout.app.http.state import provided
from cutout.app.stores.service import ResultStores

ResultStoresDep = Annotated[ResultStores, Depends(provided(ResultStores))]
