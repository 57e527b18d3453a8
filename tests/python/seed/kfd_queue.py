"""Queues of this process on the fake GPUs of kernel-patch/fake-gpu.md, made as a runtime makes them, without a runtime.

Each packet runs for the time that it is told and then leaves its number in the queue's trail, so that a program can say
whether each of its packets has run, once, and in order.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Iterator, Optional

_TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")
_FAKE_NODES = Path("/sys/module/amdgpu/parameters/fake_nodes")
_PAGE = 4096
_RING = 64 * 1024
_PACKET = struct.Struct("<IIIIQQ4Q")
_PACKETS = _RING // _PACKET.size
_MAGIC = 0x454B4146
_TRAIL_ROOM = (64 * 1024 - 16) // 8
_AQL = 2
# USERPTR, WRITABLE, EXECUTABLE and COHERENT of KFD_IOC_ALLOC_MEM_FLAGS_*.
_MEMORY_FLAGS = 1 << 2 | 1 << 31 | 1 << 30 | 1 << 26

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


def gpus_are_fake() -> bool:
    """Whether the GPUs of this machine are fake ones, which take these packets for work."""
    return _FAKE_NODES.exists() and int(_FAKE_NODES.read_text()) > 0


def _map(size: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(address)


def _call(fd: int, number: int, read: bool, layout: str, *values: int) -> tuple[int, ...]:
    """One ioctl of /dev/kfd; returns the fields of its struct afterwards."""
    data = bytearray(struct.pack("<" + layout, *values))
    direction = 3 if read else 1
    fcntl.ioctl(fd, direction << 30 | len(data) << 16 | ord("K") << 8 | number, data)
    return struct.unpack("<" + layout, data)


class Gpu:
    """One GPU as this process sees it: an open driver, and a VM."""

    def __init__(self, kfd: int, gpu_id: int) -> None:
        self.kfd = kfd
        self.gpu_id = gpu_id
        properties = self._properties()
        self.xccs = properties["num_xcc"]
        self.save_bytes = properties["cwsr_size"]
        self.stack_bytes = properties["ctl_stack_size"]
        cus = properties["simd_count"] // properties["simd_per_cu"] // self.xccs
        arrays = properties["array_count"] // properties["simd_arrays_per_engine"]
        self._debug_bytes = (min(cus * 40, arrays * 512) * 32 + 63) & ~63
        with open("/dev/null", "r+b") as render_node:
            _call(kfd, 0x15, False, "II", render_node.fileno(), gpu_id)

    def _properties(self) -> dict[str, int]:
        for node in _TOPOLOGY.iterdir():
            if int((node / "gpu_id").read_text()) == self.gpu_id:
                lines = (node / "properties").read_text().splitlines()
                return {name: int(value) for name, value in (line.split() for line in lines)}
        raise OSError(errno.ENODEV, f"no GPU {self.gpu_id} in the topology")

    def share(self, address: int, size: int) -> None:
        """Lets the GPU reach memory of this process."""
        handle = _call(self.kfd, 0x16, True, "QQQQII", address, size, 0, address, self.gpu_id, _MEMORY_FLAGS)[2]
        ids = ctypes.c_uint32(self.gpu_id)
        _call(self.kfd, 0x18, True, "QQII", handle, ctypes.addressof(ids), 1, 0)

    @property
    def save_area_bytes(self) -> int:
        """What a queue of this GPU needs for the state of its waves."""
        size = (self.save_bytes + self._debug_bytes) * self.xccs
        return (size + _PAGE - 1) & ~(_PAGE - 1)


def open_gpus() -> list[Gpu]:
    """Opens the driver and all GPUs, once for a process."""
    kfd = os.open("/dev/kfd", os.O_RDWR | os.O_CLOEXEC)
    count = _call(kfd, 0x14, True, "QII", 0, 0, 0)[1]
    apertures = ctypes.create_string_buffer(56 * count)
    _call(kfd, 0x14, True, "QII", ctypes.addressof(apertures), count, 0)
    gpus = [Gpu(kfd, struct.unpack_from("<I", apertures, 56 * i + 48)[0]) for i in range(count)]
    # What lets a debugger in, and is to come before the first queue.
    _call(kfd, 0x25, True, "QII", 0, 1, 0)
    return gpus


class Queue:
    """One AQL queue. Its pointers and its trail may lie in memory that others see, too."""

    def __init__(self, gpu: Gpu, priority: int = 7, shared: Optional[mmap.mmap] = None) -> None:
        self._gpu = gpu
        self._memory = shared or mmap.mmap(-1, area_bytes())
        area = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._area = Area(self._memory)
        self._trail = area + _PAGE
        self._area.prepare()
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._ring = _map(_RING, private)
        save_area = _map(gpu.save_area_bytes, private | 0x4000)  # MAP_NORESERVE
        for address, size in (
            (self._ring, _RING),
            (area, _PAGE),
            (self._trail, area_bytes() - _PAGE),
            (save_area, gpu.save_area_bytes),
        ):
            gpu.share(address, size)
        answer = _call(
            gpu.kfd, 0x02, True, "4Q6I3Q4I",
            self._ring, area + 8, area, 0, _RING, gpu.gpu_id, _AQL, 100, priority, 0, 0, 0, save_area,
            gpu.save_bytes, gpu.stack_bytes, 0, 0,
        )  # fmt: skip
        doorbell, self.queue_id = answer[3], answer[9]
        pages = _map(2 * _PAGE, mmap.MAP_SHARED, gpu.kfd, doorbell & ~(2 * _PAGE - 1))
        self._doorbell = ctypes.c_uint64.from_address(pages + (doorbell & (2 * _PAGE - 1)))

    def submit(self, cost_us: int = 0, waves: int = 1) -> None:
        """Puts a packet into the ring and rings the doorbell. The ring must have room."""
        number = self._area.submitted
        packet = _PACKET.pack(0, _MAGIC, cost_us, waves, number, self._trail, 0, 0, 0, 0)
        ctypes.memmove(self._ring + number % _PACKETS * _PACKET.size, packet, _PACKET.size)
        self._area.submit()
        self._doorbell.value = number + 1

    def feed(self, depth: int, cost_us: int = 0, waves: int = 1) -> None:
        """Lets the ring hold ``depth`` packets."""
        while self._area.submitted - self._area.taken < depth:
            self.submit(cost_us, waves)

    @property
    def area(self) -> Area:
        """How far its work has come."""
        return self._area

    def destroy(self) -> None:
        """Destroys it in the driver; its memory goes with the process."""
        _call(self._gpu.kfd, 0x03, True, "II", self.queue_id, 0)


def area_bytes() -> int:
    """Size of the memory that a queue shares with who looks at it."""
    return _PAGE + 64 * 1024


class Area:
    """Pointers and trail of a queue, as its process and others see them in shared memory."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words = (ctypes.c_uint64 * (area_bytes() // 8)).from_buffer(memory)

    def prepare(self) -> None:
        """Empties it, before its queue is made."""
        for i in range(3):
            self._words[i] = 0
        self._words[_PAGE // 8] = 0
        self._words[_PAGE // 8 + 1] = _TRAIL_ROOM

    def submit(self) -> None:
        """Counts a packet that is in the ring."""
        self._words[1] += 1

    @property
    def taken(self) -> int:
        """Packets that the GPU is done with: its read pointer."""
        return int(self._words[0])

    @property
    def submitted(self) -> int:
        """Packets that were put into the ring: its write pointer."""
        return int(self._words[1])

    @property
    def done(self) -> int:
        """Packets that have left their number."""
        return int(self._words[_PAGE // 8])

    def _numbers(self) -> Iterator[tuple[int, int]]:
        first = _PAGE // 8 + 2
        for i in range(max(0, self.done - _TRAIL_ROOM), self.done):
            yield i, int(self._words[first + i % _TRAIL_ROOM])

    @property
    def whole(self) -> bool:
        """Whether each packet so far has run once, in order. Ask while the queue is stopped or idle."""
        return self.done <= self.submitted and all(i == number for i, number in self._numbers())
