"""Connections that send little or nothing: `python -m faults.strangers ADDRESS NUMBER FIRST FROM`.

FIRST is what each sends, in hexadecimal digits, and FROM the number of their addresses. The process
runs beside the honest callers. It opens a connection again when the server closes it, writes
`there` once each was open, and runs until its standard input ends.
"""

import asyncio
import resource
import sys
from contextlib import suppress
from ipaddress import IPv4Address
from itertools import cycle, islice

# Several, so that a limit for one address does not stop them all.
ADDRESSES = 16
_FIRST_ADDRESS = IPv4Address("127.0.0.2")
THERE = b"there\n"
CONNECTING_MAX = 100
PAUSE_SECONDS = 0.05


class Strangers:
    """Connections to one address, from several addresses."""

    def __init__(self, address: str, number: int, first: bytes, addresses: int) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._number = number
        self._first = first
        self._addresses = [str(_FIRST_ADDRESS + place) for place in range(addresses)]
        self._connecting = asyncio.Semaphore(CONNECTING_MAX)
        self._missing = number

    async def run(self) -> None:
        """Runs until standard input ends."""
        tasks = [
            asyncio.create_task(self._stay(here))
            for here in islice(cycle(self._addresses), self._number)
        ]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stay(self, here: str) -> None:
        is_new = True
        while True:
            with suppress(OSError):
                async with self._connecting:
                    reader, writer = await asyncio.open_connection(
                        self._host, int(self._port), local_addr=(here, 0)
                    )
                if is_new:
                    is_new = False
                    self._count_connected()
                try:
                    writer.write(self._first)
                    while await reader.read(65_536):
                        pass
                finally:
                    writer.close()
            await asyncio.sleep(PAUSE_SECONDS)

    def _count_connected(self) -> None:
        self._missing -= 1
        if not self._missing:
            sys.stdout.buffer.write(THERE)
            sys.stdout.buffer.flush()


async def main(address: str, number: str, first: str, addresses: str) -> None:
    await Strangers(address, int(number), bytes.fromhex(first), int(addresses)).run()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(*sys.argv[1:]))
