"""Where training pods report: one HTTPS path, a token on every request, an answer at once.

Every replica serves it. A report that holds goes into the progress buffer; nothing is written here,
and no pod ever waits for the API server's answer to a write. There is no other path.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson
from aiohttp import web
from pydantic import ValidationError

from finetune_api import wire
from finetune_api.progress import ProgressReport
from finetune_operator.decide.values.observation import ObservedJob, ObservedPod
from finetune_operator.errors import ClusterError, SettingsError, TokenRefusedError
from finetune_operator.metrics import Metrics
from finetune_operator.progress.buffer import ProgressBuffer, RunKey
from finetune_operator.progress.pod_token import TokenVerifier, unverified_pod_uid
from finetune_operator.watch.store import Entry, Key, Store

READ_LIMIT_S = 10.0
"""Seconds for a whole request; a slower client is cut off."""
RETRY_AFTER_S = 10
UNKNOWN_POD = "The token's pod trains nothing here, or is too new to be known; report again."
ROUTE = f"/namespaces/{{namespace}}/{wire.PLURAL}/{{name}}/runs/{{run:[0-9]{{1,9}}}}/progress"


class RequestRefusedError(Exception):
    """A request that is not accepted.

    Args:
        code: HTTP status.
        message: one sentence.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StatusServer:
    """Takes progress reports.

    Args:
        verifier: verifies tokens.
        jobs: the Jobs.
        pods: their Pods.
        buffer: takes the reports.
        metrics: counts.
    """

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        jobs: Store[ObservedJob],
        pods: Store[ObservedPod],
        buffer: ProgressBuffer,
        metrics: Metrics,
    ) -> None:
        self._verifier = verifier
        self._jobs = jobs
        self._pods = pods
        self._buffer = buffer
        self._metrics = metrics

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application(
            client_max_size=wire.PROGRESS_BODY_LIMIT_BYTES, middlewares=[self._answer]
        )
        application.router.add_post(ROUTE, self._report)
        return application

    async def _report(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        job = await self._authenticate(request, key=key, run=int(request.match_info["run"]))
        try:
            report = ProgressReport.model_validate_json(await request.read())
        except ValidationError as error:
            raise RequestRefusedError(400, _sentence(error)) from error
        if not job.value.finished:
            self._buffer.put(
                RunKey(key=key, uid=job.owner_uid, run=job.value.run),
                report=report.trainer_status,
                time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                now=time.monotonic(),
            )
        return web.Response(status=202, body=b"{}", content_type="application/json")

    async def _authenticate(
        self, request: web.Request, *, key: Key, run: int
    ) -> Entry[ObservedJob]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RequestRefusedError(401, "The request has no bearer token.")
        try:
            pod_uid = unverified_pod_uid(token)
            job = self._job_of(pod_uid)
            if job is None:
                # Before anything is asked of the API server, or strangers could make us ask.
                raise RequestRefusedError(401, UNKNOWN_POD)
            audience = wire.token_audience(job.owner_uid, run)
            claims = await self._verifier.verify(token, audience=audience)
        except TokenRefusedError as error:
            raise RequestRefusedError(401, str(error)) from error
        if not self._may_report(job, key=key, run=run):
            raise RequestRefusedError(
                403, f"The token's pod does not train run {run} of {key} now."
            )
        if (claims.namespace, claims.pod_uid) != (key.namespace, pod_uid):
            raise RequestRefusedError(
                403, f"The token is of another namespace or pod than {key}'s."
            )
        return job

    def _job_of(self, pod_uid: str) -> Entry[ObservedJob] | None:
        pod = self._pods.get(pod_uid)
        return self._jobs.get(pod.owner_uid) if pod is not None else None

    def _may_report(self, job: Entry[ObservedJob], *, key: Key, run: int) -> bool:
        if (job.namespace, job.owner_name, job.value.run) != (key.namespace, key.name, run):
            return False
        mine = (job.value.run, job.value.attempt)
        siblings = self._jobs.owned_by(job.owner_uid)
        return all(
            (other.value.run, other.value.attempt) <= mine
            for other in siblings
            if other.value.role == job.value.role
        )

    @web.middleware
    async def _answer(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        headers = {}
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                response = await handler(request)
                self._metrics.progress_reports.labels(str(response.status)).inc()
                return response
        except RequestRefusedError as error:
            code, message = error.code, str(error)
        except web.HTTPRequestEntityTooLarge:
            code = 413
            message = f"A report has at most {wire.PROGRESS_BODY_LIMIT_BYTES} bytes."
        except web.HTTPException as error:
            code, message = error.status, f"{request.method} {request.path} is not served here."
        except TimeoutError:
            code, message = 408, f"The report did not arrive within {READ_LIMIT_S:.0f} seconds."
        except ClusterError:
            code, message = 503, "The API server cannot be asked about the token; report again."
            headers["Retry-After"] = str(RETRY_AFTER_S)
        self._metrics.progress_reports.labels(str(code)).inc()
        return web.Response(
            status=code,
            body=orjson.dumps({"code": code, "message": message}),
            content_type="application/json",
            headers=headers,
        )


async def serve(
    application: web.Application, *, port: int, tls: ssl.SSLContext | None
) -> web.AppRunner:
    """Serve an application on all addresses; the caller cleans the runner up.

    Raises:
        SettingsError: the port is taken.
    """
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port, ssl_context=tls, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"Port {port} cannot be served: {os.strerror(error.errno or 0)}. Set FINETUNE_STATUS_PORT and "
            "FINETUNE_PROBE_PORT to ports that are free."
        ) from error
    return runner


def _sentence(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the body"
    return f"The report is malformed: {where}: {fault['msg']}."
