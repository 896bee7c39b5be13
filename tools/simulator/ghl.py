"""HighLevel v2 (GoHighLevel): contacts, opportunities, pipelines, custom fields of one location.

What was accepted is in the books as whole records, so a restarted simulator goes on with them.
"""
import collections
import hashlib
import json
import time
from urllib.parse import urlencode

from clock import iso3

VERSIONS = ("2021-07-28", "2021-04-15", "v3")
PIPELINES = (("Sales", ("New", "Estimate sent", "Appointment set", "Job Sold", "Nurture")),
             ("Install", ("Install scheduled", "In progress", "On hold", "QA", "Closed")))
FIELDS = (("contact", "st_customer_id"), ("opportunity", "st_estimate_id"),
          ("opportunity", "st_job_id"))
STATUSES = ("open", "won", "lost", "abandoned")
CONTACT_TEXTS = ("firstName", "lastName", "name", "email", "phone", "address1", "city", "state",
                 "postalCode", "website", "timezone", "source", "country", "companyName",
                 "assignedTo", "gender")
CONTACT_NAMES = CONTACT_TEXTS + ("dnd", "dndSettings", "inboundDndSettings", "tags",
                                 "customFields", "dateOfBirth")
OPPORTUNITY_NAMES = ("pipelineId", "name", "pipelineStageId", "status", "monetaryValue",
                     "assignedTo", "customFields")


class Refused(Exception):
    def __init__(self, status, message, **more):
        super().__init__(str(message))
        self.status, self.body = status, dict({"statusCode": status, "message": message}, **more)


def ident(*parts):
    """An id that looks like the vendor's: 20 letters and digits, the same for the same parts."""
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
    number = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest(), "big")
    text = ""
    for _ in range(20):
        number, k = divmod(number, len(alphabet))
        text += alphabet[k]
    return text


def e164(phone):
    digits = "".join(c for c in phone if c.isdigit())
    return "+" + (digits if len(digits) != 10 else "1" + digits)


