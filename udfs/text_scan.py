"""Numbers, texts and times in bytes, read by compiled loops that know the common forms and nothing else.

A reader answers "not plain" (a place of -1) for whatever is rare: the caller then decodes that one record with the
decoder of the stream, whose verdict counts. So these need not be complete, they only must never be wrong.
"""

import numpy as np
import numpy.typing as npt

from udfs.compiled import inlined

Bytes = npt.NDArray[np.uint8]

ABSENT, NULL, VALUE, LONG_NUMBER = 0, 1, 2, 3
"""State of a cell; a LONG_NUMBER has more digits than one multiplication turns into the nearest float64."""

NOT_PLAIN = -1
QUOTE, BACKSLASH, MINUS, PLUS, POINT, COLON, ZERO, NINE = 34, 92, 45, 43, 46, 58, 48, 57
_LARGEST_WHOLE = 2**53
_MOST_DIGITS = 18
_MOST_TENS = 22  # 10**22 is the largest power of ten that is a float64
_TENS = np.array([10.0**exponent for exponent in range(_MOST_TENS + 1)])
_DAY_S = 86_400
_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], np.int64)
_DAYS_IN = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_DAYS_TO_1970 = 719_162  # from the first day of year 1


@inlined
def same_bytes(data: Bytes, at: int, other: Bytes, begin: int, length: int) -> bool:
    """Whether two stretches of a length are equal."""
    for place in range(length):  # noqa: SIM110  # numba takes no generators
        if data[at + place] != other[begin + place]:
            return False
    return True


@inlined
def after_space(data: Bytes, at: int, end: int) -> int:
    """The place of the first byte that is no JSON white space."""
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@inlined
def after_utf8(data: Bytes, at: int, end: int) -> int:
    """The place after a character of two to four bytes (RFC 3629)."""
    first = data[at]
    lowest, highest = 0x80, 0xBF
    if first < 0xC2 or first > 0xF4:
        return NOT_PLAIN
    if first < 0xE0:
        more = 1
    elif first < 0xF0:
        more = 2
        if first == 0xE0:
            lowest = 0xA0
        elif first == 0xED:  # surrogates are no characters
            highest = 0x9F
    else:
        more = 3
        if first == 0xF0:
            lowest = 0x90
        elif first == 0xF4:
            highest = 0x8F
    if at + more >= end:
        return NOT_PLAIN
    if data[at + 1] < lowest or data[at + 1] > highest:
        return NOT_PLAIN
    for place in range(at + 2, at + more + 1):
        if data[place] & 0xC0 != 0x80:
            return NOT_PLAIN
    return at + more + 1


@inlined
def closing_quote(data: Bytes, at: int, end: int) -> int:
    """The place of the quote that ends a JSON text without escapes."""
    while at < end:
        byte = data[at]
        if byte == QUOTE:
            return at
        if byte < 32 or byte == BACKSLASH:
            return NOT_PLAIN
        if byte < 128:
            at += 1
        else:
            at = after_utf8(data, at, end)
            if at < 0:
                return NOT_PLAIN
    return NOT_PLAIN


@inlined
def is_digit(data: Bytes, at: int, end: int) -> bool:
    """Whether there is a digit."""
    return at < end and ZERO <= data[at] <= NINE


@inlined
def scan_number(data: Bytes, at: int, end: int) -> tuple[int, int, int, bool, bool]:
    """A number of JSON's grammar.

    Returns:
        The place after it, its digits as a whole number with sign, the power of ten it is to be multiplied with,
        whether it is written as a whole number, and whether all digits are in.
    """
    negative = data[at] == MINUS
    if negative:
        at += 1
    digits, mantissa, tens, whole, complete = 0, 0, 0, True, True
    if not is_digit(data, at, end):
        return NOT_PLAIN, 0, 0, False, False
    if data[at] == ZERO:
        at += 1
    else:
        while is_digit(data, at, end):
            if digits < _MOST_DIGITS:
                mantissa = mantissa * 10 + (data[at] - ZERO)
            else:
                complete = False
            digits += 1
            at += 1
    if at < end and data[at] == POINT:
        whole = False
        at += 1
        if not is_digit(data, at, end):
            return NOT_PLAIN, 0, 0, False, False
        while is_digit(data, at, end):
            if digits < _MOST_DIGITS:
                mantissa = mantissa * 10 + (data[at] - ZERO)
                tens -= 1
                if mantissa > 0:
                    digits += 1
            else:
                complete = False
            at += 1
    if at < end and (data[at] | 32) == 101:
        whole = False
        at += 1
        less = False
        if at < end and (data[at] == MINUS or data[at] == PLUS):
            less = data[at] == MINUS
            at += 1
        exponent, first = 0, at
        while is_digit(data, at, end):
            exponent = exponent * 10 + (data[at] - ZERO)
            at += 1
        if at == first or at - first > 3:
            return NOT_PLAIN, 0, 0, False, False
        tens += -exponent if less else exponent
    if negative:
        if mantissa == 0:  # a zero with a sign
            return NOT_PLAIN, 0, 0, False, False
        mantissa = -mantissa
    return at, mantissa, tens, whole, complete


