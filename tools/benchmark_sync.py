"""Pages of ServiceTitan's exports over HTTP into PostgreSQL: all new, and all unchanged.

`moonwright sync` copies them beside a running daemon, from a server that only hands out pages made
beforehand. The ceiling is PostgreSQL's own: the same statement for the same pages, in the same
database without its triggers, sent by a bare client on a connection per feed, as sync has one.
"""
import ctypes
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import threading
import time

from database import pq
from process_cost import cpu

PAGE = 500
TENANT = "7"
T = "2025-%02d-%02dT10:%02d:%02d.1234567Z"


def moment(n):
    return T % (n % 12 + 1, n % 28 + 1, n % 60, n % 59)


def customer(n):
    return {"id": 1000000 + n, "active": True, "name": "Ann%s Lee" % "abcdefghij"[n % 10],
            "type": "Commercial" if n % 9 == 0 else "Residential",
            "address": {"street": "%d Main Street" % (n % 9000), "unit": None, "city": "Columbus",
                        "state": "OH", "zip": "%05d" % (43000 + n % 300), "country": "USA",
                        "latitude": 39.9612, "longitude": -82.9988},
            "customFields": [{"typeId": 12, "name": "Source", "value": "Referral"}],
            "balance": n % 700 / 4, "taxExempt": False, "tagTypeIds": [], "doNotMail": False,
            "doNotService": False, "nationalAccount": False, "createdOn": moment(n),
            "createdById": 9601, "modifiedOn": moment(n), "mergedToId": None,
            "paymentTermId": None, "creditLimit": None, "creditLimitBalance": None,
            "externalData": [{"key": "legacy", "value": "C-%08d" % n}]}


def contact(n):
    number = "(614) 555-%04d" % (n % 10000)
    return {"id": 2000000 + n, "customerId": 1000000 + n, "active": True, "type": "MobilePhone",
            "value": number, "memo": None, "phoneSettings": {"phoneNumber": number,
                                                             "doNotText": False},
            "preferences": {"marketingUpdatesEnabled": True, "jobRemindersEnabled": True},
            "createdOn": moment(n), "modifiedOn": moment(n)}


def estimate(n):
    return {"id": 3000000 + n, "jobId": 4000000 + n, "projectId": None, "locationId": 5000000 + n,
            "customerId": 1000000 + n, "name": "Replace condenser", "jobNumber": "J%07d" % n,
            "status": {"value": 1, "name": "Open"}, "reviewStatus": "None", "summary": "As discussed",
            "createdOn": moment(n), "modifiedOn": moment(n), "soldOn": None, "soldBy": None,
            "active": True, "subtotal": 4000 + n % 900 / 4, "tax": 320.25, "businessUnitId": 1,
            "businessUnitName": "HVAC", "isRecommended": True, "budgetCodeId": None,
            "isChangeOrder": False, "externalLinks": [],
            "items": [{"id": n * 2 + i, "sku": {"id": 70 + i, "name": "AC-3T-%d" % i,
                                                "displayName": "Condenser, 3 t", "type": "Equipment",
                                                "soldHours": 4.5},
                       "skuAccount": "Sales", "description": "Outdoor unit with pad", "qty": 1.0,
                       "unitRate": 2000.5, "total": 2000.5, "unitCost": 1200.25, "totalCost": 1200.25,
                       "createdOn": moment(n), "modifiedOn": moment(n)} for i in range(2)]}


FEEDS = {"customers": ("/crm/v2/tenant/7/export/customers", "st_customers", customer),
         "contacts": ("/crm/v2/tenant/7/export/customers/contacts", "st_contacts", contact),
         "estimates": ("/sales/v2/tenant/7/export/estimates", "st_estimates", estimate)}


def pages_of(feed, rows):
    """The arrays of the feed's pages, as JSON."""
    make = FEEDS[feed][2]
    return [json.dumps([make(n) for n in range(first, min(first + PAGE, rows + 1))]).encode()
            for first in range(1, rows + 1, PAGE)]


# ---- the page server: a process of its own

