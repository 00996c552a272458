// The API documentation; validatorUrl is null so that no external validator is called.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
  // The cookie of the page counts here too.
  requestInterceptor: (request) => {
    request.headers["X-Cutout-Page"] = "1";
    return request;
  },
});
