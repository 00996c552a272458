"""Headers that tell browsers what they may do with an answer, and who may keep it."""

# Of what is no page: data, pictures, errors. Shown in a window, it does nothing and loads nothing.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Of the pages: scripts and styles from this service's own files alone, none within the page; calls to this service alone.
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# Every answer has these, unless it says something else itself.
OF_EVERY_ANSWER = {
    "Content-Security-Policy": NOTHING,
    "X-Content-Type-Options": "nosniff",
    # A signed address is as good as a key.
    "Referrer-Policy": "no-referrer",
    # For browsers that do not know frame-ancestors.
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# Pictures and ZIPs, which never change: the user's own browser may keep them for a while, nobody on the way may.
KEPT_BY_ITS_USER = {"Cache-Control": "private, max-age=3600", "Vary": "Authorization, X-Api-Key"}
# Files of a page, which another version of the service may have changed: kept, and asked for anew each time.
KEPT_WHILE_UNCHANGED = {"Cache-Control": "no-cache"}
# Files whose address names their version.
KEPT_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}

# What a page of another origin may send and read, where CUTOUT_CORS_ORIGINS names it.
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
    "X-Cutout-Job",
    "X-Cutout-Model",
    "X-Cutout-No-Foreground",
    "X-Cutout-Processing-Ms",
    "X-Cutout-Substitute",
    "X-Request-Id",
)
CORS_SECONDS = 600
