"""A Serve route over the pages of all runs below a results folder: an index, and each run's report."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from ray import serve
from starlette.responses import Response

from serve.guard import digest
from serve.host import LOGS, proxy, quiet
from serve.settings import ServingSettings
from sftfilter.report.index import index_page, listed_runs

NAME = "reports"
_COOKIE = "sftfilter_reports"
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def build_app(root: Path, token_digest: str) -> FastAPI:
    """The pages of the runs below `root`, for whoever opened a link with the token once.

    A browser sends no bearer token: the link that is printed carries it, and it is then kept in a cookie that scripts
    cannot read and other sites do not send.
    """
    app = FastAPI(title="sftfilter reports", docs_url=None, redoc_url=None, openapi_url=None)

    def known(kept: Annotated[str | None, Cookie(alias=_COOKIE)] = None) -> None:
        if kept is None or not hmac.compare_digest(digest(kept), token_digest):
            raise HTTPException(401, "open the link that the command printed; it carries the token")

    @app.get("/open")
    async def enter(request: Request, token: str = "") -> Response:
        """Exchange the link's token for the cookie."""
        if not hmac.compare_digest(digest(token), token_digest):
            raise HTTPException(401, "this link's token is not the one that is in use")
        home = request.scope.get("root_path", "") + "/"
        reply = RedirectResponse(home, 303, headers=_HEADERS)
        reply.set_cookie(_COOKIE, token, httponly=True, samesite="strict", path=home)
        return reply

    @app.get("/", dependencies=[Depends(known)])
    def index() -> Response:
        """All runs that have a page."""
        return HTMLResponse(index_page(listed_runs(root)), headers=_HEADERS)

    @app.get("/{run}/", dependencies=[Depends(known)])
    def page(run: str) -> Response:
        """A run's page. Only names that the index lists are looked up: no path comes from a request."""
        found = {listed.name: listed.page for listed in listed_runs(root)}
        if run not in found:
            raise HTTPException(404, f"no run '{run}' with a page here")
        return FileResponse(found[run], media_type="text/html", headers=_HEADERS)

    @app.get("/{run}/{file}", dependencies=[Depends(known)])
    def table(run: str, file: str) -> Response:
        """A table beside a run's page. Only files that lie there are looked up: no path comes from a request."""
        pages = {listed.name: listed.page for listed in listed_runs(root)}
        tables = {path.name: path for path in pages[run].parent.glob("*.parquet")} if run in pages else {}
        if file not in tables:
            raise HTTPException(404, f"no table '{file}' beside the page of a run '{run}'")
        return FileResponse(tables[file], filename=file, headers=_HEADERS)

    return app


@contextlib.contextmanager
def host_reports(root: Path, settings: ServingSettings, token: str) -> Iterator[str]:
    """Host the pages below `root` on the connected cluster until the block ends; answers the link to open.

    The folder must be one that the cluster's nodes see, on shared storage if there are several.

    Raises:
        MachineError: the port is taken.
    """
    token_digest = digest(token)

    def build() -> FastAPI:  # runs in the replica
        return build_app(root, token_digest)

    deployment = serve.deployment(name="Reports", ray_actor_options={"num_cpus": 0})(serve.ingress(build)())
    with quiet(), proxy(settings) as (address, port):
        try:
            serve.run(deployment.bind(), name=NAME, route_prefix=f"/{NAME}", logging_config=LOGS)
            yield f"http://{address}:{port}/{NAME}/open?token={token}"
        finally:
            serve.delete(NAME)
