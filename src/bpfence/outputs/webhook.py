# SPDX-License-Identifier: Apache-2.0
"""Lines in, HTTP requests out: batches that are sent until the other side has answered that it has them.

Made by `specs`; written by a `Sink` in its thread. A request is one POST of one line, or of several with a newline after each. Answers:

    2xx                     it has them
    400, 413, 415, 422      it will never take them: a batch is sent again line by line, and a single line is dropped and counted
    any other, none         sent again later, after what Retry-After says where that is given

A line whose answer was lost is sent twice; `X-Bpfence-Delivery` then is the same, being the hash of the content. What is sent to log stores
(`stores`, `otlp`) differs in `content` and in what a good answer says, `taken`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import SplitResult

from bpfence.outputs.places import BusyError, RefusedError

SECONDS: Final = 10.0
"""For how long the other side may say nothing."""
MAX_ANSWER: Final = 1 << 16
MAX_BODY: Final = 1 << 20
"""Bytes of a batch, unless a single line is longer."""
NEVER: Final = frozenset((400, 413, 415, 422))
BUSY: Final = frozenset((429, 503))


class Answer(NamedTuple):
    """What the other side said. `after`: for how many seconds it wants nothing."""

    status: int
    reason: str
    after: float
    content: bytes


class Webhook:
    """One URL. `batch`: lines of a request. `kind`: the type of one line. `secret`, `token`: asked for anew at each connection.

    `scheme`: of the token. `headers`: more of them. `most`: bytes of an answer that are read.
    """

    most = MAX_ANSWER

    def __init__(
        self,
        name: str,
        url: SplitResult,
        *,
        batch: int,
        kind: str = "",
        context: Callable[[], ssl.SSLContext] | None,
        secret: Callable[[], bytes] | None = None,
        token: Callable[[], bytes] | None = None,
        scheme: str = "Bearer",
        headers: Mapping[str, str] = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._host, self._port = url.hostname or "", url.port
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._batch = batch
        self._kind = kind
        self._context = context
        self._secret, self._token = secret, token
        self._scheme, self._headers = scheme, headers
        self._key, self._word = b"", b""
        self._now = now
        self._connection: http.client.HTTPConnection | None = None
        self._singly = 0

    def write(self, lines: Sequence[bytes]) -> int:
        """Send as many lines as one request takes; how many the other side has."""
        batch = list(lines[: 1 if self._singly else self._batch])
        size = sum(map(len, batch)) + len(batch)
        while len(batch) > 1 and size > MAX_BODY:
            size -= len(batch.pop()) + 1
        answer = self._asked(*self.content(batch))
        status, reason, after, _ = answer
        if 200 <= status < 300:
            self._singly = max(0, self._singly - len(batch))
            return self.taken(answer, batch)
        if status in NEVER:
            if len(batch) > 1:
                self._singly = len(batch)
                return self.write(lines)
            self._singly = max(0, self._singly - 1)
            raise RefusedError(1, f"the answer was {status} {reason}")
        raise BusyError(f"the answer was {status} {reason}", after if status in BUSY else 0.0)

    def content(self, batch: Sequence[bytes]) -> tuple[bytes, str]:
        """The content of a request, and its type."""
        if self._batch == 1:
            return batch[0], self._kind
        return b"\n".join(batch) + b"\n", "application/x-ndjson" if self._kind == "application/json" else self._kind

    def taken(self, _answer: Answer, batch: Sequence[bytes]) -> int:
        """How many lines the other side has taken, by an answer that says yes. PartlyError, OSError."""
        return len(batch)

    def _asked(self, body: bytes, kind: str) -> Answer:
        """The answer. One try more where a connection that was kept has ended meanwhile."""
        kept = self._connection is not None
        try:
            return self._request(body, kind)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not kept or isinstance(error, TimeoutError):
                raise _told(error) from error
        try:
            return self._request(body, kind)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _told(error) from error

    def _request(self, body: bytes, kind: str) -> Answer:
        connection = self._connected()
        headers: dict[str, str | bytes] = {
            "Content-Type": kind,
            "User-Agent": "bpfence",
            "X-Bpfence-Delivery": hashlib.sha256(body).hexdigest()[:32],
            **self._headers,
        }
        if self._key:
            moment = str(int(self._now()))
            signed = hmac.new(self._key, moment.encode() + b"." + body, "sha256").hexdigest()
            headers |= {"X-Bpfence-Timestamp": moment, "X-Bpfence-Signature": f"sha256={signed}"}
        if self._word:
            word = base64.b64encode(self._word) if self._scheme == "Basic" else self._word
            headers["Authorization"] = self._scheme.encode() + b" " + word
        connection.request("POST", self._target, body, headers)
        response = connection.getresponse()
        content = response.read(self.most)
        if not response.isclosed():  # there is more, which nobody wants
            self.close()
        after = response.getheader("Retry-After", "")
        seconds = float(after) if re.fullmatch("[0-9]{1,6}", after) else 0.0
        return Answer(response.status, "".join(char for char in response.reason[:80] if " " <= char <= "~"), seconds, content)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._key = self._secret() if self._secret is not None else b""
            self._word = self._token() if self._token is not None else b""
            if self._context is not None:
                self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=SECONDS, context=self._context())
            else:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=SECONDS)
        return self._connection

    def wait(self, seconds: float) -> None:
        """Never needed: a write waits by itself."""

    def reopen(self) -> None:
        """Connect anew with the next line; certificates, keys and tokens are read again."""
        self.close()

    def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _told(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(None, f"no HTTP answer: {type(error).__name__}")
