"""Flights from New York: what is known of an aircraft, an airport, a carrier and a route just before departure."""

from featurestore import (
    Entity,
    FeatureService,
    FeatureView,
    Topic,
    TrainingJob,
    count,
    last,
    max,
    mean,
    min,
    std,
    sum,
)

aircraft = Entity("aircraft", key="tailnum", owner="fleet@example.org", description="one airframe")
airport = Entity("airport", key="origin", owner="ground@example.org", description="where flights leave from")
carrier = Entity("carrier", key="carrier", owner="fleet@example.org", description="the airline that flies")
route = Entity("route", key=("origin", "dest"), owner="network@example.org", description="from where to where")

departures = Topic(
    "flight-departures",
    schema={
        "tailnum": str,
        "carrier": str,
        "flight": int,
        "origin": str,
        "dest": str,
        "departed_at": "timestamp",
        "dep_delay": float,
        "distance": float,
    },
    event_time="departed_at",
    key="tailnum",
    nullable=("tailnum",),
    owner="ops@example.org",
    description="a flight left the gate",
)

arrivals = Topic(
    "flight-arrivals",
    schema={
        "tailnum": str,
        "carrier": str,
        "flight": int,
        "origin": str,
        "dest": str,
        "arrived_at": "timestamp",
        "arr_delay": float,
        "air_time": float,
    },
    event_time="arrived_at",
    key="tailnum",
    nullable=("tailnum", "air_time"),
    owner="ops@example.org",
    description="a flight reached the gate, hours after it left",
)

weather = Topic(
    "airport-weather",
    schema={
        "origin": str,
        "observed_at": "timestamp",
        "temp": float,
        "dewp": float,
        "humid": float,
        "wind_speed": float,
        "precip": float,
        "pressure": float,
        "visib": float,
    },
    event_time="observed_at",
    key="origin",
    partitions=2,
    nullable=("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"),
    owner="ground@example.org",
    description="hourly observation at an airport",
)

aircraft_arrivals = FeatureView(
    "aircraft_arrivals",
    entity=aircraft,
    source=arrivals,
    lateness="6h",
    owner="fleet@example.org",
    features={
        "flights": count().over("24h", "7d", "30d"),
        "delay_mean": mean("arr_delay").over("24h", "7d", "30d"),
        "delay_std": std("arr_delay").over("30d"),
        "delay_max": max("arr_delay").over("24h", "7d"),
        "last_delay": last("arr_delay"),
        "last_origin": last("origin"),
    },
)

aircraft_departures = FeatureView(
    "aircraft_departures",
    entity=aircraft,
    source=departures,
    lateness="6h",
    owner="fleet@example.org",
    features={
        "flights": count().over("24h", "7d"),
        "delay_mean": mean("dep_delay").over("24h", "7d"),
        "distance": sum("distance").over("7d"),
        "last_delay": last("dep_delay"),
    },
)

airport_departures = FeatureView(
    "airport_departures",
    entity=airport,
    source=departures,
    lateness="6h",
    owner="ground@example.org",
    features={
        "flights": count().over("1h", "24h"),
        "delay_mean": mean("dep_delay").over("1h", "24h", "7d"),
        "delay_std": std("dep_delay").over("1h"),
        "delay_max": max("dep_delay").over("1h"),
        "delay_min": min("dep_delay").over("1h"),
    },
)

carrier_arrivals = FeatureView(
    "carrier_arrivals",
    entity=carrier,
    source=arrivals,
    lateness="6h",
    owner="fleet@example.org",
    features={
        "flights": count().over("1h", "24h"),
        "delay_mean": mean("arr_delay").over("1h", "24h", "30d"),
    },
)

route_arrivals = FeatureView(
    "route_arrivals",
    entity=route,
    source=arrivals,
    lateness="6h",
    owner="network@example.org",
    features={
        "flights": count().over("24h", "30d"),
        "delay_mean": mean("arr_delay").over("24h", "30d"),
        "delay_std": std("arr_delay").over("30d"),
        "air_time_mean": mean("air_time").over("30d"),
    },
)

airport_weather = FeatureView(
    "airport_weather",
    entity=airport,
    source=weather,
    lateness="6h",
    max_age="6h",
    owner="ground@example.org",
    features={
        "temp": last("temp"),
        "humid": last("humid"),
        "wind_speed": last("wind_speed"),
        "precip": last("precip"),
        "pressure": last("pressure"),
        "visib": last("visib"),
    },
)

delay_risk = FeatureService(
    "delay_risk",
    [
        aircraft_arrivals,
        aircraft_departures,
        airport_departures,
        carrier_arrivals,
        route_arrivals,
        airport_weather,
    ],
    owner="fleet@example.org",
    description="will this flight arrive more than 15 minutes late?",
)

delay_model = TrainingJob(
    "delay_model",
    service=delay_risk,
    label="late",
    baseline=("hour", "weekday", "month", "distance", "carrier_code", "origin_code"),
    owner="fleet@example.org",
)
