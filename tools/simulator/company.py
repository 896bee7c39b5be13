"""Bright Air, the company that is simulated: its offices, people, price list and customers' faces.

Only tables and the rows that don't change are here; what happens day by day is in life.py.
"""
from clock import iso7

COMPANY = "Bright Air Heating & Cooling"

# city, state, first ZIP digits, area code, time zone
CITIES = (
    ("New York", "NY", "100", "212", "America/New_York"),
    ("Yonkers", "NY", "107", "914", "America/New_York"),
    ("Newark", "NJ", "071", "973", "America/New_York"),
    ("Philadelphia", "PA", "191", "215", "America/New_York"),
    ("Columbus", "OH", "432", "614", "America/New_York"),
    ("Atlanta", "GA", "303", "404", "America/New_York"),
    ("Miami", "FL", "331", "305", "America/New_York"),
    ("Chicago", "IL", "606", "312", "America/Chicago"),
    ("Minneapolis", "MN", "554", "612", "America/Chicago"),
    ("Dallas", "TX", "752", "214", "America/Chicago"),
    ("Denver", "CO", "802", "303", "America/Denver"),
    ("Phoenix", "AZ", "850", "602", "America/Phoenix"),
    ("Los Angeles", "CA", "900", "213", "America/Los_Angeles"),
    ("Seattle", "WA", "981", "206", "America/Los_Angeles"),
)
FIRST = ("Ann Ben Carla David Elena Frank Grace Hector Irene James Karen Luis Maria Nathan Olivia "
         "Peter Quinn Rosa Samuel Teresa Umar Vera Walter Ximena Yusuf Zoe").split()
LAST = ("Lee Garcia Smith Nguyen Patel Johnson Kim Brown O'Neil Lopez Miller Cohen Davis Rossi "
        "Clark Novak Young Reed Baker Hill Adams Perez Ward Fox Stone Berg Zimmermann").split()
FIRMS = ("Sunrise Bakery LLC", "Harbor Dental Group", "Maple Street Lofts", "Northside Gym",
         "Old Mill Brewing Co", "Cedar Property Management")
STREETS = "Oak Maple Cedar Pine Elm Washington Lake Hill Walnut Park River Church".split()

UNIT_SERVICE, UNIT_INSTALL, UNIT_PLUMBING = 201, 202, 203
UNITS = ((UNIT_SERVICE, "HVAC Service"), (UNIT_INSTALL, "HVAC Install"),
         (UNIT_PLUMBING, "Plumbing"))
TYPE_VISIT, TYPE_TUNEUP, TYPE_REPAIR, TYPE_DRAIN, TYPE_SYSTEM, TYPE_HEATER = range(301, 307)
JOB_TYPES = ((TYPE_VISIT, "Estimate Visit", "Sales", UNIT_SERVICE),
             (TYPE_TUNEUP, "AC Tune-Up", "Maintenance", UNIT_SERVICE),
             (TYPE_REPAIR, "No Cool", "Service", UNIT_SERVICE),
             (TYPE_DRAIN, "Drain Cleaning", "Service", UNIT_PLUMBING),
             (TYPE_SYSTEM, "System Install", "Install", UNIT_INSTALL),
             (TYPE_HEATER, "Water Heater Install", "Install", UNIT_INSTALL))
CAMPAIGNS = ((401, "Google Ads", True), (402, "Referral", True), (403, "Yard Signs", True),
             (404, "Website", True), (405, "Radio 2019", False))
TAGS = ((501, "VIP"), (502, "Dispute"), (503, "Financing"), (504, "Dog in Yard"))
TECHNICIANS = ((601, "Mike Torres", UNIT_SERVICE), (602, "Dana White", UNIT_SERVICE),
               (603, "Priya Shah", UNIT_SERVICE), (604, "Tom Baker", UNIT_INSTALL),
               (605, "Luis Ortega", UNIT_INSTALL), (606, "Sam Green", UNIT_PLUMBING),
               (607, "Al Former", None))
