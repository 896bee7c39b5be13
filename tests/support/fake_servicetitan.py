"""A small ServiceTitan for tests: token, export feeds, lists, and faults on demand.

Each feed is a log of row versions in the order in which they were modified; an export token is a
position in it. Everything asked is remembered in `requests` as (seconds, path, query).
"""
import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

EXPORTS = {
    "/crm/v2/tenant/7/export/customers": "customers",
    "/crm/v2/tenant/7/export/customers/contacts": "contacts",
    "/crm/v2/tenant/7/export/locations": "locations",
    "/jpm/v2/tenant/7/export/jobs": "jobs",
    "/jpm/v2/tenant/7/export/appointments": "appointments",
    "/dispatch/v2/tenant/7/export/appointment-assignments": "assignments",
    "/sales/v2/tenant/7/export/estimates": "estimates",
    "/accounting/v2/tenant/7/export/invoices": "invoices",
    "/settings/v2/tenant/7/export/business-units": "business_units",
    "/settings/v2/tenant/7/export/technicians": "technicians",
}
LISTS = {
    "/jpm/v2/tenant/7/job-types": "job_types",
    "/marketing/v2/tenant/7/campaigns": "campaigns",
    "/settings/v2/tenant/7/tag-types": "tag_types",
    "/crm/v2/tenant/7/customers": "customers",
    "/crm/v2/tenant/7/customers/contacts": "contacts",
    "/crm/v2/tenant/7/locations": "locations",
    "/jpm/v2/tenant/7/jobs": "jobs",
    "/jpm/v2/tenant/7/appointments": "appointments",
    "/sales/v2/tenant/7/estimates": "estimates",
    "/accounting/v2/tenant/7/invoices": "invoices",
    "/settings/v2/tenant/7/business-units": "business_units",
    "/settings/v2/tenant/7/technicians": "technicians",
}


class FakeServiceTitan:
    def __init__(self, secret="secret"):
        self.secret, self.app_key = secret, "key"
        self.page = 500
        self.rows = {}      # feed -> [row, ...] as modified
        self.faults = []    # fn(path, query) -> None, or (status, headers, body)
        self.requests, self.tokens = [], 0
        self.valid = set()
        self.now = None     # what the Date header shows; seconds
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def date_time_string(self, timestamp=None):
                return formatdate(fake.now or time.time(), usegmt=True)

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                self.answer(*fake.token(parse_qs(self.rfile.read(length).decode())))

            def do_GET(self):
                url = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                self.answer(*fake.get(url.path, query, self.headers))

            def answer(self, status, headers, body):
                body = body if isinstance(body, bytes) else body.encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except BrokenPipeError:
                    self.close_connection = True   # the client was killed

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, feed, *rows):
        self.rows.setdefault(feed, []).extend(rows)

    def asked(self, part):
        return [r for r in self.requests if part in r[1]]

    def token(self, form):
        if form.get("client_secret") != [self.secret] or form.get("client_id") != ["id"]:
            return 400, {"Content-Type": "application/json"}, '{"error":"invalid_client"}'
        self.tokens += 1
        token = "token-%d" % self.tokens
        self.valid.add(token)
        return 200, {}, json.dumps({"access_token": token, "expires_in": 900,
                                    "token_type": "Bearer"})

    def get(self, path, query, headers):
        with self.lock:
            self.requests.append((time.monotonic(), path, query))
            for fault in list(self.faults):
                answer = fault(path, query)
                if answer:
                    return answer
        if headers.get("ST-App-Key") != self.app_key:
            return 403, {}, '{"title":"app key is not valid"}'
        if headers.get("Authorization", "").removeprefix("Bearer ") not in self.valid:
            return 401, {}, '{"title":"expired"}'
        if path in EXPORTS:
            return 200, {}, self.export(EXPORTS[path], query["from"])
        if path in LISTS:
            return 200, {}, self.list(LISTS[path], query)
        return 404, {}, '{"title":"Not Found"}'

    def export(self, feed, start):
        log = self.rows.get(feed, [])
        at = int(start[1:]) if start.startswith("t") else 0
        rows = log[at:at + self.page]
        return envelope(rows, {"hasMore": at + len(rows) < len(log),
                               "continueFrom": "t%d" % (at + len(rows))})

    def list(self, feed, query):
        newest = {}
        for row in self.rows.get(feed, []):
            newest[row["id"]] = row
        rows = list(newest.values())
        for name, key in (("ids", "id"), ("customerIds", "customerId")):
            if name in query:
                wanted = {int(i) for i in query[name].split(",")}
                rows = [r for r in rows if r[key] in wanted]
        if "modifiedOnOrAfter" in query:
            rows = [r for r in rows if r["modifiedOn"] >= query["modifiedOnOrAfter"][:19]]
        if "sort" in query:
            rows.sort(key=lambda r: r["modifiedOn"])
        page, size = int(query.get("page", 1)), min(self.page, int(query.get("pageSize", 50)))
        part = rows[(page - 1) * size:page * size]
        return envelope(part, {"page": page, "pageSize": size, "hasMore": page * size < len(rows)})


def envelope(rows, fields):
    # A row may carry its own text, for what Python would not write.
    texts = [row["raw"] if "raw" in row else json.dumps(row) for row in rows]
    head = json.dumps(fields)[:-1]
    return head + ', "data": [' + ", ".join(texts) + "]}"
