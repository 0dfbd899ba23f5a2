"""Numbers of a bitstream, the highest bit first."""

from __future__ import annotations


class Bits:
    """Reads a few bytes bit by bit.

    Args:
        data: short; all of it becomes one integer.

    Raises:
        IndexError: by every method, behind the end.
    """

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """An unsigned number of so many bits."""
        self._left -= count
        if self._left < 0:
            raise IndexError("behind the end")
        return self._number >> self._left & (1 << count) - 1

    def exponential(self) -> int:
        """An unsigned Exp-Golomb number (ITU-T H.265, 9.2), below 2**32."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 31:
                raise IndexError("too large a number")
        return (1 << zeros) - 1 + self.read(zeros)
