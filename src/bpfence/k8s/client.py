# SPDX-License-Identifier: Apache-2.0
"""A path of the API server in, the bytes of its answer out, of a bounded size and in a bounded time.

Called by `watch` and `status`. The library finds the server, its certificates and who we are (and reads a service account's token again,
which changes); answers are not made into its models, because those have no bound, and cost a hundred times what is read of them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from bpfence.errors import BpfenceError, UsageError
from bpfence.events.values import printable

MAX_ANSWER: Final = 64 << 20
MAX_LINE: Final = 8 << 20
"""Of a watch: one object. The API server takes none over 3 MiB."""
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 150.0
"""A watch in which nothing comes for so long is dead: there is a bookmark about every minute."""
APPLY: Final = "application/apply-patch+yaml"
_CHUNK: Final = 1 << 16
MISSING: Final = "the Kubernetes client is not installed: install bpfence[kubernetes]"


class ApiError(BpfenceError):
    """The API server refused, or could not be asked. `status`: its HTTP status, 0 where there was no answer."""

    exit_code = 3

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class TooLargeError(ApiError):
    """An answer has more bytes than are taken: ask for less of it."""


class GoneError(ApiError):
    """410: what was asked for has been compacted away; list again."""


class _Status(msgspec.Struct):
    message: str = ""
    code: int = 0


class Page(NamedTuple):
    """A request: `query` in order, `accept` the form of the answer, `watched` that of a watch's objects where it is another."""

    path: str
    query: Mapping[str, str] = {}
    accept: str = "application/json"
    watched: str = ""


class Api:
    """An API server. `pool`: urllib3's, with certificates; `authorize`: the headers that say who we are, now."""

    def __init__(self, host: str, pool: Any, authorize: Any = dict) -> None:
        self._host = host.rstrip("/")
        self._pool = pool
        self._authorize = authorize

    def request(
        self, method: str, page: Page, body: bytes | None = None, content: str = "application/json", seconds: float = ANSWER_SECONDS
    ) -> bytes:
        """The body of an answer. ApiError for every other status than 2xx, and where no answer comes."""
        deadline = time.monotonic() + seconds
        with self._answer(method, page, body, content, min(seconds, ANSWER_SECONDS)) as answer:
            parts, size = [], 0
            for part in answer.stream(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER:
                    raise TooLargeError(f"the answer to {page.path} is larger than {MAX_ANSWER >> 20} MiB")
                if time.monotonic() > deadline:
                    raise ApiError(f"the answer to {page.path} did not come in {seconds:g} s")
        return b"".join(parts)

    @contextlib.contextmanager
    def lines(self, page: Page, idle: float = IDLE_SECONDS) -> Iterator[Lines]:
        """The lines of an answer that goes on, as they come. ApiError as `request`, also from the lines."""
        with self._answer("GET", page, None, "", idle) as answer:
            yield Lines(answer)

    @contextlib.contextmanager
    def _answer(self, method: str, page: Page, body: bytes | None, content: str, idle: float) -> Iterator[Any]:
        import urllib3

        headers = {"Accept": page.accept, "User-Agent": "bpfence", **self._authorize(), **({"Content-Type": content} if body else {})}
        url = f"{self._host}{page.path}{'?' + urlencode(page.query) if page.query else ''}"
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, idle), read=idle)
        try:
            answer = self._pool.request(
                method, url, body=body, headers=headers, preload_content=False, redirect=False, retries=False, timeout=timeout
            )
            try:
                if not 200 <= answer.status <= 299:
                    raise _refused(page.path, answer.status, answer.read(_CHUNK))
                yield answer
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(f"{page.path}: {printable(str(error))[:300]}") from None


class Lines:
    """The lines of an answer; ends when the server ends it. `close` may be called by another thread."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        waiting: list[bytes] = []
        size = 0
        for part in self._answer.stream(_CHUNK):
            *whole, rest = part.split(b"\n")
            for line in whole:
                yield b"".join((*waiting, line))
                waiting, size = [], 0
            waiting.append(rest)
            size += len(rest)
            if size > MAX_LINE:
                raise ApiError(f"an object is larger than {MAX_LINE >> 20} MiB")

    def close(self) -> None:
        """Have whoever waits for a line wait no more."""
        with contextlib.suppress(Exception):  # it may have ended by itself
            (getattr(self._answer, "shutdown", None) or self._answer.close)()


def _refused(path: str, status: int, body: bytes) -> ApiError:
    try:
        said = msgspec.json.decode(body, type=_Status).message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = ""
    return (GoneError if status == 410 else ApiError)(f"{path}: HTTP status {status}: {printable(said[:300]) or 'no reason given'}", status)


def connect(kubeconfig: Path | None) -> Api:
    """The server of a kubeconfig file; None: of the cluster that this process runs in. UsageError where neither can be had."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise UsageError(MISSING) from None
    made = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=made)
        else:
            config.load_kube_config(config_file=str(kubeconfig), client_configuration=made)
    except Exception as error:  # whatever is wrong in the file, the library raises what it comes upon
        where = f"kubeconfig {printable(str(kubeconfig))}" if kubeconfig else "this process does not run in a cluster, give --kubeconfig"
        raise UsageError(f"{where}: {printable(str(error))[:300]}") from None
    pool = client.ApiClient(made).rest_client.pool_manager
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it warns of is tried again here

    def authorize() -> dict[str, str]:
        return {entry["key"]: entry["value"] for entry in made.auth_settings().values() if entry["in"] == "header" and entry["value"]}

    return Api(made.host, pool, authorize)
