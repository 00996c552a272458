"""The paths of the APIs of others, with the shapes of their errors and the paths that take files."""

from fastapi import APIRouter

from cutout.app.compat import photoroom, rembg, remove_bg
from cutout.app.compat.photoroom import photoroom_error
from cutout.app.compat.rembg import rembg_error
from cutout.app.compat.remove_bg_errors import remove_bg_error

router = APIRouter()
for api in (remove_bg, photoroom, rembg):
    router.include_router(api.router)

ERROR_SHAPES = {"/v1.0": remove_bg_error, "/v1": photoroom_error, "/api/remove": rembg_error}
# The paths where a body may be a file in base64, and all that take files.
ENCODED_UPLOADS = ("/v1.0/removebg", "/v1.0/improve", "/v1/segment")
UPLOADS = (*ENCODED_UPLOADS, "/api/remove")
