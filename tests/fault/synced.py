"""A World whose rows come from ServiceTitan: the sync role copies them from a small one of its own."""
import calendar
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from fake_servicetitan import FakeServiceTitan  # noqa: E402
from world import BEGIN, World  # noqa: E402

ENTITIES = 13


def seconds(text):
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


class Vendor(FakeServiceTitan):
    """Its clock is business time: that of the world it belongs to."""
    world = None

    @property
    def now(self):
        return self.world.time() if self.world else None

    @now.setter
    def now(self, _):
        pass


class SyncedWorld(World):
    roles = "sync,workflow,web"

    def __init__(self, simulator, copy_of, count=3, more=None, **rest):
        self.vendor = Vendor()
        self.vendor.page = 2            # several pages of three
        super().__init__(simulator, copy_of, count, more=dict({
            "SERVICE_TITAN_API_URL": self.vendor.url, "SERVICE_TITAN_AUTH_URL": self.vendor.url,
            "SERVICE_TITAN_CLIENT_ID": "id", "SERVICE_TITAN_CLIENT_SECRET": "secret",
            "SERVICE_TITAN_TENANT_ID": "7", "SERVICE_TITAN_APP_KEY": "key",
            "SYNC_INCREMENTAL_CRON": "* * * * * *", "SYNC_PAGE_SIZE": "2",
            "SYNC_REQUESTS_PER_SECOND": "600"}, **(more or {})), **rest)
        self.vendor.world = self

    def time(self):
        """Business time in seconds: its scale is 1."""
        return seconds(BEGIN) + time.time() - seconds(self.simulator.real)

    def stamp(self):
        at = self.time()
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + ".%06dZ" % (at % 1 * 1e6)

    def first_import(self):
        def done():
            try:
                return self.sql("select count(*) from sync_cursors where completed_at is not null",
                                self.name_st)
            except RuntimeError:
                return ""
        self.keep_until(lambda: done() == str(ENTITIES), 60)

    def begin(self):
        """What is there before the first import is history; ours comes behind it."""
        self.first_import()
        at = self.stamp()
        ids = [self.first + n for n in self.numbers_of_ours()]
        self.vendor.add("customers", *[{
            "id": n, "active": True, "name": "Ann Lee", "type": "Residential", "address": {
                "street": "1 Main St", "unit": None, "city": "New York", "state": "NY",
                "zip": "10001", "country": "USA"}, "balance": 0, "tagTypeIds": [],
            "doNotMail": False, "doNotService": False, "createdOn": at, "modifiedOn": at,
            "mergedToId": None} for n in ids])
        for n in ids:
            for number, kind, value in ((n * 10, "MobilePhone", self.phone(n)),
                                        (n * 10 + 1, "Email", self.email(n))):
                self.vendor.add("contacts", {
                    "id": number, "customerId": n, "active": True, "type": kind, "value": value,
                    "phoneSettings": {"phoneNumber": value, "doNotText": False},
                    "preferences": {"marketingUpdatesEnabled": True}, "createdOn": at,
                    "modifiedOn": at})
        self.created = at
        self.vendor.add("estimates", *[self.estimate(n, "Open", at) for n in ids])

    def estimate(self, n, status, at):
        return {"id": n, "jobId": None, "customerId": n, "locationId": None, "businessUnitId": None,
                "name": "New heater", "status": {"value": 0, "name": status},
                "createdOn": self.created, "modifiedOn": at, "active": True,
                "soldOn": at if status == "Sold" else None, "soldBy": None, "subtotal": 2000,
                "tax": 100, "isChangeOrder": False, "items": []}

    def decide(self):
        at = self.stamp()
        self.vendor.add("estimates", *[self.estimate(
            self.first + n, "Sold" if n % 3 else "Dismissed", at) for n in self.numbers_of_ours()])

    def ledger(self):
        rows = self.sql(
            "select 'customer', id - %(first)d, name, state, null, null::text from st_customers union all "
            "select 'contact', id - %(first)d * 10, (customer_id - %(first)d)::text, type, null, null "
            "from st_contacts union all "
            "select 'estimate', id - %(first)d, status, subtotal::text, null, null from st_estimates "
            "union all select 'rejects', count(*), null, null, null, null from st_rejects union all "
            "select 'cursor', null, entity, cursor, null, null from sync_cursors where entity in "
            "('customers', 'contacts', 'estimates')" % {"first": self.first}, self.name_st)
        return sorted(super().ledger() + rows.splitlines())

    def close(self):
        super().close()
        self.vendor.close()
