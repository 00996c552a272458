"""HTTP code shared by all routes: form parsing, errors, middleware, the OpenAPI document and the server."""
