"""`python -m tests.app.compat.inside SOCKET CERTIFICATE COMMAND…`: run a command where this machine is `api.remove.bg`.

It must run in a network namespace of its own, whose hosts file has the name. It answers there on port 443, leads each
connection to the Unix socket, which namespaces share, and ends with the exit code of the command.
"""

import asyncio
import ssl
import sys
from pathlib import Path


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until one of the two sides ends."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:  # one side has gone, as clients do that never close a connection
        pass
    finally:
        writer.close()


async def main(way_out: str, certificate: Path, command: list[str]) -> int:
    """Serve while the command runs; return its exit code."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(way_out)
        await asyncio.gather(pump(reader, requests), pump(answers, writer))

    async with await asyncio.start_server(meet, "127.0.0.1", 443, ssl=tls):
        process = await asyncio.create_subprocess_exec(*command)
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])))
