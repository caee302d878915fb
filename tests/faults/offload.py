"""Lets the kernel compute checksums itself, for packets that user space carries: offload.py INTERFACE"""

import ctypes
import fcntl
import socket
import struct
import sys

SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


def main(interface, on):
    value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, on))
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
