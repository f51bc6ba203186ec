"""Decoders that hang or crash at files whose names say so."""

from __future__ import annotations

import ctypes
import os
import signal

from glscl.data import decoders, video

PROGRAM = "faulty_decoders"
read_axis = decoders.read_axis


def _faulty(path, watch):
    name = os.path.basename(path)
    if "hang" in name:
        open(f"{path}.begun", "w").close()
        while True:  # in native code, with the lock of the interpreter
            ctypes.PyDLL(None).pause()
    if "crash" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "memory" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_axis(path, watch)


def serve():
    decoders.read_axis = _faulty
    decoders.serve()


def use(limit=3.0):
    """Use these decoders in this process."""
    video.PROGRAM, video.LIMIT = PROGRAM, limit
    video._idle.clear()