@inlined
def is_exact(mantissa: int, tens: int) -> bool:
    """Whether one multiplication or division gives the float64 nearest to `mantissa * 10**tens` (Clinger 1990)."""
    return abs(mantissa) <= _LARGEST_WHOLE and -_MOST_TENS <= tens <= _MOST_TENS


@inlined
def scaled(mantissa: int, tens: int) -> float:
    """`mantissa * 10**tens`; see `is_exact`."""
    if tens < 0:
        return float(mantissa / _TENS[-tens])
    return float(mantissa * _TENS[tens])


@inlined
def two_digits(data: Bytes, at: int) -> int:
    """The number of two bytes; negative when they are no digits."""
    tens, ones = int(data[at]) - ZERO, int(data[at + 1]) - ZERO
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return -1
    return tens * 10 + ones


@inlined
def iso_time_us(data: Bytes, at: int, end: int) -> int:
    """Microseconds since 1970 of `YYYY-MM-DD[(T| )HH:MM[:SS[.fff[fff]]][Z|+HH:MM]]`, UTC without an offset.

    Returns:
        The time; negative for other forms and for times before 1970.
    """
    if end - at < 10 or data[at + 4] != MINUS or data[at + 7] != MINUS:
        return NOT_PLAIN
    century, years = two_digits(data, at), two_digits(data, at + 2)
    month, day = two_digits(data, at + 5), two_digits(data, at + 8)
    if century < 0 or years < 0 or month < 1 or month > 12 or day < 1:
        return NOT_PLAIN
    year = century * 100 + years
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    if year < 1970 or day > _DAYS_IN[month - 1] + (1 if leap and month == 2 else 0):
        return NOT_PLAIN
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400 - _DAYS_TO_1970
    days += _DAYS_BEFORE[month - 1] + (1 if leap and month > 2 else 0) + day - 1
    at += 10
    if at == end:
        return int(days * _DAY_S * 1_000_000)
    if end - at < 6 or (data[at] != 84 and data[at] != 32) or data[at + 3] != COLON:
        return NOT_PLAIN
    hours, minutes, seconds, micros = two_digits(data, at + 1), two_digits(data, at + 4), 0, 0
    at += 6
    if at + 2 < end and data[at] == COLON:
        seconds = two_digits(data, at + 1)
        at += 3
        if at < end and data[at] == POINT:
            first = at + 1
            at += 1
            while is_digit(data, at, end):
                micros = micros * 10 + (data[at] - ZERO)
                at += 1
            if at - first == 3:
                micros *= 1_000
            elif at - first != 6:
                return NOT_PLAIN
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59 or seconds < 0 or seconds > 59:
        return NOT_PLAIN
    offset_s = 0
    if at < end:
        if data[at] == 90:
            at += 1
        elif (data[at] == PLUS or data[at] == MINUS) and end - at == 6 and data[at + 3] == COLON:
            offset_hours, offset_minutes = two_digits(data, at + 1), two_digits(data, at + 4)
            if offset_hours < 0 or offset_hours > 23 or offset_minutes < 0 or offset_minutes > 59:
                return NOT_PLAIN
            offset_s = offset_hours * 3_600 + offset_minutes * 60
            if data[at] == MINUS:
                offset_s = -offset_s
            at += 6
    if at != end:
        return NOT_PLAIN
    return int((days * _DAY_S + hours * 3_600 + minutes * 60 + seconds - offset_s) * 1_000_000 + micros)
