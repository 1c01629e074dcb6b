"""Arrow values as the text in which sqllogictest files expect them."""

import datetime
import decimal
import math
import re
import struct
import zoneinfo

import pyarrow as pa


def plain(number, digits=12):
    """A number without an exponent and trailing zeros, rounded to a number of digits."""
    with decimal.localcontext(prec=400):
        rounded = number if digits is None else round(number, digits)
        text = format(rounded, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def shortest(value, kind):
    """The shortest decimal that reads back as the float `value`."""
    if pa.types.is_float64(kind):
        return decimal.Decimal(repr(value))
    exact = decimal.Decimal(value)
    shorter = (decimal.Context(digits, decimal.ROUND_HALF_UP).create_decimal(exact) for digits in range(1, 10))
    return next(number for number in shorter if struct.pack("f", float(number)) == struct.pack("f", value))


def float_cell(value, kind):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return plain(shortest(value, kind))


def float_display(value, kind):
    """A float inside of a list or a struct, where it keeps its exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    largest, smallest = (16, -5) if pa.types.is_float64(kind) else (13, -6)
    sign, digits, exponent = shortest(value, kind).normalize().as_tuple()
    point = len(digits) + exponent
    if smallest < point <= largest:
        text = plain(decimal.Decimal((0, digits, exponent)), None)
        text += "" if "." in text else ".0"
    else:
        fraction = "".join(map(str, digits[1:]))
        text = f"{digits[0]}{'.' if fraction else ''}{fraction}e{point - 1}"
    return "-" * sign + text


UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAYS_OF_400_YEARS = 146097


def date_text(days):
    """A date of the proleptic calendar, also outside of the years that `datetime` has."""
    cycles, day = divmod(days + (datetime.date(1970, 1, 1) - datetime.date(2000, 1, 1)).days, DAYS_OF_400_YEARS)
    date = datetime.date(2000, 1, 1) + datetime.timedelta(days=day)
    year = date.year + 400 * cycles
    text = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{text}-{date.month:02}-{date.day:02}"


def clock_text(value, per_second):
    """A time of day; its fraction has as many groups of three digits as it needs."""
    seconds, fraction = divmod(value, per_second)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    nanos = f"{fraction * (10**9 // per_second):09}"
    while nanos.endswith("000"):
        nanos = nanos[:-3]
    return f"{text}.{nanos}" if nanos else text


def utc_offset(zone, seconds):
    if match := re.fullmatch(r"([+-])(\d\d):?(\d\d)?", zone):
        sign, hours, minutes = match.groups()
        return int(sign + "1") * (int(hours) * 60 + int(minutes or 0))
    at = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return int(at.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset().total_seconds()) // 60


def timestamp_text(value, unit, zone):
    per_second = UNITS[unit]
    suffix = ""
    if zone:
        minutes = utc_offset(zone, value // per_second)
        value += minutes * 60 * per_second
        hours, rest = divmod(abs(minutes), 60)
        suffix = f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}" if minutes else "Z"
    days, clock = divmod(value, 86400 * per_second)
    return f"{date_text(days)}T{clock_text(clock, per_second)}{suffix}"


def duration_text(value, unit):
    per_second = UNITS[unit]
    sign = "-" if value < 0 else ""
    seconds, fraction = divmod(abs(value), per_second)
    part = lambda number: f"{sign if number else ''}{number}"
    digits = len(str(per_second)) - 1
    last = f"{seconds % 60}.{fraction:0{digits}}" if digits else str(seconds % 60)
    signed = sign if seconds % 60 or fraction else ""
    return (f"{part(seconds // 86400)} days {part(seconds // 3600 % 24)} hours "
            f"{part(seconds // 60 % 60)} mins {signed}{last} secs")


def interval_text(interval):
    months, days, nanos = interval
    sign = "-" if nanos < 0 else ""
    seconds, fraction = divmod(abs(nanos), 10**9)
    parts = [f"{months} mons" if months else "", f"{days} days" if days else ""]
    parts += [f"{sign}{seconds // 3600} hours" if seconds >= 3600 else ""]
    parts += [f"{sign}{seconds // 60 % 60} mins" if seconds // 60 % 60 else ""]
    parts += [f"{sign}{seconds % 60}.{fraction:09} secs" if seconds % 60 or fraction else ""]
    return " ".join(filter(None, parts)) or "0 secs"


def display(scalar):
    """A value as Arrow displays it."""
    kind = scalar.type
    if not scalar.is_valid:
        return "NULL"
    if pa.types.is_boolean(kind):
        return str(scalar.as_py()).lower()
    if pa.types.is_floating(kind):
        if pa.types.is_float16(kind):
            return float_cell(scalar.as_py(), kind)
        return float_display(scalar.as_py(), kind)
    if pa.types.is_decimal(kind):
        return format(scalar.as_py(), "f")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) \
            or pa.types.is_fixed_size_binary(kind):
        return scalar.as_py().hex()
    if pa.types.is_date32(kind):
        return date_text(scalar.value)
    if pa.types.is_date64(kind):
        return timestamp_text(scalar.value, "ms", None)
    if pa.types.is_time(kind):
        return clock_text(scalar.value, UNITS[kind.unit])
    if pa.types.is_timestamp(kind):
        return timestamp_text(scalar.value, kind.unit, kind.tz)
    if pa.types.is_duration(kind):
        return duration_text(scalar.value, kind.unit)
    if pa.types.is_interval(kind):
        return interval_text(scalar.as_py())
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name}: {display(scalar[i])}" for i, field in enumerate(kind)) + "}"
    if pa.types.is_map(kind):
        return "{" + ", ".join(f"{display(entry[0])}: {display(entry[1])}" for entry in scalar.values) + "}"
    if isinstance(scalar, pa.ListScalar):
        return "[" + ", ".join(map(display, scalar.values)) + "]"
    if pa.types.is_union(kind):
        name = next(field.name for field, code in zip(kind, kind.type_codes) if code == scalar.type_code)
        return f"{{{name}={display(scalar.value)}}}"
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return display(scalar.value)
    return str(scalar.as_py())


def is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def cell(scalar):
    """A value as a column of a result shows it."""
    kind = scalar.type
    if not scalar.is_valid:
        return "NULL"
    if pa.types.is_floating(kind):
        return float_cell(scalar.as_py(), kind)
    if pa.types.is_decimal(kind):
        return plain(scalar.as_py(), None)
    if is_text(kind):
        return scalar.as_py().rstrip("\n").replace("\0", "\\0") if scalar.as_py() else "(empty)"
    if pa.types.is_dictionary(kind):
        return cell(scalar.value)
    return display(scalar)


def type_letter(kind):
    if pa.types.is_dictionary(kind):
        return "T" if is_text(kind.value_type) else "?"
    letters = {
        "B": pa.types.is_boolean,
        "I": pa.types.is_integer,
        "R": lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind),
        "T": is_text,
        "D": lambda kind: pa.types.is_date(kind) or pa.types.is_time(kind),
        "P": pa.types.is_timestamp,
    }
    return next((letter for letter, test in letters.items() if test(kind)), "?")


def expand(row):
    """A row whose last value has several lines, as one row for each line."""
    lines = row[-1].split("\n") if row else []
    if len(lines) < 2:
        return [row]
    indent = lambda line: "-" * (len(line) - len(line.lstrip())) + line.lstrip()
    return [row[:-1]] + [[f"{number:02}){indent(line)}"] for number, line in enumerate(lines, start=1)]


def rows_of(table):
    columns = [list(map(cell, column)) for column in table.columns]
    return [line for row in zip(*columns) for line in expand(list(row))]
