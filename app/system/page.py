"""The web page at `/`, the API documentation at `/docs`, and their static files."""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from cutout.app import web
from cutout.app.billing.pricing import LARGEST_BATCH
from cutout.app.http.dependencies import SettingsDep
from cutout.app.http.security_headers import KEPT_FOR_GOOD, KEPT_WHILE_UNCHANGED, PAGE, PAGE_FILE
from cutout.app.http.static_files import PageFiles
from cutout.inference.imaging.decode import SUFFIXES

STATIC = Path(web.__file__).parent / "static"
# Accepted by media type too, for files with another extension or none.
TYPES = [f"image/{kind}" for kind in ("jpeg", "png", "webp", "avif", "heic", "heif", "tiff", "bmp", "gif")]

# Swagger UI comes from a wheel, so that the page loads nothing from other hosts.
SWAGGER = "fastapi_swagger"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")


@cache
def swagger_folder() -> Path:
    """Return the folder of Swagger UI's files. The wheel's code, which serves them differently, is not imported."""
    found = find_spec(SWAGGER)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "resources"


FILES = {
    "/static/swagger": PageFiles(swagger_folder(), SWAGGER_FILES, KEPT_FOR_GOOD),
    "/static": PageFiles(
        STATIC,
        [
            file.relative_to(STATIC).as_posix()
            for file in STATIC.rglob("*")
            if file.suffix in (".js", ".css", ".svg", ".jpg")
        ],
        {"Content-Security-Policy": PAGE_FILE, **KEPT_WHILE_UNCHANGED},
    ),
}
# The markup of the page's views, in the order of its navigation.
VIEWS = ("remove", "history", "account", "admin")
PARTS = ("sign-in", *VIEWS)

router = APIRouter(include_in_schema=False)


def filled(name: str, **values: object) -> str:
    """Return the text of a static HTML file with `values` substituted."""
    return Template((STATIC / name).read_text()).substitute(values)


def page_of(name: str, **values: object) -> HTMLResponse:
    """Return a static HTML file with `values` substituted."""
    return HTMLResponse(
        filled(name, **values), headers={"Content-Security-Policy": PAGE, **KEPT_WHILE_UNCHANGED}
    )


@router.head("/")
@router.get("/")
async def index(settings: SettingsDep) -> HTMLResponse:
    """Return the web page with its views, and with the accepted file types and size limits filled in."""
    values = {
        # Without a public path, the page's own address tells where its files are.
        "root": f"{settings.path_prefix}/" if settings.path_prefix else "",
        "accept": ",".join([*TYPES, *sorted(SUFFIXES)]),
        "most_images": LARGEST_BATCH,
        "photo_mb": settings.max_upload_mb,
        "batch_mb": settings.max_batch_mb,
        "free_hours": f"{settings.free_refine_hours:g}",
        "photos": "kept" if settings.keep_photos else "",
        "result_days": settings.result_days,
    }
    views = "".join(filled(f"views/{part}.html", **values) for part in PARTS)
    return page_of("index.html", views=views, root=values["root"])


@router.head("/docs")
@router.get("/docs")
async def docs() -> HTMLResponse:
    """Return the API documentation page, which uses Swagger UI."""
    return page_of("docs.html", version=version("fastapi-swagger"))
