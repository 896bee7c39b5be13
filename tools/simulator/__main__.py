"""The vendors in one process: ServiceTitan, HighLevel, Twilio and SendGrid on one port.

  python3 tools/simulator --port 9000 --seed 7 --clock "$CLOCK" --books var/books.jsonl \\
                          --public-url http://127.0.0.1:8080
  python3 tools/simulator env --port 9000 --seed 7     the product's settings for it, as .env lines

The world is worked out from the seed and the clock; what was accepted is read back from the books.
A simulator that is killed and started again with the same arguments goes on where it was.
"""
import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import time
from urllib.parse import urlsplit

import control
from books import Books, read
from clock import Clock, http_date, iso3
from faults import AFTER, Faults
from ghl import GHL
from sendgrid import SendGrid
from servicetitan import Credentials, ServiceTitan
from sign import MailKey
from twilio import Twilio
from wire import Connection, Drop, Later, post
from world import World

# Weather: what a normal bad day at the vendors looks like. Nothing here needs a person.
WEATHER = [
    {"provider": "servicetitan", "fault": "429", "p": 0.01, "retry_after": 1},
    {"provider": "servicetitan", "fault": "500", "p": 0.01},
    {"provider": "servicetitan", "fault": "html", "p": 0.005},
    {"provider": "servicetitan", "fault": "slow", "p": 0.01, "delay": 0.5},
    {"provider": "servicetitan", "fault": "malformed", "p": 0.005},
    {"provider": "servicetitan", "fault": "orphans", "p": 0.15, "delay": 2},
    {"provider": "servicetitan", "fault": "old_rows", "p": 0.05},
    {"provider": "ghl", "fault": "429", "p": 0.01},
    {"provider": "ghl", "fault": "slow", "p": 0.01, "delay": 0.5},
    {"provider": "twilio", "fault": "429", "p": 0.01, "retry_after": 1},
    {"provider": "twilio", "fault": "drop", "p": 0.01, "method": "POST"},
    {"provider": "twilio", "fault": "error", "p": 0.01, "method": "POST"},
    {"provider": "sendgrid", "fault": "429", "p": 0.01, "retry_after": 1},
]
SETTINGS = {"st_client_id": "sim-client", "st_client_secret": "sim-secret",
            "st_app_key": "ak1.simulator", "st_tenant": "1001", "ghl_token": "pit-simulator",
            "ghl_location": "simLocation000000001", "twilio_account": "AC" + "5" * 32,
            "twilio_token": "simulator-auth-token", "twilio_number": "+12125550100",
            "sendgrid_key": "SG.simulator"}


