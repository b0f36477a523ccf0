"""The weather, from open-meteo.com: free, without a key, for non-commercial use."""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated, Any

from chatglm.errors import ToolError
from chatglm.tools.definition import Tool, tool

PLACES = "https://geocoding-api.open-meteo.com/v1/search"
FORECAST = "https://api.open-meteo.com/v1/forecast"
_MAX_BYTES = 1_000_000

# WMO code table 4677, in the groups the service uses.
_SKY = {
    0: "clear",
    1: "mostly clear",
    2: "partly cloudy",
    3: "overcast",
    45: "fog",
    48: "rime fog",
    51: "light drizzle",
    53: "drizzle",
    55: "dense drizzle",
    56: "freezing drizzle",
    57: "dense freezing drizzle",
    61: "light rain",
    63: "rain",
    65: "heavy rain",
    66: "freezing rain",
    67: "heavy freezing rain",
    71: "light snow",
    73: "snow",
    75: "heavy snow",
    77: "snow grains",
    80: "light showers",
    81: "showers",
    82: "violent showers",
    85: "snow showers",
    86: "heavy snow showers",
    95: "thunderstorm",
    96: "thunderstorm with hail",
    99: "thunderstorm with heavy hail",
}


def make_weather(places: str = PLACES, forecast: str = FORECAST, timeout: float = 8.0) -> Tool:
    """The weather tool.

    Args:
        places: address of the service that finds places.
        forecast: address of the service that knows their weather.
        timeout: seconds each of the two may take.
    """

    @tool(timeout=2 * timeout + 2)
    def weather(
        city: Annotated[str, "name of the city, in any language"],
        days: Annotated[int, "how many days of forecast, 1 to 7"] = 1,
    ) -> dict[str, Any]:
        """Tells the current weather of a city and the forecast of the next days."""
        if not 1 <= days <= 7:
            raise ToolError(f"days is {days}; it must be 1 to 7")
        place = _find(places, city, timeout)
        answer = _get(
            forecast,
            {
                "latitude": place["latitude"],
                "longitude": place["longitude"],
                "current": "temperature_2m,apparent_temperature,relative_humidity_2m,weather_code,wind_speed_10m",
                "daily": "weather_code,temperature_2m_max,temperature_2m_min,precipitation_probability_max",
                "timezone": "auto",
                "forecast_days": days,
            },
            timeout,
        )
        return _summary(place, answer)

    return weather


def _find(address: str, city: str, timeout: float) -> dict[str, Any]:
    language = "en" if city.isascii() else "zh"
    found = _get(address, {"name": city.strip()[:100], "count": 1, "language": language}, timeout).get("results")
    place = found[0] if isinstance(found, list) and found else None
    if not isinstance(place, dict) or not {"latitude", "longitude"} <= set(place):
        raise ToolError(f"no place named {city[:60]!r} was found; give the name of a city")
    return place


def _summary(place: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    try:
        now, daily = answer["current"], answer["daily"]
        return {
            "place": ", ".join(str(place[key]) for key in ("name", "admin1", "country") if place.get(key)),
            "time": now["time"],
            "sky": _SKY.get(now["weather_code"], "unknown"),
            "temperature_celsius": now["temperature_2m"],
            "feels_like_celsius": now["apparent_temperature"],
            "humidity_percent": now["relative_humidity_2m"],
            "wind_km_per_hour": now["wind_speed_10m"],
            "forecast": [
                {
                    "date": date,
                    "sky": _SKY.get(daily["weather_code"][day], "unknown"),
                    "high_celsius": daily["temperature_2m_max"][day],
                    "low_celsius": daily["temperature_2m_min"][day],
                    "rain_percent": daily["precipitation_probability_max"][day],
                }
                for day, date in enumerate(daily["time"])
            ],
        }
    except (KeyError, IndexError, TypeError):
        raise ToolError("the weather service answered in a form that is not known") from None


def _get(address: str, query: dict[str, Any], timeout: float) -> dict[str, Any]:
    url = f"{address}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={"User-Agent": "chatglm", "Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer = json.loads(response.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise ToolError(f"the weather service refused: HTTP {error.code}") from None
    except ValueError:
        raise ToolError("the weather service answered with something that is not JSON") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ToolError(f"the weather service cannot be reached ({reason}); is this machine online?") from None
    if not isinstance(answer, dict):
        raise ToolError("the weather service answered in a form that is not known")
    return answer
