// The API documentation; validatorUrl is null so that no external validator is called.

async function show() {
  const described = await (await fetch("openapi.json")).json();
  SwaggerUIBundle({
    // Calls go where this page comes from, whatever path a proxy has put before it.
    spec: { ...described, servers: [{ url: new URL(".", location).pathname.replace(/\/$/, "") || "/" }] },
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
}

show();
