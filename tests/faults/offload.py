"""Says who computes the checksums of an interface's packets: offload.py INTERFACE 0|1

0: the kernel, at once. Packets that user space carries need that.
"""

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