def answer(body):
    return (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: " + time.strftime(
        "%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def serve_one(connection, answers):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        head, data = data.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(data) < int(length[1]):
            data += connection.recv(65536)
        data = data[int(length[1]):] if length else data
        target = head.split(b" ", 2)[1].decode()
        path, _, query = target.partition("?")
        asked = re.search(r"from=t(\d+)", query)
        connection.sendall(answers[path][int(asked[1]) if asked else 0])


def serve(listener, feeds):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    answers = {"/connect/token": [answer(b'{"access_token":"bench","expires_in":900}')]}
    for feed, pages in feeds.items():
        answers[FEEDS[feed][0]] = [
            answer(b'{"hasMore":%s,"continueFrom":"t%d","data":%s}'
                   % (b"true" if n + 1 < len(pages) else b"false", n + 1, page))
            for n, page in enumerate(pages)]
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_one, args=(connection, answers), daemon=True).start()


class PageServer:
    def __init__(self, feeds):
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.process = multiprocessing.get_context("fork").Process(
            target=serve, args=(listener, feeds), daemon=True)
        self.process.start()
        listener.close()

    def rate(self, feed, pages):
        """Rows a second by a client that throws them away."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        begun = time.monotonic()
        for n, page in enumerate(pages):
            connection.sendall(b"GET %s?from=t%d HTTP/1.1\r\nHost: x\r\n\r\n"
                               % (FEEDS[feed][0].encode(), n))
            got = 0
            while got < len(page):
                got += len(connection.recv(1 << 20))
        seconds = time.monotonic() - begun
        connection.close()
        return len(pages) * PAGE / seconds

    def close(self):
        self.process.terminate()
        self.process.join()


# ---- the ceiling

class BareClient:
    """Prepares one statement and hands it pages, one after the other."""

    def __init__(self, url, statement):
        for name, result, *arguments in (
                ("PQprepare", "p", "p", "s", "s", "i", "p"), ("PQresultStatus", "i", "p"),
                ("PQexecPrepared", "p", "p", "s", "i", "p", "p", "p", "i")):
            types = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int}
            function = getattr(pq, name)
            function.restype, function.argtypes = types[result], [types[a] for a in arguments]
        self.handle = pq.PQconnectdb(url.encode())
        self.check(pq.PQprepare(self.handle, b"page", statement.encode(), 0, None))

    def check(self, result):
        failed = pq.PQresultStatus(result) not in (1, 2)
        message = pq.PQresultErrorMessage(result).decode()
        pq.PQclear(result)
        if failed:
            raise SystemExit("bench: the ceiling's client: " + message)

    def send(self, run, feed, pages):
        for n, page in enumerate(pages):
            texts = (ctypes.c_char_p * 7)(page, run.encode(), feed.encode(),
                                          b"t%d" % n if n else None, b"t%d" % (n + 1), b"now", b"true")
            self.check(pq.PQexecPrepared(self.handle, b"page", 7, texts, None, None, 0))

    def close(self):
        pq.PQfinish(self.handle)


def ceiling(bench, feeds, statements, whole):
    clients = {feed: BareClient(bench.url, statements[feed]) for feed in feeds}
    runs = {feed: bench.database.sql("select run from sync_begin('%s', %s)" % (feed, whole))
            for feed in feeds}
    threads = [threading.Thread(target=clients[feed].send, args=(runs[feed], feed, pages))
               for feed, pages in feeds.items()]
    before, begun = bench.measure()[1], time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    for client in clients.values():
        client.close()
    return {"seconds": seconds, "postgres": bench.measure()[1] - before, "client": 0, "server": 0}


# ---- the measure

def moonwright(bench, server, options, feeds, *more):
    before, served = bench.measure()[1], cpu([server.process.pid])
    process = subprocess.Popen([options.program, "sync", *feeds, *more], cwd=bench.folder,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("bench: moonwright sync failed: " + said)
    seconds = float(bench.database.sql(
        "select extract(epoch from max(finished_at) - min(started_at)) from (select * from st_sync_log"
        " order by id desc limit %d) l where state = 'done'" % len(feeds)))
    return {"seconds": seconds, "postgres": bench.measure()[1] - before,
            "client": used.ru_utime + used.ru_stime, "server": cpu([server.process.pid]) - served}


def empty(bench, feeds, triggers):
    tables = [FEEDS[feed][1] for feed in feeds]
    bench.database.sql("truncate %s, changes, sync_cursors, st_sync_log" % ", ".join(tables))
    for table in tables:
        bench.database.sql("alter table %s %s trigger user" % (table, triggers))


def check(bench, feeds, written):
    for feed, pages in feeds.items():
        rows = len(pages) * PAGE
        found = bench.database.sql(
            "select count(*), (select rows_read || '|' || written || '|' || rejected from st_sync_log"
            " where entity = '%s' order by id desc limit 1) from %s" % (feed, FEEDS[feed][1]))
        if found != "%d|%d|%d|0" % (rows, rows, rows if written else 0):
            raise SystemExit("bench: %s were not copied as they should be: %s" % (feed, found))


def show(what, run, rows):
    print("%-20s %8.0f rows/s  CPU s per 100,000: PostgreSQL %.2f, sync %.2f, page server %.2f" % (
        what, rows / run["seconds"], *(run[part] * 1e5 / rows
                                       for part in ("postgres", "client", "server"))), flush=True)


def rounds(bench, server, options, feeds, statements):
    """Medians of rows a second: first load and unchanged, ours and PostgreSQL's."""
    rows = sum(len(pages) for pages in feeds.values()) * PAGE
    rates = {"first": [], "unchanged": [], "top first": [], "top unchanged": []}
    for _ in range(options.runs):
        empty(bench, feeds, "disable")
        found = {"top first": ceiling(bench, feeds, statements, "false"),
                 "top unchanged": ceiling(bench, feeds, statements, "true")}
        check(bench, feeds, False)
        empty(bench, feeds, "enable")
        found["first"] = moonwright(bench, server, options, feeds)
        check(bench, feeds, True)
        found["unchanged"] = moonwright(bench, server, options, feeds, "--full")
        check(bench, feeds, False)
        for what, run in found.items():
            rates[what].append(rows / run["seconds"])
            show(what.replace("top", "ceiling,"), run, rows)
    return {what: sorted(values)[len(values) // 2] for what, values in rates.items()}


def sync(bench, options, feeds, server):
    plans = json.loads(subprocess.run(
        [os.path.join(os.path.dirname(options.program), "bench_lua"), "plans"], check=True,
        stdout=subprocess.PIPE).stdout)
    statements = {plan["name"]: plan["upsert"] for plan in plans}
    name, pages = next(iter(feeds.items()))
    print("the page server alone hands out %.0f rows/s; a page is %d rows, %.0f kB"
          % (server.rate(name, pages), PAGE, len(pages[0]) / 1000))
    rates = rounds(bench, server, options, feeds, statements)
    ratios = {what: rates[what] / rates["top " + what] for what in ("first", "unchanged")}
    print("first load %.2f of the ceiling, unchanged %.2f" % (ratios["first"], ratios["unchanged"]))
    return {"first_rows_per_s": round(rates["first"]), "unchanged_rows_per_s": round(rates["unchanged"]),
            "ratio": round(min(ratios.values()), 3), "ceiling_first_rows_per_s": round(rates["top first"]),
            "ceiling_unchanged_rows_per_s": round(rates["top unchanged"])}


def settings_of(server):
    """ServiceTitan allows 60 requests a second, which is 25,000 rows: here that isn't the limit."""
    url = "http://127.0.0.1:%d" % server.port
    return ("SERVICE_TITAN_API_URL=%s\nSERVICE_TITAN_AUTH_URL=%s\nSERVICE_TITAN_CLIENT_ID=id\n"
            "SERVICE_TITAN_CLIENT_SECRET=secret\nSERVICE_TITAN_APP_KEY=key\n"
            "SERVICE_TITAN_TENANT_ID=%s\nSYNC_REQUESTS_PER_SECOND=1000\n" % (url, url, TENANT))
