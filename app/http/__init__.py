"""What all routes share: forms, errors, middleware, the OpenAPI document and the server."""
