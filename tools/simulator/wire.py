"""HTTP/1.1 on asyncio: a small server with keep-alive and pipelining, and a client for webhooks.

The server parses a request, asks `handle(request)` for an answer and writes answers in order. An
answer is (status, headers, body); `Later` delays it, `Drop` closes the connection instead.
"""
import asyncio
import json
from urllib.parse import parse_qsl, unquote, urlsplit

REASONS = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request",
           401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           409: "Conflict", 413: "Payload Too Large", 415: "Unsupported Media Type",
           422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error",
           502: "Bad Gateway", 503: "Service Unavailable"}
MAX_HEAD, MAX_BODY = 64 * 1024, 32 * 1024 * 1024


class Drop:
    """Close the connection without an answer; after `delay` seconds."""

    def __init__(self, delay=0):
        self.delay = delay


class Later:
    """Give this answer after `delay` seconds."""

    def __init__(self, delay, answer):
        self.delay, self.answer = delay, answer


class Request:
    __slots__ = ("method", "target", "path", "query", "headers", "body")

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        raw_path, _, raw_query = target.partition("?")
        self.path = unquote(raw_path)
        self.query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}

    def form(self):
        return parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)

    def json(self):
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    def __init__(self, handle, stamp):
        self.handle, self.stamp = handle, stamp
        self.buffer = bytearray()
        self.busy = self.closing = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        if not self.busy:
            self.pump()

    def connection_lost(self, error):
        self.closing = True

    def pump(self):
        while not self.busy and not self.closing:
            request = self.next_request()
            if request is None:
                return
            self.settle(self.handle(request), request)

    def next_request(self):
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                self.transport.close()
            return None
        lines = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        try:
            method, target, _ = lines[0].split(" ", 2)
            length = int(headers.get("content-length", "0"))
        except ValueError:
            self.transport.close()
            return None
        if length > MAX_BODY:
            self.transport.close()
            return None
        if headers.get("expect", "").lower() == "100-continue" and len(self.buffer) == end + 4:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body, used = self.chunked(end + 4)
            if body is None:
                return None
            del self.buffer[:used]
        else:
            if len(self.buffer) < end + 4 + length:
                return None
            body = bytes(self.buffer[end + 4:end + 4 + length])
            del self.buffer[:end + 4 + length]
        if headers.get("connection", "").lower() == "close":
            headers["connection"] = "close"
        return Request(method, target, headers, body)

    def chunked(self, at):
        body = b""
        while True:
            line = self.buffer.find(b"\r\n", at)
            if line < 0:
                return None, 0
            size = int(bytes(self.buffer[at:line]).split(b";")[0] or b"0", 16)
            if len(self.buffer) < line + 2 + size + 2:
                return None, 0
            body += bytes(self.buffer[line + 2:line + 2 + size])
            at = line + 2 + size + 2
            if not size:
                return body, at

    def settle(self, answer, request):
        if isinstance(answer, (Later, Drop)) and answer.delay:
            delay, answer.delay = answer.delay, 0
            self.busy = True
            asyncio.get_running_loop().call_later(delay, self.resume, answer, request)
            return
        if isinstance(answer, Later):
            answer = answer.answer
        if isinstance(answer, Drop):
            self.closing = True
            self.transport.close()
            return
        status, headers, body = answer
        keep = request.headers.get("connection") != "close"
        head = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Unknown")),
                "Date: " + self.stamp()]
        head += ["%s: %s" % pair for pair in headers]
        if status != 204:
            head.append("Content-Length: %d" % len(body))
        head.append("Connection: " + ("keep-alive" if keep else "close"))
        self.transport.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        if not keep:
            self.closing = True
            self.transport.close()

    def resume(self, answer, request):
        self.busy = False
        if not self.closing:
            self.settle(answer, request)
            self.pump()


async def post(url, headers, body, connect_to=None, timeout=10):
    """POSTs and returns the status; 0 when nobody answered. connect_to: another host:port."""
    parts = urlsplit(url)
    if connect_to:
        host, _, port = connect_to.rpartition(":")
    else:
        host, port = parts.hostname, parts.port or 80
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    head = ["POST %s HTTP/1.1" % target, "Host: " + parts.netloc, "Connection: close",
            "Content-Length: %d" % len(body)] + ["%s: %s" % pair for pair in headers]
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
            line = await reader.readline()
            return int(line.split()[1])
    except (OSError, ValueError, IndexError, asyncio.TimeoutError):
        return 0
    finally:
        if writer:
            writer.close()
