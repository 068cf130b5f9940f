"""Metadata of markets: when they close, how they settle, what they charge. A JSON file, for recordings do not tell.

Two shapes are read: an object by ticker, and answers of the exchange as they are, `{"markets": [...], "series": [...]}`, of which
`markets` may be an object by ticker too. Fields that are not named here are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import orjson

from kalshi_jax.fees import FEE_TYPES, MAX_RATE
from kalshi_jax.tape import CENT, DOLLAR, VOID
from loaders.events import DataError, MarketFacts

LATEST_S = 253_402_300_800  # the year 10,000
RESULTS = {"yes": DOLLAR, "no": 0, "void": VOID}


@dataclass(frozen=True)
class Metadata:
    """What a metadata file says."""

    markets: Mapping[str, MarketFacts]  # by ticker
    series: Mapping[str, MarketFacts]  # fees only, by `series_of` their markets

    def of(self, ticker: str) -> MarketFacts | None:
        """Give what is known of a market; None if that is nothing."""
        return self.markets.get(ticker, self.series.get(series_of(ticker)))


def series_of(ticker: str) -> str:
    """Name a market's series: its ticker up to the first "-"."""
    return ticker.partition("-")[0]


def facts_of_lifecycle(message: Mapping[str, Any], known: MarketFacts) -> MarketFacts:
    """Add what a message of the channel `market_lifecycle_v2` says of its market to what is known.

    A later close time replaces an earlier one (`created`, `close_date_updated`), and so does a result (`determined`). Fields that
    are missing or make no sense say nothing: the channel tells of every market of the exchange, and of much else.
    """
    facts = known
    if type(seconds := message.get("close_ts")) is int and 0 < seconds < LATEST_S:
        facts = replace(facts, close_ms=1000 * seconds)
    record = {"result": message.get("result"), "settlement_value_dollars": message.get("settlement_value")}
    try:
        result = _result("lifecycle", record)
    except DataError:
        return facts
    return facts if result is None else replace(facts, result=result)


def read_metadata(path: str | Path) -> Metadata:
    """Read a metadata file.

    Per market: `close_time` (ISO, or null), `result` ("yes", "no", "void", "scalar", or null while there is none) with
    `settlement_value_dollars` for a scalar one, and `fee_type` and `fee_multiplier`. Per series: the fees of its markets.

    Raises:
        DataError: the file is no such JSON, or a value makes no sense; market, field and value are named.
        FileNotFoundError: there is no file.
    """
    path = Path(path)
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: no JSON ({error}): expected an object of markets by ticker; repair the file"
        ) from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: {type(data).__name__}: expected an object of markets by ticker")
    whole = isinstance(data.get("markets"), list | dict) or isinstance(data.get("series"), list | dict)
    records = _by_ticker(path, data.get("markets") if whole else data)
    series = {
        name: _fees(f"{path}: series {name}", record, MarketFacts())
        for name, record in _by_ticker(path, data.get("series") if whole else {}).items()
    }
    markets = {}
    for ticker, record in records.items():
        place = f"{path}: market {ticker}"
        fees = _fees(place, record, series.get(series_of(ticker), MarketFacts()))
        markets[ticker] = replace(fees, close_ms=_close_ms(place, record), result=_result(place, record))
    return Metadata(markets, series)


def _by_ticker(path: Path, records: Any) -> dict[str, dict[str, Any]]:
    if isinstance(records, list):
        if not all(isinstance(record, dict) and isinstance(record.get("ticker"), str) for record in records):
            raise DataError(f"{path}: a record without its ticker: expected the exchange's own records")
        records = {record["ticker"]: record for record in records}
    if records is None:
        return {}
    if not isinstance(records, dict):
        raise DataError(f"{path}: {records!r}: expected records in a list or by ticker; repair the file")
    for ticker, record in records.items():
        if not isinstance(record, dict):
            raise DataError(f"{path}: {ticker}: {record!r}: expected an object with close_time, result, fee_type")
    return records


def _close_ms(place: str, record: dict[str, Any]) -> int | None:
    text = record.get("close_time")
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise DataError(
            f"{place}: close_time={text!r}: expected an ISO time such as 2026-05-11T05:45:00Z, or null"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _result(place: str, record: dict[str, Any]) -> int | None:
    result = record.get("result")
    if result in (None, ""):
        return None
    if isinstance(result, str) and result in RESULTS:
        return RESULTS[result]
    if result != "scalar":
        raise DataError(f"{place}: result={result!r}: expected yes, no, void, scalar or null")
    if "settlement_value_dollars" in record:
        return _whole(place, record, "settlement_value_dollars", DOLLAR, DOLLAR)
    return _whole(place, record, "settlement_value", CENT, DOLLAR)


def _fees(place: str, record: dict[str, Any], otherwise: MarketFacts) -> MarketFacts:
    kind = record.get("fee_type")
    if kind is None:
        return otherwise
    if not isinstance(kind, str) or kind not in FEE_TYPES:
        raise DataError(f"{place}: fee_type={kind!r}: expected one of {', '.join(FEE_TYPES)}")
    record = {"fee_multiplier": 1} | record
    taker, maker, flat = (_whole(place, record, "fee_multiplier", unit, MAX_RATE) for unit in FEE_TYPES[kind])
    return MarketFacts(taker_rate=taker, taker_flat=flat, maker_rate=maker, maker_flat=flat)


def _whole(place: str, record: dict[str, Any], field: str, unit: int, most: int) -> int:
    """Read a number (or its text) as a whole number of 1/unit, exactly."""
    try:
        scaled = Decimal(str(record.get(field))) * unit
        whole = int(scaled) if scaled == scaled.to_integral_value() and 0 <= scaled <= most else None
    except (InvalidOperation, ValueError, OverflowError):
        whole = None
    if whole is None:
        raise DataError(
            f"{place}: {field}={record.get(field)!r}: expected a number that is 0 to {most} in units of 1/{unit}"
        )
    return whole
