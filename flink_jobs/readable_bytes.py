"""Bytes that anybody may have sent, for a terminal: as text where that is harmless, as a hex dump otherwise."""

_LINE_BYTES = 16


def readable(content: bytes | None, most: int) -> list[str]:
    """Lines that show some bytes.

    A control character would move the cursor or worse, and a direction mark would show what is not there: neither is
    ever given out.

    Args:
        content: The bytes; None is null.
        most: Only so many of them.
    """
    if content is None:
        return ["null"]
    if not content:
        return ["(empty)"]
    shown = content[:most]
    text = _text(shown, whole=len(shown) == len(content))
    lines = hex_dump(shown) if text is None else text.split("\n")
    if len(content) > most:
        lines.append(f"… {len(content) - most:,} more bytes")
    return lines


def _text(content: bytes, *, whole: bool) -> str | None:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if whole or error.start < len(content) - 3:  # otherwise only the last character is cut
            return None
        text = content[: error.start].decode()
    text = text.replace("\r\n", "\n").expandtabs(4)
    return text if text.replace("\n", "").isprintable() else None


def hex_dump(content: bytes) -> list[str]:
    """Offset, sixteen bytes in hexadecimal, and what is ASCII among them."""
    lines = []
    for begin in range(0, len(content), _LINE_BYTES):
        part = content[begin : begin + _LINE_BYTES]
        letters = "".join(chr(each) if 32 <= each < 127 else "." for each in part)
        lines.append(f"{begin:08x}  {part.hex(' '):<{3 * _LINE_BYTES - 1}}  {letters}")
    return lines
