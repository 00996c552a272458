"""Response headers for browsers: content security, caching and CORS."""

# For responses that are not pages (data, images, errors): opened in a browser, they run and load nothing.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# For pages: scripts and styles only from files of this service, none inline; requests only to this service.
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# For files of a page: a worker has the policy of its own file, and imports others.
PAGE_FILE = (
    "default-src 'none'; script-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Added to every response that does not set them itself.
OF_EVERY_ANSWER = {
    "Content-Security-Policy": NOTHING,
    "X-Content-Type-Options": "nosniff",
    # A signed URL gives access like a key, so it must not leak to other sites.
    "Referrer-Policy": "no-referrer",
    # For browsers that do not know frame-ancestors.
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# For images and ZIPs, which never change: the browser may cache them for a while, shared caches may not.
KEPT_BY_ITS_USER = {"Cache-Control": "private, max-age=3600", "Vary": "Authorization, X-Api-Key, Cookie"}
# For files of a page, which may change with the version of the service: cached, but revalidated each time.
KEPT_WHILE_UNCHANGED = {"Cache-Control": "no-cache"}
# For files whose URL contains their version.
KEPT_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}

# Methods and headers that pages of the origins in CUTOUT_CORS_ORIGINS may send and read.
CORS_METHODS = ("GET", "HEAD", "POST", "DELETE")
CORS_SENT = (
    "Authorization",
    "X-Api-Key",
    "Content-Type",
    "Idempotency-Key",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "X-Request-Id",
)
CORS_READ = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Length",
    "Content-Range",
    "ETag",
    "Retry-After",
    "X-Cutout-Backend",
    "X-Cutout-Coverage",
    "X-Cutout-Job",
    "X-Cutout-Model",
    "X-Cutout-Needs-Review",
    "X-Cutout-No-Foreground",
    "X-Cutout-Processing-Ms",
    "X-Cutout-Store",
    "X-Cutout-Subject",
    "X-Cutout-Substitute",
    "X-Cutout-Uncertainty",
    "X-Request-Id",
)
CORS_SECONDS = 600
