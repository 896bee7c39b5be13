"""ServiceTitan v2: token, lists, export feeds, single rows; its limit and its error bodies."""
import collections
import hashlib
import hmac
import json
import time

from clock import iso7, parse_time
from world import token, untoken

JSON = ("Content-Type", "application/json; charset=utf-8")
# module/path -> entity, and what its list can be filtered by: query name -> field of the row
LISTS = {
    "crm/customers": ("customers", {"name": "name"}),
    "crm/customers/contacts": ("contacts", {"customerIds": "customerId"}),
    "crm/locations": ("locations", {"customerId": "customerId", "name": "name"}),
    "crm/locations/contacts": ("location_contacts", {"locationIds": "locationId"}),
    "jpm/jobs": ("jobs", {k: k for k in ("customerId", "locationId", "businessUnitId", "jobTypeId",
                                         "campaignId", "jobStatus", "priority", "soldById",
                                         "createdFromEstimateId", "invoiceId")}
                 | {"number": "jobNumber"}),
    "jpm/appointments": ("appointments", {"jobId": "jobId", "customerId": "customerId",
                                          "status": "status", "number": "appointmentNumber"}),
    "jpm/job-types": ("job_types", {"name": "name", "priority": "priority"}),
    "sales/estimates": ("estimates", {"jobId": "jobId", "jobNumber": "jobNumber",
                                      "locationId": "locationId", "soldById": "soldBy"}),
    "accounting/invoices": ("invoices", {"number": "referenceNumber"}),
    "dispatch/appointment-assignments": ("assignments", {"jobId": "jobId",
                                                         "appointmentIds": "appointmentId"}),
    "settings/technicians": ("technicians", {"name": "name", "userIds": "userId"}),
    "settings/business-units": ("business_units", {"name": "name"}),
    "settings/tag-types": ("tag_types", {}),
    "marketing/campaigns": ("campaigns", {"name": "name"}),
}
EXPORTS = {
    "crm/export/customers": "customers", "crm/export/customers/contacts": "contacts",
    "crm/export/locations": "locations", "crm/export/locations/contacts": "location_contacts",
    "jpm/export/jobs": "jobs", "jpm/export/appointments": "appointments",
    "sales/export/estimates": "estimates", "sales/estimates/export": "estimates",
    "accounting/export/invoices": "invoices",
    "dispatch/export/appointment-assignments": "assignments",
    "settings/export/technicians": "technicians",
    "settings/export/business-units": "business_units",
}
EMPTY_LISTS = ("settings/employees", "crm/leads", "crm/bookings", "jpm/projects",
               "jpm/job-cancel-reasons", "accounting/payments", "marketing/categories",
               "marketing/suppressions")
EMPTY_EXPORTS = ("jpm/export/job-canceled-logs", "jpm/export/job-history",
                 "settings/export/employees", "accounting/export/payments", "crm/export/leads",
                 "crm/export/bookings")
ACTIVE_EXPORTS = ("appointments", "assignments")   # these two exports know `active`
UNSORTED = ("technicians", "business_units", "contacts", "location_contacts")
SORT = {"Id": "id", "ModifiedOn": "modifiedOn", "CreatedOn": "createdOn", "Name": "name",
        "Priority": "priority"}


class Problem(Exception):
    """An answer of the vendor's error form."""

    def __init__(self, status, title, errors=None):
        super().__init__(title)
        self.status, self.title, self.errors = status, title, errors or {}


def problem(status, title, errors=None):
    body = {"type": "https://httpstatuses.com/%d" % status, "title": title, "status": status,
            "traceId": hashlib.md5(title.encode()).hexdigest(), "errors": errors or {}, "data": {}}
    return status, [("Content-Type", "application/problem+json")], json.dumps(body).encode()


class Credentials:
    def __init__(self, client_id, secret, app_key, tenant):
        self.client_id, self.secret, self.app_key, self.tenant = client_id, secret, app_key, tenant


