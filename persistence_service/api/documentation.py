"""`/docs` (Swagger UI) and `/redoc`, from files of an installed package: no request leaves the machine.

A Content-Security-Policy holds the browser to that, whatever the pages' scripts would like to fetch.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import as_file, files
from string import Template

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
$head
</head>
<body>
<div id="page"></div>
<script src="$library"></script>
<script>$start</script>
</body>
</html>
""")
# Addresses are relative, so that the pages work below any prefix of a proxy.
_SWAGGER_HEAD = '<link rel="stylesheet" href="docs/files/swagger/swagger-ui.css">'
_SWAGGER_START = """
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null, displayRequestDuration: true,
  tryItOutEnabled: true,
});
"""
_REDOC_HEAD = "<style>body { margin: 0; }</style>"
_REDOC_START = """
Redoc.init("openapi.json", {hideLoading: true}, document.getElementById("page"));
"""


def add_documentation(app: FastAPI) -> None:
    """Serve both pages and their files."""
    with as_file(files("fastapi_standalone_docs") / "static") as directory:
        app.mount("/docs/files", StaticFiles(directory=directory), name="documentation files")

    swagger = _page(app.title, _SWAGGER_HEAD, "docs/files/swagger/swagger-ui-bundle.js", _SWAGGER_START)
    redoc = _page(app.title, _REDOC_HEAD, "docs/files/redoc/redoc.standalone.js", _REDOC_START)

    @app.get("/docs", include_in_schema=False)
    async def show_swagger(_: Request) -> HTMLResponse:
        return swagger

    @app.get("/redoc", include_in_schema=False)
    async def show_redoc(_: Request) -> HTMLResponse:
        return redoc


def _page(title: str, head: str, library: str, start: str) -> HTMLResponse:
    digest = b64encode(sha256(start.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    html = _PAGE.substitute(title=title, head=head, library=library, start=start)
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})