class GHL:
    def __init__(self, sim, token, location, limit=100, window=10.0, duplicate_contacts=False,
                 duplicate_opportunities=True, match_first="email", search_delay=0.3):
        self.sim, self.token, self.location = sim, token, location
        self.limit, self.window = limit, window
        self.duplicate_contacts = duplicate_contacts
        self.duplicate_opportunities = duplicate_opportunities
        self.match_first, self.search_delay = match_first, search_delay
        self.recent = collections.deque()
        self.contacts, self.opportunities = {}, {}
        self.by_phone, self.by_email = {}, {}
        self.changed = {}                        # id -> real time: search shows it later
        self.made = 0
        self.fields = {}
        for model, key in FIELDS:
            self.add_field(model, key)
        self.pipelines = [{
            "id": ident("pipeline", name), "name": name, "showInFunnel": True,
            "showInPieChart": True, "locationId": location,
            "stages": [{"id": ident("stage", name, stage), "name": stage, "position": i,
                        "showInFunnel": True, "showInPieChart": True}
                       for i, stage in enumerate(stages)]} for name, stages in PIPELINES]

    def restore(self, line):
        """Takes back what the books say was accepted."""
        if line["k"] == "contact":
            self.keep_contact(line["contact"])
            self.made += line["op"] == "create"
        elif line["k"] == "opportunity":
            self.opportunities[line["opportunity"]["id"]] = line["opportunity"]
            self.made += line["op"] == "create"
        elif line["k"] == "custom_field":
            self.fields[line["field"]["id"]] = line["field"]

    # the front door

    def handle(self, request, rest):
        headers = []
        try:
            self.throttle(headers)
            self.allowed(request)
            status, body = self.route(request, rest.strip("/").split("/"))
        except Refused as r:
            status, body = r.status, r.body
        except ValueError:
            status, body = 400, {"statusCode": 400, "message": "Unexpected token in JSON",
                                 "error": "Bad Request"}
        return status, headers + [("Content-Type", "application/json; charset=utf-8")], \
            json.dumps(body).encode()

    def throttle(self, headers):
        now = time.monotonic()
        while self.recent and self.recent[0] <= now - self.window:
            self.recent.popleft()
        left = self.limit - len(self.recent)
        headers += [("X-RateLimit-Limit-Daily", "200000"),
                    ("X-RateLimit-Daily-Remaining", "199000"),
                    ("X-RateLimit-Interval-Milliseconds", "%d" % (self.window * 1000)),
                    ("X-RateLimit-Max", str(self.limit)),
                    ("X-RateLimit-Remaining", str(max(left - 1, 0)))]
        if left <= 0:
            self.sim.books.write("throttled", provider="ghl")
            raise Refused(429, "Too Many Requests")
        self.recent.append(now)

    def allowed(self, request):
        value = request.headers.get("authorization", "")
        if value[:7] != "Bearer ":
            raise Refused(401, "Invalid JWT", error="Unauthorized")
        if value[7:] != self.token:
            raise Refused(401, "Invalid token: access token is invalid", error="Unauthorized")
        if request.headers.get("version") not in VERSIONS:
            raise Refused(400, "Version header is missing or not supported", error="Bad Request")

    def here(self, location):
        if location != self.location:
            raise Refused(403, "The token does not have access to this location.")

    def route(self, request, path):
        method, n = request.method, len(path)
        if path[0] == "contacts":
            if n == 1 and method == "POST":
                return self.create_contact(request.json())
            if n == 1 and method == "GET":
                return self.list_contacts(request.query)
            if path[1:] == ["upsert"] and method == "POST":
                return self.upsert_contact(request.json())
            if path[1:] == ["search"] and method == "POST":
                return self.search_contacts(request.json())
            if path[1:] == ["search", "duplicate"] and method == "GET":
                return self.duplicate_of(request.query)
            if n == 2 and method in ("GET", "PUT", "DELETE"):
                return self.one_contact(request, path[1])
            if n == 3 and path[2] == "tags" and method in ("POST", "DELETE"):
                return self.tags(request, path[1])
        elif path[0] == "opportunities":
            if n == 1 and method == "POST":
                return self.create_opportunity(request.json())
            if path[1:] == ["search"] and method == "GET":
                return self.search_opportunities(request.query)
            if path[1:] == ["pipelines"] and method == "GET":
                self.here(request.query.get("locationId"))
                return 200, {"pipelines": self.pipelines, "traceId": ident(time.time())}
            if n == 2 and method in ("GET", "PUT"):
                return self.one_opportunity(request, path[1])
            if n == 3 and path[2] == "status" and method == "PUT":
                return self.set_status(request.json(), path[1])
        elif path[0] == "locations" and n >= 2:
            self.here(path[1])
            if n == 2 and method == "GET":
                return 200, {"location": self.about_location()}
            if n == 3 and path[2] == "customFields":
                return self.custom_fields(request)
        raise Refused(404, "Cannot %s %s" % (method, request.path), error="Not Found")

    def about_location(self):
        return {"id": self.location, "companyId": "simCompany", "name": "Bright Air",
                "timezone": "America/New_York", "country": "US",
                "settings": {"allowDuplicateContact": self.duplicate_contacts,
                             "allowDuplicateOpportunity": self.duplicate_opportunities,
                             "allowFacebookNameMerge": False, "disableContactTimezone": False}}

    def check(self, body, names, required=()):
        if not isinstance(body, dict):
            raise Refused(400, "Bad Request")
        wrong = ["property %s should not exist" % k for k in body if k not in names]
        wrong += ["%s should not be empty" % k for k in required if body.get(k) in (None, "")]
        for k in body:
            if k in CONTACT_TEXTS and body[k] is not None and not isinstance(body[k], str):
                wrong.append("%s must be a string" % k)
        if "monetaryValue" in body and not isinstance(body["monetaryValue"], (int, float)):
            wrong.append("monetaryValue must be a number conforming to the specified constraints")
        if wrong:
            raise Refused(422, wrong, error="Unprocessable Entity")

    # custom fields

    def add_field(self, model, name, kind="TEXT"):
        key = "".join(c if c.isalnum() else "_" for c in name.lower())
        field = {"id": ident("field", model, key), "name": name, "fieldKey": model + "." + key,
                 "placeholder": "", "dataType": kind, "position": 50 * len(self.fields),
                 "picklistOptions": [], "locationId": self.location, "model": model}
        self.fields[field["id"]] = field
        return field

    def custom_fields(self, request):
        if request.method == "GET":
            model = request.query.get("model", "contact")
            return 200, {"customFields": [f for f in self.fields.values()
                                          if model in ("all", f["model"])]}
        if request.method != "POST":
            raise Refused(404, "Cannot %s %s" % (request.method, request.path), error="Not Found")
        body = request.json()
        self.check(body, ("name", "dataType", "placeholder", "acceptedFormat", "isMultipleFile",
                          "maxNumberOfFiles", "textBoxListOptions", "position", "model"),
                   ("name", "dataType"))
        field = self.add_field(body.get("model", "contact"), body["name"], body["dataType"])
        self.sim.books.write("custom_field", field=field)
        return 201, {"customField": field}

    def field_of(self, model, given):
        for field in self.fields.values():
            key = given.get("key") or ""
            if field["model"] == model and (field["id"] == given.get("id") or key in (
                    field["fieldKey"], field["fieldKey"].partition(".")[2])):
                return field
        raise Refused(400, "Custom field %s does not exist" % (given.get("id") or given.get("key")),
                      error="Bad Request")

    def merged_fields(self, model, old, given, value_name):
        values = {f["id"]: f[value_name] for f in old}
        for one in given or []:
            value = one.get("field_value", one.get("value"))
            values[self.field_of(model, one)["id"]] = value
        return [{"id": k, value_name: v} for k, v in values.items()]

    # contacts

    def keep_contact(self, contact):
        old = self.contacts.get(contact["id"])
        if old:
            for index, name in ((self.by_phone, "phone"), (self.by_email, "email")):
                if index.get(old.get(name)) == contact["id"]:
                    del index[old[name]]
        self.contacts[contact["id"]] = contact
        if contact.get("phone"):
            self.by_phone.setdefault(contact["phone"], contact["id"])
        if contact.get("email"):
            self.by_email.setdefault(contact["email"], contact["id"])

    def twins(self, body):
        """Who has the given e-mail and who the given phone: [(field, contact)] in match order."""
        found = []
        for name in ("email", "phone") if self.match_first == "email" else ("phone", "email"):
            value = body.get(name)
            if value:
                index, value = (self.by_email, value.lower()) if name == "email" else \
                    (self.by_phone, e164(value))
                if value in index:
                    found.append((name, self.contacts[index[value]]))
        return found

    def no_duplicate(self, field, contact):
        return Refused(400, "This location does not allow duplicated contacts.", meta={
            "contactId": contact["id"], "matchingField": field,
            "contactName": ("%s %s" % (contact.get("firstName") or "",
                                       contact.get("lastName") or "")).strip()})

    def write_contact(self, op, contact, body):
        now = iso3(self.sim.now())
        if contact is None:
            self.made += 1
            contact = {"id": ident(self.sim.seed, "contact", self.made), "dateAdded": now,
                       "locationId": self.location, "tags": [], "customFields": [], "dnd": False,
                       "type": "lead", "country": "US"}
        else:
            contact = dict(contact)
        for k in CONTACT_NAMES:
            if k == "customFields":
                contact[k] = self.merged_fields("contact", contact[k], body.get(k), "value")
            elif k in body and body[k] is not None:
                contact[k] = body[k]
        if body.get("name") and not body.get("firstName"):
            first, _, last = body["name"].partition(" ")
            contact["firstName"], contact["lastName"] = first, last
        if contact.get("phone"):
            contact["phone"] = e164(contact["phone"])
        if contact.get("email"):
            contact["email"] = contact["emailLowerCase"] = contact["email"].lower()
        contact["tags"] = [t.lower() for t in contact["tags"]]
        contact["dateUpdated"] = now
        contact.pop("name", None)
        contact["contactName"] = ("%s %s" % (contact.get("firstName") or "",
                                             contact.get("lastName") or "")).strip()
        self.keep_contact(contact)
        self.changed[contact["id"]] = time.monotonic()
        self.sim.books.write("contact", op=op, contact=contact, fields=self.named(contact))
        return contact

    def named(self, record):
        """The custom fields by their keys, for readers of the books."""
        return {self.fields[f["id"]]["fieldKey"].partition(".")[2]:
                f.get("value", f.get("fieldValue")) for f in record["customFields"]
                if f["id"] in self.fields}

    def answer(self, contact):
        shown = {k: v for k, v in contact.items() if k != "contactName"}
        shown["name"] = contact["contactName"]
        shown["firstNameLowerCase"] = (contact.get("firstName") or "").lower()
        shown["lastNameLowerCase"] = (contact.get("lastName") or "").lower()
        shown["fullNameLowerCase"] = contact["contactName"].lower()
        return shown

    def create_contact(self, body):
        self.check(body, CONTACT_NAMES + ("locationId",), ("locationId",))
        self.here(body["locationId"])
        twins = self.twins(body)
        if twins and not self.duplicate_contacts:
            raise self.no_duplicate(*twins[0])
        shown = self.answer(self.write_contact("create", None, body))
        shown.pop("name")
        return 201, {"contact": shown, "traceId": ident(time.time())}

    def upsert_contact(self, body):
        self.check(body, CONTACT_NAMES + ("locationId", "createNewIfDuplicateAllowed"),
                   ("locationId",))
        self.here(body["locationId"])
        if not body.get("phone") and not body.get("email"):
            raise Refused(400, "Pass in either email or phone to upsert a contact",
                          error="Bad Request")
        twins = self.twins(body)
        if self.duplicate_contacts and body.get("createNewIfDuplicateAllowed"):
            twins = []
        if not twins:
            contact = self.write_contact("create", None, body)
            return 200, {"new": True, "contact": self.answer(contact), "traceId": ident(self.made)}
        contact = twins[0][1]
        for field, other in twins[1:]:           # somebody else's: dropped without a word
            if other["id"] != contact["id"]:
                body = {k: v for k, v in body.items() if k != field}
        contact = self.write_contact("update", contact, body)
        return 200, {"new": False, "contact": self.answer(contact), "traceId": ident(self.made)}

    def find_contact(self, key):
        contact = self.contacts.get(key)
        if contact is None:
            raise Refused(400, "Contact not found for id: " + key, error="Bad Request")
        return contact

    def one_contact(self, request, key):
        contact = self.find_contact(key)
        if request.method == "GET":
            return 200, {"contact": self.answer(contact), "traceId": ident(time.time())}
        if request.method == "DELETE":
            raise Refused(403, "The token is not authorized for this scope.")
        body = request.json()
        self.check(body, CONTACT_NAMES)
        for field, other in self.twins(body):
            if other["id"] != key and not self.duplicate_contacts:
                raise self.no_duplicate(field, other)
        contact = self.write_contact("update", contact, body)
        return 200, {"succeded": True, "contact": self.answer(contact)}

    def tags(self, request, key):
        contact = self.find_contact(key)
        body = request.json()
        self.check(body, ("tags",), ("tags",))
        given = [t.lower() for t in body["tags"]]
        tags = [t for t in contact["tags"] if t not in given]
        if request.method == "POST":
            tags += given
        contact = self.write_contact("update", contact, {"tags": tags})
        return (201 if request.method == "POST" else 200), {"tags": contact["tags"]}

    def visible(self, key):
        return self.changed.get(key, 0) + self.search_delay <= time.monotonic()

    def list_contacts(self, query):
        self.here(query.get("locationId"))
        found = [c for c in self.contacts.values() if self.visible(c["id"])]
        if query.get("query"):
            found = [c for c in found if self.mentions(c, query["query"])]
        limit = min(int(query.get("limit") or 20), 100)
        ids = [c["id"] for c in found]
        start = ids.index(query["startAfterId"]) + 1 \
            if query.get("startAfterId") in ids and query.get("startAfter") else 0
        page = [{k: v for k, v in c.items() if k in (
            "id", "locationId", "email", "timezone", "country", "source", "dateAdded",
            "customFields", "tags", "phone", "firstName", "lastName", "contactName", "assignedTo")}
            for c in found[start:start + limit]]
        return 200, {"contacts": page, "count": len(found)}

    def mentions(self, contact, text):
        text = text.lower()
        return any(text in str(contact.get(k) or "").lower()
                   for k in ("email", "phone", "contactName"))

    def search_contacts(self, body):
        self.check(body, ("locationId", "pageLimit", "page", "query", "filters", "sort",
                          "searchAfter"), ("locationId",))
        self.here(body["locationId"])
        found = [c for c in self.contacts.values() if self.visible(c["id"])]
        for one in body.get("filters") or []:
            found = [c for c in found if self.passes(c, one)]
        if body.get("query"):
            found = [c for c in found if self.mentions(c, body["query"])]
        found.sort(key=lambda c: (c["dateAdded"], c["id"]))
        total = len(found)
        if body.get("searchAfter"):
            found = [c for c in found if [c["dateAdded"], c["id"]] > body["searchAfter"]]
        elif body.get("page"):
            found = found[(body["page"] - 1) * body.get("pageLimit", 20):]
        page = [dict(self.answer(c), searchAfter=[c["dateAdded"], c["id"]])
                for c in found[:min(body.get("pageLimit", 20), 500)]]
        return 200, {"contacts": page, "total": total, "traceId": ident(time.time())}

    def passes(self, contact, one):
        if "group" in one:
            each = [self.passes(contact, f) for f in one.get("filters", [])]
            return any(each) if one["group"].upper() == "OR" else all(each)
        field, wanted = one.get("field", ""), one.get("value")
        if field.startswith("customFields."):
            key = field.partition(".")[2]
            values = {f["id"]: f["value"] for f in contact["customFields"]}
            value = values.get(key, self.named(contact).get(key))
        else:
            value = contact.get(field)
        operator = one.get("operator")
        if operator == "eq":
            return str(value or "").lower() == str(wanted).lower()
        if operator == "contains":
            return str(wanted).lower() in str(value or "").lower()
        if operator == "exists":
            return value not in (None, "", [])
        raise Refused(422, ["operator %s is not supported for %s" % (operator, field)],
                      error="Unprocessable Entity")

    def duplicate_of(self, query):
        self.here(query.get("locationId"))
        twins = self.twins({"email": query.get("email"), "phone": query.get("number")})
        return 200, {"contact": self.answer(twins[0][1]) if twins else None,
                     "traceId": ident(time.time())}

    # opportunities

    def write_opportunity(self, op, opportunity, body):
        now = iso3(self.sim.now())
        if opportunity is None:
            self.made += 1
            opportunity = {
                "id": ident(self.sim.seed, "opportunity", self.made), "createdAt": now,
                "locationId": self.location, "contactId": body["contactId"], "customFields": [],
                "monetaryValue": 0, "status": "open", "source": "integration", "indexVersion": 1,
                "lastStatusChangeAt": now, "lastStageChangeAt": now, "followers": [],
                "assignedTo": ""}
        else:
            opportunity = dict(opportunity)
        pipeline = self.pipeline(body.get("pipelineId") or opportunity["pipelineId"])
        if "pipelineId" in body and "pipelineStageId" not in body and \
                pipeline["id"] != opportunity.get("pipelineId"):
            opportunity["pipelineStageId"] = pipeline["stages"][0]["id"]
        stage = body.get("pipelineStageId") or opportunity["pipelineStageId"]
        if stage not in [s["id"] for s in pipeline["stages"]]:
            raise Refused(400, "The stage id doesn't exist in the given pipeline.",
                          error="Bad Request")
        if opportunity.get("pipelineStageId") != stage:
            opportunity["lastStageChangeAt"] = now
        if body.get("status", opportunity["status"]) not in STATUSES:
            raise Refused(422, ["status must be one of the following values: open, won, lost, "
                                "abandoned"], error="Unprocessable Entity")
        if body.get("status", opportunity["status"]) != opportunity["status"]:
            opportunity["lastStatusChangeAt"] = now
        for k in ("name", "status", "monetaryValue", "assignedTo"):
            if body.get(k) is not None:
                opportunity[k] = body[k]
        opportunity["pipelineId"], opportunity["pipelineStageId"] = pipeline["id"], stage
        opportunity["customFields"] = self.merged_fields(
            "opportunity", opportunity["customFields"], body.get("customFields"), "fieldValue")
        opportunity["updatedAt"] = now
        self.opportunities[opportunity["id"]] = opportunity
        self.changed[opportunity["id"]] = time.monotonic()
        stage_name = next(s["name"] for s in pipeline["stages"] if s["id"] == stage)
        self.sim.books.write("opportunity", op=op, opportunity=opportunity,
                             fields=self.named(opportunity), pipeline=pipeline["name"],
                             stage=stage_name)
        return opportunity

    def pipeline(self, key):
        for pipeline in self.pipelines:
            if pipeline["id"] == key:
                return pipeline
        raise Refused(400, "The pipeline id doesn't exist.", error="Bad Request")

    def shown(self, opportunity):
        contact = self.contacts.get(opportunity["contactId"], {})
        return dict(opportunity, contact={
            "id": opportunity["contactId"], "name": contact.get("contactName") or "",
            "email": contact.get("email") or "", "phone": contact.get("phone") or "",
            "companyName": contact.get("companyName") or "", "tags": contact.get("tags") or []})

    def create_opportunity(self, body):
        self.check(body, OPPORTUNITY_NAMES + ("locationId", "contactId"),
                   ("pipelineId", "locationId", "name", "status", "contactId"))
        self.here(body["locationId"])
        self.find_contact(body["contactId"])
        pipeline = self.pipeline(body["pipelineId"])
        if not self.duplicate_opportunities:
            for other in self.opportunities.values():
                if other["contactId"] == body["contactId"] and \
                        other["pipelineId"] == pipeline["id"]:
                    raise Refused(400, "Can not create duplicate opportunity for the contact.",
                                  code="OPPORTUNITY_NO_DUPLICATE", error="Bad Request",
                                  meta={"existingId": other["id"]})
        body.setdefault("pipelineStageId", pipeline["stages"][0]["id"])
        return 201, {"opportunity": self.shown(self.write_opportunity("create", None, body)),
                     "traceId": ident(time.time())}

    def find_opportunity(self, key):
        if key not in self.opportunities:
            raise Refused(404, "Opportunity with id %s not found" % key, error="Not Found")
        return self.opportunities[key]

    def one_opportunity(self, request, key):
        opportunity = self.find_opportunity(key)
        if request.method == "PUT":
            body = request.json()
            self.check(body, OPPORTUNITY_NAMES)
            opportunity = self.write_opportunity("update", opportunity, body)
        return 200, {"opportunity": self.shown(opportunity), "traceId": ident(time.time())}

    def set_status(self, body, key):
        self.check(body, ("status", "lostReasonId"), ("status",))
        self.write_opportunity("update", self.find_opportunity(key), {"status": body["status"]})
        return 200, {"succeded": True}

    def search_opportunities(self, query):
        self.here(query.get("location_id"))
        limit = int(query.get("limit") or 20)
        if not 1 <= limit <= 100:
            raise Refused(422, ["limit must not be greater than 100"],
                          error="Unprocessable Entity")
        found = [o for o in self.opportunities.values() if self.visible(o["id"])]
        for name, field in (("pipeline_id", "pipelineId"), ("contact_id", "contactId"),
                            ("pipeline_stage_id", "pipelineStageId"), ("id", "id"),
                            ("assigned_to", "assignedTo")):
            if query.get(name):
                found = [o for o in found if o[field] == query[name]]
        if query.get("status", "all") != "all":
            found = [o for o in found if o["status"] == query["status"]]
        if query.get("q"):
            found = [o for o in found if query["q"].lower() in o["name"].lower()]
        found.sort(key=lambda o: (o["createdAt"], o["id"]))
        total, page = len(found), int(query.get("page") or 1)
        start = (page - 1) * limit
        if query.get("startAfter") and query.get("startAfterId"):
            ids = [o["id"] for o in found]
            start = ids.index(query["startAfterId"]) + 1 if query["startAfterId"] in ids else 0
        chunk = found[start:start + limit]
        meta = {"total": total, "currentPage": page, "nextPage": None, "prevPage": None,
                "nextPageUrl": None, "startAfter": None, "startAfterId": None}
        if start + limit < total:
            meta.update(nextPage=page + 1, startAfter=len(chunk), startAfterId=chunk[-1]["id"])
            again = dict(query, startAfter=meta["startAfter"], startAfterId=meta["startAfterId"])
            meta["nextPageUrl"] = "/opportunities/search?" + urlencode(again)
        meta = {k: v for k, v in meta.items() if v is not None}
        return 200, {"opportunities": [self.shown(o) for o in chunk], "meta": meta,
                     "aggregations": {}, "traceId": ident(time.time())}
