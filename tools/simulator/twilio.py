"""Twilio: messages out, their status callbacks, and what customers text back.

Each message's fate (delivered or not, answered with STOP or words) is drawn from the seed and the
how-manieth text to that number it is; so it doesn't depend on when the text arrives.
"""
import base64
import hashlib
import json
import random
import time
from urllib.parse import parse_qs, urlencode, urlsplit

from clock import rfc2822
from sign import twilio_signature

JSON = ("Content-Type", "application/json; charset=utf-8")
STOP_WORDS = ("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT")
REPLIES = ("Thanks, let me think about it", "Can you call me tomorrow?", "Ok", "What's the price?",
           "Sounds good. Talk soon")
REVOCATIONS = ("please stop texting me", "Take me off your list please")
ERRORS = {20003: (401, "Authenticate"), 20404: (404, "The requested resource was not found"),
          20429: (429, "Too Many Requests"), 21211: (400, "Invalid 'To' Phone Number: %s"),
          21602: (400, "Message body is required."),
          21603: (400, "A 'From' phone number is required."),
          21604: (400, "A 'To' phone number is required."),
          21606: (400, "The 'From' phone number provided is not a valid message-capable Twilio "
                       "phone number for this account"),
          21610: (400, "Attempt to send to unsubscribed recipient"),
          21617: (400, "The concatenated message body exceeds the 1600 character limit")}


def error(code, detail=None):
    status, message = ERRORS[code]
    body = {"code": code, "message": message % detail if "%" in message else message,
            "more_info": "https://www.twilio.com/docs/errors/%d" % code, "status": status}
    return status, [JSON], json.dumps(body).encode()


