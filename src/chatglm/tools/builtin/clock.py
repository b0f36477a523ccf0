"""The current time, anywhere."""

import datetime
import difflib
import re
import zoneinfo
from typing import Annotated

from chatglm.errors import ToolError
from chatglm.tools.definition import tool

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_OTHER_NAMES = {  # cities people ask for that the time zone database does not name
    "beijing": "Asia/Shanghai",
    "北京": "Asia/Shanghai",
    "上海": "Asia/Shanghai",
    "shenzhen": "Asia/Shanghai",
    "中国": "Asia/Shanghai",
    "香港": "Asia/Hong_Kong",
    "台北": "Asia/Taipei",
    "东京": "Asia/Tokyo",
    "纽约": "America/New_York",
    "伦敦": "Europe/London",
    "巴黎": "Europe/Paris",
    "san francisco": "America/Los_Angeles",
    "gmt": "UTC",
    "z": "UTC",
}
_OFFSET = re.compile(r"(?:utc|gmt)?\s*([+-])(\d{1,2})(?::?([0-5]\d))?", re.IGNORECASE)


@tool
def current_time(
    timezone: Annotated[str, "a time zone like Asia/Shanghai, a city, or an offset like UTC+8; empty: here"] = "",
) -> str:
    """Tells the current date, time and day of the week."""
    now = datetime.datetime.now(find_zone(timezone)) if timezone.strip() else datetime.datetime.now().astimezone()
    offset = now.strftime("%z")
    name = timezone.strip() or now.tzname() or "local time"
    return f"{now:%Y-%m-%d %H:%M:%S} {_DAYS[now.weekday()]}, {name} (UTC{offset[:3]}:{offset[3:5]})"


def find_zone(name: str) -> datetime.tzinfo:
    """A time zone by its name in the time zone database, its city, or an offset.

    Raises:
        ToolError: there is none; names some that are alike.
    """
    wanted = name.strip()
    if offset := _OFFSET.fullmatch(wanted):
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes <= 14 * 60:
            return datetime.timezone(datetime.timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    wanted = _OTHER_NAMES.get(wanted.lower(), wanted).replace(" ", "_").lower()
    zones = {zone.lower(): zone for zone in sorted(zoneinfo.available_timezones())}
    if not zones:
        raise ToolError("this machine has no time zone database; install it with: pip install tzdata")
    cities = {zone.rpartition("/")[2]: zone for zone in zones if "/" in zone}
    found = zones.get(wanted) or zones.get(cities.get(wanted, ""))
    if found is None:
        alike = difflib.get_close_matches(wanted, [*zones, *cities], n=3, cutoff=0.7)
        hint = f"; alike are {', '.join(zones.get(one) or zones[cities[one]] for one in alike)}" if alike else ""
        raise ToolError(f"there is no time zone {name[:60]!r}{hint}; a right one is Asia/Shanghai")
    return zoneinfo.ZoneInfo(found)
