"""An SFTP server on loopback: `python sftp.py <port> <folder with its keys>`."""

import asyncio
import sys
from pathlib import Path

import asyncssh


async def serve(port, folder):
    keys = {"server_host_keys": folder / "host_key"}
    keys["authorized_client_keys"] = str(folder / "authorized_keys")
    server = await asyncssh.listen("127.0.0.1", port, sftp_factory=True, **keys)
    await server.wait_closed()


asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
