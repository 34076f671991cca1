"""A name server for tests: every name has the same address, as far as it is asked over UDP.

Run as `python3 name_server.py ADDRESS ANSWER`; says "ready" when it can be asked.
"""

import socket
import sys


def answer(query: bytes, address: str) -> bytes:
    """A reply with one A record to a query with one question (RFC 1035, section 4)."""
    end = query.index(b"\0", 12) + 5
    head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
    is_a = query[end - 4 : end - 2] == b"\0\1"
    return head + query[12:end] + record if is_a else head[:6] + b"\0\0\0\0\0\0" + query[12:end]


def main() -> None:
    address, known = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        print("ready", flush=True)
        while True:
            query, client = server.recvfrom(4096)
            server.sendto(answer(query, known), client)


if __name__ == "__main__":
    main()
