"""SendGrid: mail send, and its signed event webhook."""
import hashlib
import json
import random
import time

JSON = ("Content-Type", "application/json")
KNOWN = ("personalizations", "from", "reply_to", "reply_to_list", "subject", "content",
         "attachments", "template_id", "headers", "categories", "custom_args", "send_at",
         "batch_id", "asm", "ip_pool_name", "mail_settings", "tracking_settings", "sections")


def refused(status, message, field=None):
    body = {"errors": [{"message": message, "field": field}]}
    return status, [JSON], json.dumps(body).encode()


class SendGrid:
    def __init__(self, sim, api_key, key):
        self.sim, self.api_key, self.key = sim, api_key, key
        self.mails, self.told = {}, set()

    def restore(self, line):
        if line["k"] == "mail":
            self.mails[line["mail"]["id"]] = dict(line["mail"], at=line["r"])
        elif line["k"] == "mail_event" and 200 <= line["answer"] < 300:
            self.told.add((line["id"], line["event"]))

    def handle(self, request, rest):
        if request.headers.get("authorization") != "Bearer " + self.api_key:
            return refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if rest != "v3/mail/send":
            return refused(404, "not found")
        if request.method != "POST":
            return refused(405, "method not allowed")
        try:
            body = request.json()
        except ValueError:
            return refused(400, "Bad Request")
        wrong = self.wrong(body)
        if wrong:
            return refused(400, *wrong)
        if body.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            return 200, [JSON], b""
        key = "%s" % hashlib.md5(("%s mail %d" % (self.sim.seed, len(self.mails) + 1))
                                 .encode()).hexdigest()[:22]
        first = body["personalizations"][0]
        mail = {"id": key, "to": [t["email"] for p in body["personalizations"] for t in p["to"]],
                "from": body["from"]["email"], "subject": first.get("subject",
                                                                    body.get("subject")),
                "text": next((c["value"] for c in body.get("content", [])
                              if c["type"] == "text/plain"), ""),
                "args": dict(body.get("custom_args") or {}, **first.get("custom_args", {}))}
        line = self.sim.books.write("mail", mail=mail)
        mail["at"] = line["r"]
        self.mails[key] = mail
        self.follow(mail)
        return 202, [("X-Message-Id", key)], b""

    def wrong(self, body):
        """What the vendor would refuse the mail for: (message, field), or None."""
        if not isinstance(body, dict):
            return "Bad Request", None
        for name in body:
            if name not in KNOWN:
                return "Additional property %s is not allowed" % name, None
        people = body.get("personalizations")
        if not people or not all(p.get("to") for p in people):
            return "The personalizations field is required and must have at least one " \
                   "personalization.", "personalizations"
        for person in [t for p in people for t in p["to"]] + [body.get("from") or {}]:
            if "@" not in person.get("email", ""):
                return "Does not contain a valid address.", "personalizations.0.to.0.email"
        if not body.get("template_id"):
            if not (body.get("subject") or people[0].get("subject")):
                return "The subject is required. You can get around this requirement if you use " \
                       "a template with a subject defined or if every personalization has a " \
                       "subject defined.", "subject"
            content = body.get("content")
            if not content or not all(c.get("value") for c in content):
                return "The content value must be a string at least one character in length.", \
                       "content.0.value"
            if [c["type"] for c in content].count("text/plain") and \
                    content[0]["type"] != "text/plain":
                return "The text/plain content must come first.", "content"
        for args in [body.get("custom_args") or {}] + [p.get("custom_args") or {} for p in people]:
            if not all(isinstance(v, str) for v in args.values()):
                return "The custom_args values must be strings.", "custom_args"
        return None

    def follow(self, mail):
        rng = random.Random("%s %s" % (self.sim.seed, mail["id"]))
        dead = random.Random("%s %s" % (self.sim.seed, mail["to"][0])).random() < 0.01
        bounce = dead and mail["to"][0].endswith("@example.com")    # customers' addresses only
        steps = [("processed", 0.1), ("bounce" if bounce else "delivered", rng.uniform(0.15, 0.6))]
        age = time.time() - mail["at"]
        for event, delay in steps:
            if (mail["id"], event) not in self.told:
                self.sim.later(max(delay - age, 0.01), self.tell, mail, event)

    async def tell(self, mail, event):
        events = []
        for email in mail["to"]:
            one = {"email": email, "event": event, "timestamp": int(time.time()),
                   "sg_event_id": hashlib.md5((mail["id"] + event + email).encode()).hexdigest(),
                   "sg_message_id": mail["id"] + ".filter0001.1.0", "smtp-id": "<%s>" % mail["id"]}
            if event == "bounce":
                one.update(reason="550 5.1.1 unknown user", status="5.1.1", type="bounce")
            events.append(dict(mail["args"], **one))
        body = json.dumps(events).encode() + b"\r\n"
        stamp = str(int(time.time()))
        answer = await self.sim.post(self.sim.public_url + "/hooks/sendgrid", [
            JSON, ("X-Twilio-Email-Event-Webhook-Signature", self.key.sign(stamp.encode() + body)),
            ("X-Twilio-Email-Event-Webhook-Timestamp", stamp),
            ("User-Agent", "SendGrid Event API")], body)
        self.sim.books.write("mail_event", id=mail["id"], event=event, answer=answer)