class Simulator:
    def __init__(self, options):
        self.options, self.seed = options, options.seed
        self.clock = Clock(options.clock)
        self.public_url = options.public_url.rstrip("/")
        self.export_page = options.export_page
        self.faults = Faults(options.seed)
        self.world = World(options.seed, self.clock.business_origin, options.customers,
                           options.rate)
        self.servicetitan = ServiceTitan(
            self, Credentials(options.st_client_id, options.st_client_secret, options.st_app_key,
                              options.st_tenant), options.st_limit, options.token_life)
        self.ghl = GHL(self, options.ghl_token, options.ghl_location, options.ghl_limit,
                       duplicate_contacts=options.ghl_duplicate_contacts,
                       duplicate_opportunities=not options.ghl_one_opportunity,
                       match_first=options.ghl_match_first, search_delay=options.ghl_search_delay)
        self.twilio = Twilio(self, options.twilio_account, options.twilio_token,
                             options.twilio_number, options.twilio_limit, options.stops,
                             options.replies)
        self.sendgrid = SendGrid(self, options.sendgrid_key, MailKey(options.seed))
        self.requests = {"servicetitan": 0, "ghl": 0, "twilio": 0, "sendgrid": 0}
        self.last_request = time.monotonic()
        self.tasks = set()
        self.posting = asyncio.Semaphore(16)
        self.known = self.restore()
        self.books = Books(options.books, self.clock)

    # the books, read back

    def restore(self):
        known = False
        for line in read(self.options.books):
            kind = line["k"]
            if kind == "start":
                known = True
                if line["seed"] != self.seed or line["clock"] != self.clock.text():
                    raise SystemExit("simulator: the books %s are of seed %s and clock %s; start "
                                     "with those, or with new books" % (
                                         self.options.books, line["seed"], line["clock"]))
            elif kind in ("contact", "opportunity", "custom_field"):
                self.ghl.restore(line)
            elif kind in ("message", "callback", "inbound"):
                self.twilio.restore(line)
            elif kind in ("mail", "mail_event"):
                self.sendgrid.restore(line)
            elif kind == "faults":
                self.faults.rules = line["rules"]
                for rule in line["new"]:
                    self.note_orphans(rule)
            elif kind == "stop_life":
                self.world.stopped_at = line["at"]
            elif kind == "patch":
                self.world.patch(line["at"], line["entity"], line["id"], line["fields"])
        return known

    def start(self):
        """Writes the first line and takes up what was under way."""
        gc.disable()
        self.world.advance(self.now())
        gc.enable()
        gc.freeze()
        self.books.write("start", seed=self.seed, clock=self.clock.text(), pid=os.getpid(),
                         customers=self.options.customers, rate=self.options.rate,
                         public_url=self.public_url)
        if not self.known and self.options.faults:
            for rule in self.options.faults:
                self.add_fault(rule)
        for sid in self.twilio.order:
            self.twilio.follow(self.twilio.messages[sid])
        for mail in self.sendgrid.mails.values():
            self.sendgrid.follow(mail)

    # time

    def now(self):
        return self.clock.business()

    def business(self):
        return iso3(self.now())

    def quiet(self):
        """Real seconds since anything was written to a vendor."""
        return time.monotonic() - self.last_request

    # what the control routes do

    def note_orphans(self, rule):
        if rule["fault"] == "orphans":
            self.world.orphans.append((rule["since"], float(rule.get("p", 1)),
                                       rule.get("delay", 3) * self.clock.scale))

    def add_fault(self, rule):
        rule = dict(rule, since=self.now())
        self.faults.add(rule)
        self.note_orphans(rule)
        self.books.write("faults", rules=self.faults.rules, new=[rule])

    def clear_faults(self):
        self.faults.clear()
        self.world.orphans = [(s, 0, d) for s, _, d in self.world.orphans]
        self.books.write("faults", rules=[], new=[])

    def stop_life(self):
        if self.world.stopped_at is None:
            at = self.world.at
            self.books.write("stop_life", at=at)
            self.world.stopped_at = at

    def patch(self, entity, key, fields):
        at = round(self.now() + 0.001, 3)
        self.books.write("patch", at=at, entity=entity, id=key, fields=fields)
        self.world.patch(at, entity, key, fields)
        self.world.advance(at)

    # webhooks

    def later(self, delay, do, *args):
        async def run():
            await asyncio.sleep(delay)
            async with self.posting:
                await do(*args)
        task = asyncio.get_running_loop().create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def post(self, url, headers, body):
        """A webhook, tried again while the receiver is away; the last status, 0 for nobody."""
        wait, status = 0.3, 0
        for _ in range(self.options.webhook_tries):
            status = await post(url, headers, body, self.options.deliver_to)
            if status and status < 500:
                break
            await asyncio.sleep(wait)
            wait = min(wait * 2, 5)
        return status

    # requests

    def handle(self, request):
        self.world.advance(self.now())
        path = request.path
        if path.startswith("/sim/"):
            return control.handle(self, request, path[5:])
        if path.rstrip("/") in ("/st-auth", "/st-auth/connect/token"):
            return self.through_faults("servicetitan", request, self.servicetitan.connect)
        for prefix, name, vendor in (("/st/", "servicetitan", self.servicetitan),
                                     ("/ghl/", "ghl", self.ghl),
                                     ("/twilio/", "twilio", self.twilio),
                                     ("/sendgrid/", "sendgrid", self.sendgrid)):
            if path.startswith(prefix):
                rest = path[len(prefix):]
                return self.through_faults(name, request, lambda r: vendor.handle(r, rest))
        return 404, [("Content-Type", "text/plain")], b"no vendor has this path\n"

    def through_faults(self, provider, request, carry_out):
        self.requests[provider] += 1
        if provider != "servicetitan":
            self.last_request = time.monotonic()
        rule = self.faults.draw(provider, request.method, request.path)
        if not rule:
            return carry_out(request)
        fault = rule["fault"]
        self.books.write("fault", provider=provider, fault=fault, method=request.method,
                         path=request.path)
        if fault == "429":
            after = [("Retry-After", str(rule["retry_after"]))] if "retry_after" in rule else []
            body = {"statusCode": 429, "message": "Too Many Requests"} if provider != "twilio" \
                else {"code": 20429, "message": "Too Many Requests", "status": 429}
            return 429, after + [("Content-Type", "application/json")], json.dumps(body).encode()
        if fault == "401":
            return 401, [("Content-Type", "application/json")], b'{"status":401}'
        if fault == "500":
            return 500, [("Content-Type", "application/json")], \
                b'{"statusCode":500,"message":"Internal Server Error"}'
        if fault == "html":
            return 502, [("Content-Type", "text/html")], b"<html><h1>502 Bad Gateway</h1></html>"
        if fault == "drop_before":
            return Drop()
        answer = carry_out(request)
        if fault == "slow":
            return Later(rule.get("delay", 2), answer)
        if fault == "malformed":
            return answer[0], answer[1], answer[2][:len(answer[2]) // 2]
        if fault in AFTER and isinstance(answer, tuple) and answer[0] < 300:
            if fault == "error":
                return 500, [("Content-Type", "application/json")], b'{"message":"Server error"}'
            return Drop(rule.get("delay", 60) if fault == "timeout" else 0)
        return answer


def environment(options):
    """The product's settings that point it at this simulator, as .env lines."""
    base = "http://%s:%d" % (options.host, options.port)
    pairs = (("SERVICE_TITAN_API_URL", base + "/st"), ("SERVICE_TITAN_AUTH_URL", base + "/st-auth"),
             ("SERVICE_TITAN_CLIENT_ID", options.st_client_id),
             ("SERVICE_TITAN_CLIENT_SECRET", options.st_client_secret),
             ("SERVICE_TITAN_APP_KEY", options.st_app_key),
             ("SERVICE_TITAN_TENANT_ID", options.st_tenant), ("GHL_BASE_URL", base + "/ghl"),
             ("GHL_API_KEY", options.ghl_token), ("GHL_LOCATION_ID", options.ghl_location),
             ("TWILIO_BASE_URL", base + "/twilio"), ("TWILIO_ACCOUNT_SID", options.twilio_account),
             ("TWILIO_AUTH_TOKEN", options.twilio_token),
             ("TWILIO_PHONE_NUMBER", options.twilio_number),
             ("SENDGRID_BASE_URL", base + "/sendgrid"), ("SENDGRID_API_KEY", options.sendgrid_key),
             ("SENDGRID_FROM_EMAIL", "office@brightair.example"),
             ("SENDGRID_FROM_NAME", "Bright Air"),
             ("SENDGRID_WEBHOOK_PUBLIC_KEY", MailKey(options.seed).public),
             ("PUBLIC_URL", options.public_url), ("MOONWRIGHT_CLOCK", options.clock or ""))
    return "".join("%s=%s\n" % pair for pair in pairs if pair[1])


def fault_list(text):
    if text == "weather":
        return WEATHER
    try:
        rules = json.loads(text)
        return rules if isinstance(rules, list) else [rules]
    except ValueError as e:
        raise argparse.ArgumentTypeError("neither 'weather' nor JSON: %s" % e)


def arguments():
    p = argparse.ArgumentParser(prog="simulator", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", nargs="?", choices=("serve", "env"), default="serve")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=9000)
    p.add_argument("--seed", default="7")
    p.add_argument("--clock", help="BUSINESS@REAL*SCALE; without it business time is real time")
    p.add_argument("--books", default="books.jsonl")
    p.add_argument("--public-url", default="http://127.0.0.1:8080",
                   help="where webhooks go, and what their signatures are made with")
    p.add_argument("--deliver-to", help="host:port to connect to instead, for webhooks")
    p.add_argument("--webhook-tries", type=int, default=6)
    p.add_argument("--customers", type=int, default=400, help="customers when it begins")
    p.add_argument("--rate", type=float, default=4.0, help="calls for work a day")
    p.add_argument("--stops", type=float, default=0.05, help="share of texts answered with STOP")
    p.add_argument("--replies", type=float, default=0.08)
    p.add_argument("--faults", type=fault_list, help="'weather', or rules as JSON")
    p.add_argument("--export-page", type=int, default=500, help="rows in a page of an export feed")
    p.add_argument("--token-life", type=int, default=900)
    p.add_argument("--st-limit", type=int, default=60, help="ServiceTitan: requests a second")
    p.add_argument("--ghl-limit", type=int, default=100, help="HighLevel: requests in 10 s")
    p.add_argument("--twilio-limit", type=int, default=100, help="Twilio: requests a second")
    p.add_argument("--ghl-duplicate-contacts", action="store_true")
    p.add_argument("--ghl-one-opportunity", action="store_true",
                   help="one opportunity for a contact in a pipeline")
    p.add_argument("--ghl-match-first", choices=("email", "phone"), default="email")
    p.add_argument("--ghl-search-delay", type=float, default=0.3)
    for name, value in SETTINGS.items():
        p.add_argument("--" + name.replace("_", "-"), default=value)
    options = p.parse_args()
    if urlsplit(options.public_url).scheme not in ("http", "https"):
        p.error("--public-url must begin with http:// or https://")
    return options


async def serve(options):
    sim = Simulator(options)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        server = await loop.create_server(
            lambda: Connection(sim.handle, lambda: http_date(sim.now())), options.host,
            options.port, reuse_address=True, start_serving=False)
    except OSError as e:
        raise SystemExit("simulator: cannot listen on %s:%d: %s" % (
            options.host, options.port, e.strerror or e))
    sim.start()
    await server.start_serving()
    print("simulator: %s, seed %s, on http://%s:%d" % (
        sim.business(), sim.seed, options.host, options.port), flush=True)
    await stop.wait()
    server.close()


def main():
    options = arguments()
    try:
        if options.command == "env":
            sys.stdout.write(environment(options))
        else:
            asyncio.run(serve(options))
    except (ValueError, OSError) as e:
        raise SystemExit("simulator: %s" % e)


if __name__ == "__main__":
    main()
