"""The business clock: the string "BUSINESS@REAL*SCALE" and times as text.

Everything the company lives by is business time, as seconds since 1970 in a float; timeouts,
rate limits and callback delays are real time. The string is the one the product is given.
"""
import time
from datetime import datetime, timezone

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_time(text):
    """Seconds of an ISO 8601 time; a time without a zone is UTC. Raises ValueError."""
    text = text.strip().replace(" ", "T", 1)
    if "." in text:  # vendors send up to seven digits of a second
        head, tail = text.split(".", 1)
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        text = head + "." + (digits + "000000")[:6] + tail[len(digits):]
    at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()


def iso(seconds):
    """2026-06-01T12:00:00Z"""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def iso7(seconds):
    """2026-06-01T12:00:00.1230000Z, with the seven digits that ServiceTitan writes."""
    whole, part = divmod(int(seconds * 1000 + 0.5), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + ".%03d0000Z" % part


def iso3(seconds):
    """2026-06-01T12:00:00.123Z"""
    return iso7(seconds)[:-5] + "Z"


def http_date(seconds):
    """Mon, 01 Jun 2026 12:00:00 GMT"""
    t = time.gmtime(seconds)
    return "%s, %02d %s %04d %02d:%02d:%02d GMT" % (
        WEEKDAYS[t.tm_wday], t.tm_mday, MONTHS[t.tm_mon - 1], t.tm_year, t.tm_hour, t.tm_min,
        t.tm_sec)


def rfc2822(seconds):
    """Mon, 01 Jun 2026 12:00:00 +0000"""
    return http_date(seconds)[:-3] + "+0000"


class Clock:
    """business = origin + (real - real origin) * scale"""

    def __init__(self, text=None):
        self.business_origin = self.real_origin = time.time()
        self.scale = 1.0
        if text:
            try:
                business, rest = text.split("@", 1)
                real, scale = rest.split("*", 1)
                self.business_origin = parse_time(business)
                self.real_origin = parse_time(real)
                self.scale = float(scale)
            except ValueError:
                raise ValueError("the clock is not BUSINESS@REAL*SCALE, for example "
                                 "2026-06-01T12:00:00Z@2026-11-23T06:00:00Z*30000: " + text)
            if not self.scale > 0:
                raise ValueError("the clock's scale must be above 0: " + text)

    def text(self):
        return "%s@%s*%r" % (iso3(self.business_origin), iso3(self.real_origin), self.scale)

    def business(self, real=None):
        real = time.time() if real is None else real
        return self.business_origin + (real - self.real_origin) * self.scale

    def real(self, business):
        return self.real_origin + (business - self.business_origin) / self.scale