GOODS = ((701, "14 SEER heat pump"), (702, "96% gas furnace"), (703, "Smart thermostat"),
         (704, "50 gal water heater"), (705, "Duct sealing"), (706, "Diagnostic"))


def money(amount):
    """ServiceTitan's accounting API writes money as text."""
    return "%.2f" % amount


def address(profile):
    city, state, zip3, _, _ = profile["city"]
    return {"street": profile["street"], "unit": None, "city": city, "state": state,
            "zip": zip3 + "%02d" % (profile["n"] % 90 + 1), "country": "USA",
            "latitude": None, "longitude": None}


def plain_address(profile):
    """An address as the accounting API has it: without coordinates."""
    whole = address(profile)
    return {k: whole[k] for k in ("street", "unit", "city", "state", "zip", "country")}


def reference(since):
    """(entity, id, row) of everything that stands before the first customer."""
    at = iso7(since)
    stamps = {"createdOn": at, "modifiedOn": at}
    for uid, name in UNITS:
        yield "business_units", uid, {
            "id": uid, "active": True, "name": name, "officialName": COMPANY + " - " + name,
            "email": "office@brightair.example", "currency": "USD", "phoneNumber": "2125550100",
            "invoiceHeader": None, "invoiceMessage": None, "defaultTaxRate": None,
            "authorizationParagraph": None, "acknowledgementParagraph": None, "address": None,
            "materialSku": None, "quickbooksClass": None, "accountCode": None, "franchiseId": None,
            "conceptCode": None, "corporateContractNumber": None, "trade": None, "division": None,
            "tagTypeIds": [], "tenant": None, "externalData": [], **stamps}
    for tid, name, unit in TECHNICIANS:
        first, last = name.split()
        yield "technicians", tid, {
            "id": tid, "userId": tid + 9000, "name": name, "roleIds": [], "businessUnitId": unit,
            "mainZoneId": None, "zoneIds": [], "email": first.lower() + "@brightair.example",
            "phoneNumber": "2125550%d" % (tid - 450), "loginName": first.lower(), "home": None,
            "dailyGoal": 1500, "isManagedTech": True, "licenseType": "ManagedTech",
            "customFields": [], "active": unit is not None, "aadUserId": None, "burdenRate": 0,
            "team": None, "jobFilter": None, "permissions": [], "accountLocked": False,
            "commissionRate": 0, "currentValue": None, "firstName": first, "lastName": last,
            "hourlyRate": 38.5, "jobId": None, "mobilePhone": None, "outboundCallerId": None,
            "payrollId": None, "payrollProfileId": None, "appoitmentId": None, "shiftStart": None,
            "shiftEnd": None, "soldByRate": 0, "startDate": None, "status": "Idle", "skills": [],
            "positions": ["Service"], "location": None, "bio": None, "memo": None, **stamps}
    for jid, name, kind, unit in JOB_TYPES:
        yield "job_types", jid, {
            "id": jid, "name": name, "businessUnitIds": [unit], "skills": [], "tagTypeIds": [],
            "priority": "Normal", "duration": 7200, "soldThreshold": None, "class": kind,
            "summary": "", "noCharge": kind == "Sales",
            "enforceRecurringServiceEventSelection": False, "invoiceSignaturesRequired": False,
            "externalData": [], "active": True, "isSmartDispatched": False, **stamps}
    for cid, name, active in CAMPAIGNS:
        yield "campaigns", cid, {
            "id": cid, "name": name, "active": active, "isDefaultCampaign": cid == 404,
            "category": None, "source": None, "otherSource": None, "businessUnit": None,
            "medium": None, "otherMedium": None, "campaignPhoneNumbers": [], **stamps}
    for tid, name in TAGS:
        yield "tag_types", tid, {
            "id": tid, "name": name, "color": "#2f80ed", "code": name[:3].upper(),
            "importance": None, "isConversionOpportunity": False,
            "allowToUseOnTimesheetActivity": False, "isVisibleOnDispatchBoard": True,
            "active": True, **stamps}
