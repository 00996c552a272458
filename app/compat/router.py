"""The paths of the APIs of others, with the shapes of their errors and the paths that take files."""

from fastapi import APIRouter

from cutout.app.compat import remove_bg
from cutout.app.compat.remove_bg_errors import remove_bg_error

router = APIRouter()
router.include_router(remove_bg.router)

ERROR_SHAPES = {"/v1.0": remove_bg_error}
# The paths that take files, and those of them where a body may be a file in base64.
UPLOADS = ("/v1.0/removebg", "/v1.0/improve")
ENCODED_UPLOADS = ("/v1.0/removebg", "/v1.0/improve")
