"""What the server relies on beyond documented interfaces: each source is still the one that was read."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from typing import Any

import fastapi
import litserve
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# serving/direct/protocol.py overrides these, calls them, or reads and sets their attributes.
PROTOCOL = {
    HttpToolsProtocol.__init__: "4f08999410347141",  # attributes: cycle, pipeline, flow, ...
    HttpToolsProtocol.connection_made: "6efb565ff3d36b91",
    HttpToolsProtocol.connection_lost: "c91a4c9bf2e29c55",  # reads and sets attributes of cycle
    HttpToolsProtocol.data_received: "010a7ae59a5d3b1a",
    HttpToolsProtocol.send_400_response: "ae5a4a3782b646fd",
    HttpToolsProtocol.on_message_begin: "96d377fdc7c2baef",
    HttpToolsProtocol.on_url: "37be44e962b04ca8",
    HttpToolsProtocol.on_header: "65d62c044f61fdbd",  # names in lower case; expect_100_continue
    HttpToolsProtocol.on_headers_complete: "1ea8589acfad92d8",  # when a request waits in pipeline
    HttpToolsProtocol._start_asgi_task: "9c08c2571ae9b038",  # called for each request that the app gets
    HttpToolsProtocol.on_body: "dba9c32aeba35b6a",
    HttpToolsProtocol.on_message_complete: "1fbad42dc31fc01f",
    HttpToolsProtocol.on_response_complete: "64e254f28e389e76",
    HttpToolsProtocol.timeout_keep_alive_handler: "8b53bf5f2e202970",
    HttpToolsProtocol._unset_keepalive_if_required: "00a6a4e47214e68e",
    HttpToolsProtocol.shutdown: "d7351fa33f00d430",  # sets keep_alive of cycle
    RequestResponseCycle.__init__: "4d2f220910c33c12",  # Refused stands in its place
    RequestResponseCycle.receive: "8124ae006be71184",  # http.disconnect where disconnected is set
    RequestResponseCycle.send: "abdd8601b326a8da",  # response_started
    FlowControl: "126debcdaa894c83",  # write_paused
}
# serving/direct/draining.py takes over SIGTERM while uvicorn runs, and hands it on; supervisor.py runs it.
SHUTDOWN = {
    uvicorn.Server.run: "239e0133d4307e38",
    uvicorn.Server.serve: "112ef41af52167e3",
    uvicorn.Server._serve: "4575b7a50adfede8",
    uvicorn.Server.capture_signals: "e1bbcd4770d1c887",
    uvicorn.Server.handle_exit: "553276efa26e09ea",
    uvicorn.Server.shutdown: "9b33c50562992b1e",
}
LITSERVE = {
    litserve.LitServer.lifespan: "6e72c5b311ccd68c",  # serving/direct/route.py answers in its place
    litserve.LitServer._register_internal_endpoints: "86ca2498aa97b363",  # page.py replaces /
    litserve.LitServer.register_endpoints: "f905dce13d56619a",  # api.py has the annotations it reads
    litserve.LitServer._register_api_endpoints: "df52ecfb1cd8b261",
    litserve.LitServer._register_middleware: "efec3f6b93b964c5",  # app.py adds its own around them
    litserve.LitServer.setup_auth: "219a94860523afcb",  # api.py: authorize stands in
    litserve.LitServer.run: "a53f4b3f53ea3e13",  # __main__.py: how it ends on Ctrl-C
    litserve.LitServer._start_worker_monitoring: "aa423155d312a88a",  # __main__.py silences what it logs then
    litserve.LitServer._perform_graceful_shutdown: "25cc72bc2989abad",  # it ends workers by SIGTERM
    litserve.LitServer.launch_inference_worker: "15d290e5a5ee6fa5",  # app.py forks what it spawns
    litserve.LitServer.launch_single_inference_worker: "c2d7b5b4cdf1f0e3",
    litserve.LitServer._init_manager: "ec955dbe647ca5b4",  # app.py forks its manager
}
FASTAPI = {
    fastapi.FastAPI.setup: "b1d5170e8194ac54",  # docs_page.py replaces its /docs and /redoc
}
READ = PROTOCOL | SHUTDOWN | LITSERVE | FASTAPI
"""By what was read: the beginning of its source's SHA-256."""


@pytest.mark.parametrize("owner", READ, ids=lambda owner: owner.__qualname__)
def test_the_source_is_the_one_that_was_read(owner: Any) -> None:
    package = owner.__module__.partition(".")[0]
    assert hashlib.sha256(inspect.getsource(owner).encode()).hexdigest()[:16] == READ[owner], (
        f"{package} {version(package)} has changed {owner.__qualname__}: read it, see that what the comment "
        "beside it names still fits, and note the new hash here"
    )
