"""Dates for tests: in UTC, the settlement time zone of the tests."""

from datetime import UTC, date, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from google.type import date_pb2


def today() -> date:
    """The date in UTC."""
    return datetime.now(UTC).date()


def days_ago(days: int) -> date:
    """The date so many days before today."""
    return today() - timedelta(days=days)


def end_of(day: date) -> datetime:
    """The last microsecond of a date."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


def date_message(day: date) -> date_pb2.Date:
    """The date as a message."""
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)


def timestamp(instant: datetime) -> Timestamp:
    """The instant as a message."""
    message = Timestamp()
    message.FromDatetime(instant)
    return message
