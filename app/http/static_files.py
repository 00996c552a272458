"""Static files of the web pages, with their cache headers."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope


class PageFiles(StaticFiles):
    """Serves only the named files of a folder, each with the given headers."""

    def __init__(self, folder: Path, names: Collection[str], headers: Mapping[str, str]) -> None:
        super().__init__(directory=folder)
        self._names = names
        self._headers = headers

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if path in self._names else ("", None)

    def file_response(
        self,
        full_path: os.PathLike[str] | str,
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(Headers(self._headers))
        return response