class ServiceTitan:
    def __init__(self, sim, credentials, limit=60, token_life=900):
        self.sim, self.credentials = sim, credentials
        self.limit, self.token_life = limit, token_life
        self.recent = collections.deque()        # real times of the last second's requests
        self.cache = {}                          # entity -> (log length, current versions)

    # tokens: they carry their end and a seal, so they outlive a restart of the simulator

    def seal(self, text):
        return hmac.new(str(self.sim.seed).encode(), text.encode(), hashlib.sha256).hexdigest()[:32]

    def connect(self, request):
        if request.method != "POST":
            return problem(405, "Method Not Allowed")
        form = dict(request.form())
        ours = self.credentials
        if form.get("grant_type") != "client_credentials":
            error = "unsupported_grant_type"
        elif form.get("client_id") != ours.client_id or form.get("client_secret") != ours.secret:
            error = "invalid_client"
        else:
            error = None
        self.sim.books.write("token", granted=error is None)
        if error:
            return 400, [JSON], json.dumps({"error": error}).encode()
        end = "%.0f" % ((time.time() + self.token_life) * 1000)
        body = {"access_token": "sim.%s.%s" % (end, self.seal(end)), "expires_in": self.token_life,
                "token_type": "Bearer", "scope": "tn.crm.customers:r tn.jpm.jobs:r"}
        return 200, [JSON], json.dumps(body).encode()

    def allowed(self, request):
        value = request.headers.get("authorization", "")
        value = value[7:] if value[:7].lower() == "bearer " else value
        parts = value.split(".")
        if len(parts) != 3 or parts[0] != "sim" or self.seal(parts[1]) != parts[2]:
            raise Problem(401, "Unauthorized")
        if float(parts[1]) / 1000 < time.time():
            raise Problem(401, "Unauthorized")
        key = request.headers.get("st-app-key", request.query.get("servicetitanapplicationkey"))
        if key != self.credentials.app_key:
            raise Problem(401, "Invalid application key")

    def throttle(self):
        now = time.monotonic()
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        if len(self.recent) >= self.limit:
            self.sim.books.write("throttled", provider="servicetitan")
            body = {"statusCode": 429,
                    "message": "Rate limit is exceeded. Try again in 1 seconds."}
            return 429, [JSON, ("Retry-After", "1")], json.dumps(body).encode()
        self.recent.append(now)
        return None

    def handle(self, request, rest):
        """rest: the path behind /st/."""
        try:
            self.allowed(request)
            refused = self.throttle()
            if refused:
                return refused
            parts = rest.split("/")
            if len(parts) < 5 or parts[1] != "v2" or parts[2] != "tenant":
                raise Problem(404, "Not Found")
            if parts[3] != self.credentials.tenant:
                raise Problem(403, "The application has no access to tenant " + parts[3])
            if request.method != "GET":
                return self.write(request, parts[0], parts[4:])
            return self.read(request, parts[0], [p for p in parts[4:] if p])
        except Problem as p:
            return problem(p.status, p.title, p.errors)

    def read(self, request, module, path):
        name = module + "/" + "/".join(path)
        if name in LISTS:
            return self.list(request, name)
        if name in EXPORTS:
            return self.export(request, name)
        if name in EMPTY_LISTS:
            body = {"page": 1, "pageSize": 50, "hasMore": False, "totalCount": None, "data": []}
            return 200, [JSON], json.dumps(body).encode()
        if name in EMPTY_EXPORTS:
            body = {"hasMore": False, "continueFrom": request.query.get("from") or "2020-01-01",
                    "data": []}
            return 200, [JSON], json.dumps(body).encode()
        if len(path) == 2 and module + "/" + path[0] in LISTS and path[1].isdigit():
            entity = LISTS[module + "/" + path[0]][0]
            versions = self.sim.world.versions(entity, int(path[1]))
            if not versions:
                raise Problem(404, "Entity with id %s was not found" % path[1])
            self.served(name, entity, versions[-1:])
            return 200, [JSON], self.render(name, entity, versions[-1])
        if len(path) == 3 and path[2] == "contacts" and path[0] in ("customers", "locations"):
            return self.contacts_of(request, path[0], int(path[1]))
        raise Problem(404, "Not Found")

    # lists

    def number(self, request, name, default, least, most):
        try:
            value = int(request.query.get(name) or default)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise Problem(400, "One or more validation errors occurred.",
                          {name: ["The value must be between %d and %d." % (least, most)]})
        return value

    def current(self, entity):
        feed = self.sim.world.feeds[entity]
        known = self.cache.get(entity)
        if not known or known[0] != len(feed.log):
            known = (len(feed.log), feed.current())
            self.cache[entity] = known
        return known[1]

    def list(self, request, name):
        entity, fields = LISTS[name]
        query = request.query
        page = self.number(request, "page", 1, 1, 10 ** 9)
        size = self.number(request, "pageSize", 50, 1, 5000)
        if entity in ("contacts", "location_contacts") and not (
                set(query) & {"customerIds", "locationIds", "modifiedOnOrAfter", "modifiedBefore"}):
            raise Problem(400, "One or more validation errors occurred.", {
                "": ["customerIds, modifiedOnOrAfter or modifiedBefore is required."]})
        if query.get("ids"):
            rows = self.by_ids(entity, query["ids"])
        else:
            rows = self.current(entity)
        rows = self.filter(request, entity, fields, rows)
        rows = self.sort(request, entity, rows)
        chunk = rows[(page - 1) * size:page * size]
        more = page * size < len(rows)
        total = str(len(rows)) if query.get("includeTotal", "").lower() == "true" else "null"
        chunk = self.with_old_rows(request, entity, chunk)
        self.served(name, entity, chunk, page=page)
        head = '{"page":%d,"pageSize":%d,"hasMore":%s,"totalCount":%s,"data":[' % (
            page, size, "true" if more else "false", total)
        body = b",".join(self.render(name, entity, v) for v in chunk)
        return 200, [JSON], head.encode() + body + b"]}"

    def by_ids(self, entity, text):
        try:
            ids = [int(i) for i in text.split(",") if i]
        except ValueError:
            raise Problem(400, "One or more validation errors occurred.",
                          {"ids": ["The value '%s' is not valid." % text]})
        if len(ids) > 50:
            raise Problem(400, "One or more validation errors occurred.",
                          {"ids": ["At most 50 ids are allowed."]})
        found = (self.sim.world.versions(entity, i) for i in ids)
        return [v[-1] for v in found if v]

    def filter(self, request, entity, fields, rows):
        query = request.query
        active = query.get("active", query.get("activeState", "True"))
        if "active" in (rows[0].row if rows else ()) and entity not in ("jobs",):
            if active.lower() in ("true", "activeonly"):
                rows = [v for v in rows if v.row["active"]]
            elif active.lower() in ("false", "inactiveonly"):
                rows = [v for v in rows if not v.row["active"]]
            elif active.lower() not in ("any", "all"):
                raise Problem(400, "One or more validation errors occurred.",
                              {"active": ["The value '%s' is not valid." % active]})
        for name, field, above in (("modifiedOnOrAfter", "modifiedOn", True),
                                   ("modifiedBefore", "modifiedOn", False),
                                   ("createdOnOrAfter", "createdOn", True),
                                   ("createdBefore", "createdOn", False),
                                   ("soldAfter", "soldOn", True),
                                   ("completedOnOrAfter", "completedOn", True),
                                   ("startsOnOrAfter", "start", True)):
            if query.get(name):
                try:
                    bound = iso7(parse_time(query[name]))
                except ValueError:
                    raise Problem(400, "One or more validation errors occurred.",
                                  {name: ["The value '%s' is not valid." % query[name]]})
                rows = [v for v in rows
                        if v.row.get(field) and (v.row[field] >= bound) == above]
        for name, field in fields.items():
            if query.get(name):
                wanted = set(query[name].split(",")) if name.endswith("Ids") else {query[name]}
                rows = [v for v in rows if str(v.row.get(field)) in wanted]
        if query.get("status") and entity == "estimates":
            rows = [v for v in rows if v.row["status"]["name"] == query["status"]]
        if query.get("customerId") and entity == "invoices":
            rows = [v for v in rows if str(v.row["customer"]["id"]) == query["customerId"]]
        if query.get("jobId") and entity == "invoices":
            rows = [v for v in rows if str(v.row["job"]["id"]) == query["jobId"]]
        return rows

    def sort(self, request, entity, rows):
        text = request.query.get("sort")
        if not text or entity in UNSORTED:
            return sorted(rows, key=lambda v: v.id)
        sign, field = (text[0], text[1:]) if text[0] in "+- " else ("+", text)
        if field not in SORT:
            raise Problem(400, "One or more validation errors occurred.",
                          {"sort": ["The field '%s' cannot be sorted by." % field]})
        return sorted(rows, key=lambda v: (v.row.get(SORT[field]), v.id), reverse=sign == "-")

    def contacts_of(self, request, kind, owner):
        entity = "contacts" if kind == "customers" else "location_contacts"
        field = "customerId" if kind == "customers" else "locationId"
        if not self.sim.world.versions(kind, owner):
            raise Problem(404, "Entity with id %d was not found" % owner)
        rows = [v for v in self.current(entity) if v.row[field] == owner and v.row["active"]]
        self.served("crm/" + kind + "/contacts", entity, rows)
        drop = ("active", field)
        body = {"page": 1, "pageSize": max(50, len(rows)), "hasMore": False, "totalCount": None,
                "data": [{k: x for k, x in v.row.items() if k not in drop} for v in rows]}
        return 200, [JSON], json.dumps(body).encode()

    # export feeds

    def export(self, request, name):
        entity = EXPORTS[name]
        feed = self.sim.world.feeds[entity]
        start = request.query.get("from") or "2000-01-01"
        place = untoken(start)
        if place is None:
            try:
                place = (parse_time(start), 0)
            except ValueError:
                raise Problem(400, "One or more validation errors occurred.",
                              {"from": ["The continuation token '%s' is not valid." % start]})
        rows, place, more = feed.page(place, self.sim.export_page)
        if entity in ACTIVE_EXPORTS and request.query.get("active", "True").lower() == "true":
            rows = [v for v in rows if v.row["active"]]
        rows = self.with_old_rows(request, entity, rows)
        self.served(name, entity, rows, start=start)
        head = '{"hasMore":%s,"continueFrom":"%s","data":[' % (
            "true" if more else "false", token(place))
        return 200, [JSON], head.encode() + b",".join(
            self.render(name, entity, v) for v in rows) + b"]}"

    def with_old_rows(self, request, entity, rows):
        """The fault `old_rows`: some rows again, as they were before their last change."""
        rule = self.sim.faults.draw("servicetitan", "GET", request.path, ("old_rows",))
        if not rule:
            return rows
        old = []
        for version in self.sim.world.feeds[entity].log[-60:]:
            versions = self.sim.world.versions(entity, version.id)
            if version.number > 1 and len(old) < 3:
                old.append(versions[version.number - 2])
        if old:
            self.sim.books.write("fault", provider="servicetitan", fault="old_rows",
                                 path=request.path, rows=[[v.id, v.number] for v in old])
        return rows + old

    def render(self, name, entity, version):
        if entity == "contacts" and "/export/" not in name:
            return json.dumps({k: v for k, v in version.row.items() if k != "active"}).encode()
        if entity in ("jobs", "location_contacts") and "/export/" not in name:
            return json.dumps({k: v for k, v in version.row.items() if k != "active"}).encode()
        return version.text()

    def served(self, name, entity, versions, **more):
        self.sim.books.write("page", feed=name, entity=entity, **more,
                             rows=[[v.id, v.number] for v in versions])

    # writes

    def write(self, request, module, path):
        """PUT sales/estimates/{id}/sell | unsell | dismiss, as the office would do it."""
        if module == "sales" and len(path) == 3 and request.method == "PUT" and path[1].isdigit():
            versions = self.sim.world.versions("estimates", int(path[1]))
            if not versions:
                raise Problem(404, "Entity with id %s was not found" % path[1])
            now = self.sim.now()
            fields = {"sell": {"status": {"value": 1, "name": "Sold"}, "soldOn": iso7(now),
                               "soldBy": 601},
                      "unsell": {"status": {"value": 0, "name": "Open"}, "soldOn": None,
                                 "soldBy": None},
                      "dismiss": {"status": {"value": 2, "name": "Dismissed"}}}.get(path[2])
            if fields:
                self.sim.patch("estimates", int(path[1]), fields)
                return 200, [JSON], self.sim.world.versions("estimates", int(path[1]))[-1].text()
        raise Problem(404, "Not Found")
