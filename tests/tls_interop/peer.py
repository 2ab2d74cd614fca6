"""A TLS client of a line echo server. Sends two lines, prints the replies and the session.

Arguments: sync|asyncio HOST PORT NAME AUTHORITY.pem 1.2|1.3 [CERTIFICATE.pem KEY.pem]
The sync client connects twice, and resumes the session with the second connection.
"""

import asyncio
import socket
import ssl
import sys

kind, host, port, name, authority, version, *identity = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.minimum_version = context.maximum_version = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}[version]
if identity:
    context.load_cert_chain(*identity)


def with_socket():
    session = None
    for _ in range(2):
        plain = socket.create_connection((host, int(port)), timeout=60)
        with context.wrap_socket(plain, server_hostname=name, session=session) as stream:
            stream.sendall(b"hello\nquit\n")
            replies = b""
            while piece := stream.recv(100):
                replies += piece
            print(replies.decode().split(), stream.version(), "resumed", stream.session_reused)
            session = stream.session
            # Sends the close_notify, and waits for the one of the server.
            stream.unwrap().close()


async def with_asyncio():
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname=name
    )
    writer.write(b"hello\nquit\n")
    print((await reader.read()).decode().split())
    writer.close()
    await writer.wait_closed()


if kind == "sync":
    with_socket()
else:
    asyncio.run(with_asyncio())