class Twilio:
    def __init__(self, sim, account, auth_token, number, limit=100, stops=0.05, replies=0.08,
                 disorder=0.15, repeats=0.1):
        self.sim, self.account, self.auth_token, self.number = sim, account, auth_token, number
        self.limit, self.stops, self.replies = limit, stops, replies
        self.disorder, self.repeats = disorder, repeats
        self.messages, self.order, self.to = {}, [], {}
        self.blocked = set()                     # numbers that said STOP
        self.recent = []

    def restore(self, line):
        if line["k"] == "message":
            self.keep(dict(line["message"], at=line["r"]))
        elif line["k"] == "callback" and line["sid"] in self.messages and \
                200 <= line["answer"] < 300:
            self.messages[line["sid"]]["told"].add(line["status"])
        elif line["k"] == "inbound":
            self.messages.get(line["after"], {}).setdefault("replied", True)
            if line["stop"]:
                self.blocked.add(line["from"])

    def keep(self, message):
        message["told"] = set()
        self.messages[message["sid"]] = message
        self.order.append(message["sid"])
        self.to.setdefault(message["to"], []).append(message["sid"])

    def handle(self, request, rest):
        want = "Basic " + base64.b64encode(
            (self.account + ":" + self.auth_token).encode()).decode()
        if request.headers.get("authorization") != want:
            return error(20003)
        now = time.monotonic()
        self.recent = [t for t in self.recent if t > now - 1]
        if len(self.recent) >= self.limit:
            self.sim.books.write("throttled", provider="twilio")
            return error(20429)
        self.recent.append(now)
        parts = rest.split("/")
        if parts[:2] == ["2010-04-01", "Accounts"] and len(parts) >= 3:
            if parts[2] == self.account + ".json" and request.method == "GET":
                body = {"sid": self.account, "status": "active", "type": "Full",
                        "friendly_name": "Bright Air"}
                return 200, [JSON], json.dumps(body).encode()
            if parts[2] == self.account and parts[3:] == ["Messages.json"]:
                return self.create(request) if request.method == "POST" else self.list(request)
            if parts[2] == self.account and len(parts) == 5 and parts[3] == "Messages":
                message = self.messages.get(parts[4].removesuffix(".json"))
                if message and request.method == "GET":
                    return 200, [JSON], json.dumps(self.shown(message)).encode()
        return error(20404)

    # sending

    def create(self, request):
        form = dict(request.form())
        to, body = form.get("To", ""), form.get("Body", "")
        if not to:
            return error(21604)
        if not (to.startswith("+") and to[1:].isdigit() and 8 <= len(to) <= 16):
            return error(21211, to)
        if not form.get("From") and not form.get("MessagingServiceSid"):
            return error(21603)
        if form.get("From") and form["From"] != self.number:
            return error(21606)
        if not body:
            return error(21602)
        if len(body) > 1600:
            return error(21617)
        callback = form.get("StatusCallback")
        intent = parse_qs(urlsplit(callback).query).get("m", [None])[0] if callback else None
        if to in self.blocked:
            self.sim.books.write("message_refused", code=21610, to=to, body=body, intent=intent)
            return error(21610)
        count = len(self.order) + 1
        sid = "SM" + hashlib.md5(("%s %d" % (self.sim.seed, count)).encode()).hexdigest()
        message = {"sid": sid, "to": to, "from": form.get("From"), "body": body,
                   "service": form.get("MessagingServiceSid"), "callback": callback,
                   "nth": len(self.to.get(to, ())) + 1, "created": self.sim.now()}
        line = self.sim.books.write("message", intent=intent, message=message)
        message = dict(message, at=line["r"])
        self.keep(message)
        self.follow(message)
        return 201, [JSON], json.dumps(self.shown(message)).encode()

    def fate(self, message):
        """Statuses with their delays in real seconds, an error code, and the answer if any."""
        rng = random.Random("%s %s %d" % (self.sim.seed, message["to"], message["nth"]))
        draw = rng.random()
        last, code = ("undelivered", 30005) if draw < 0.01 else \
            ("failed", 30007) if draw < 0.015 else ("delivered", None)
        sent = rng.uniform(0.05, 0.3)
        steps = [("sent", sent), (last, sent + rng.uniform(0.05, 0.5))]
        if rng.random() < self.disorder:
            steps = [(last, sent), ("sent", sent + rng.uniform(0.05, 0.3))]
        if rng.random() < self.repeats:
            steps.append((rng.choice(("sent", last)), steps[-1][1] + rng.uniform(0.05, 1)))
        answer, draw = None, rng.random()
        if last == "delivered":
            if draw < self.stops:
                answer = rng.choice(STOP_WORDS[:1] * 4 + STOP_WORDS) if rng.random() < 0.8 \
                    else rng.choice(REVOCATIONS)
            elif draw < self.stops + self.replies:
                answer = rng.choice(REPLIES)
        return steps, code, answer, rng.uniform(600, 20000)

    def status(self, message):
        """What a look at the message shows now, and when it was sent (real time) or None."""
        steps, code, _, _ = self.fate(message)
        age = time.time() - message["at"]
        timing = sorted(steps[:2], key=lambda s: (s[0] != "sent", s[1]))
        last = next(s for s, _ in steps if s != "sent")
        if age >= max(t for _, t in timing):
            return last, code
        return ("sent", None) if age >= min(t for _, t in timing) else ("queued", None)

    def shown(self, message):
        status, code = self.status(message)
        created = rfc2822(message["created"])
        uri = "/2010-04-01/Accounts/%s/Messages/%s" % (self.account, message["sid"])
        return {"sid": message["sid"], "account_sid": self.account, "api_version": "2010-04-01",
                "to": message["to"], "from": message["from"], "body": message["body"],
                "messaging_service_sid": message["service"], "status": status,
                "direction": "outbound-api", "num_segments": str(len(message["body"]) // 153 + 1),
                "num_media": "0", "date_created": created, "date_updated": created,
                "date_sent": None if status == "queued" else created, "error_code": code,
                "error_message": None, "price": None, "price_unit": "USD", "uri": uri + ".json",
                "subresource_uris": {"media": uri + "/Media.json"}}

    def list(self, request):
        query = request.query
        size = min(int(query.get("PageSize") or 50), 1000)
        page = int(query.get("Page") or 0)
        sids = self.to.get(query["To"], []) if query.get("To") else self.order
        rows = [self.messages[s] for s in reversed(sids)]
        if query.get("From"):
            rows = [m for m in rows if m["from"] == query["From"]]
        days = [time.strftime("%Y-%m-%d", time.gmtime(m["created"])) for m in rows]
        for name, keep in (("DateSent", lambda d, w: d == w), ("DateSent<", lambda d, w: d <= w),
                           ("DateSent>", lambda d, w: d >= w)):
            if query.get(name):
                rows = [m for m, d in zip(rows, days) if keep(d, query[name][:10])]
                days = [d for d in days if keep(d, query[name][:10])]
        base = "/2010-04-01/Accounts/%s/Messages.json?" % self.account

        def uri(n):
            return base + urlencode(dict(query, PageSize=size, Page=n))
        more = (page + 1) * size < len(rows)
        body = {"messages": [self.shown(m) for m in rows[page * size:(page + 1) * size]],
                "page": page, "page_size": size, "start": page * size, "uri": uri(page),
                "end": min((page + 1) * size, len(rows)) - 1, "first_page_uri": uri(0),
                "next_page_uri": uri(page + 1) if more else None,
                "previous_page_uri": uri(page - 1) if page else None}
        return 200, [JSON], json.dumps(body).encode()

    # what comes back

    def follow(self, message):
        """Plans the callbacks and the answer of a message (also after a restart)."""
        steps, code, answer, wait = self.fate(message)
        age = time.time() - message["at"]
        if message["callback"]:
            for status, delay in steps:
                if status not in message["told"]:
                    self.sim.later(max(delay - age, 0.01), self.call_back, message, status, code)
        if answer and not message.get("replied"):
            wait = max(wait / self.sim.clock.scale, steps[-1][1] + 0.1)
            self.sim.later(max(wait - age, 0.05), self.reply, message, answer)

    async def call_back(self, message, status, code):
        params = [("MessageSid", message["sid"]), ("SmsSid", message["sid"]),
                  ("MessageStatus", status), ("SmsStatus", status), ("To", message["to"]),
                  ("From", message["from"] or self.number), ("AccountSid", self.account),
                  ("ApiVersion", "2010-04-01")]
        if code and status in ("failed", "undelivered"):
            params.append(("ErrorCode", str(code)))
        answer = await self.post(message["callback"], params)
        self.sim.books.write("callback", sid=message["sid"], status=status, answer=answer)

    async def reply(self, message, text):
        message["replied"] = True
        await self.inbound(message["to"], text, message["sid"])

    async def inbound(self, sender, text, after=None):
        """A text from a customer; Twilio itself acts on a bare STOP word."""
        stop = text.strip().upper() in STOP_WORDS
        sid = "SM" + hashlib.md5(("in %s %s %s" % (sender, text, after)).encode()).hexdigest()
        params = [("MessageSid", sid), ("SmsSid", sid), ("SmsMessageSid", sid),
                  ("AccountSid", self.account), ("From", sender), ("To", self.number),
                  ("Body", text), ("NumMedia", "0"), ("NumSegments", "1"),
                  ("ApiVersion", "2010-04-01"), ("SmsStatus", "received"), ("FromCountry", "US"),
                  ("ToCountry", "US")]
        if stop:
            params.append(("OptOutType", "STOP"))
            self.blocked.add(sender)
        sent = time.time()
        answer = await self.post(self.sim.public_url + "/hooks/twilio/inbound", params)
        self.sim.books.write("inbound", after=after, sid=sid, **{"from": sender}, body=text,
                             stop=stop, revoked=stop or text in REVOCATIONS, answer=answer,
                             sent=round(sent, 3))
        return answer

    async def post(self, url, params):
        signature = twilio_signature(self.auth_token, url, params)
        return await self.sim.post(url, [("Content-Type", "application/x-www-form-urlencoded"),
                                         ("X-Twilio-Signature", signature),
                                         ("User-Agent", "TwilioProxy/1.1")],
                                   urlencode(params).encode())
