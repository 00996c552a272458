"""A service below a path of its proxy, such as `https://shop.example/cutout`."""

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send


class PathPrefix:
    """Take the prefix off a request's path where the proxy did not, so that everything inside sees the service's own paths.

    Requests without the prefix pass as they are: those on the host itself, and those of a proxy that strips it. It may be
    there more than once, as clients add paths of responses, which begin with it, to the service's whole public URL.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Wrap `app`; `prefix` is as `/cutout`."""
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            while path == self.prefix or path.startswith(f"{self.prefix}/"):
                path = path[len(self.prefix) :]
            if path != scope["path"]:
                # In place: the handler of errors outside all middleware sees the same scope.
                scope["path"] = path or "/"
                scope["raw_path"] = quote(scope["path"]).encode()
        await self.app(scope, receive, send)
