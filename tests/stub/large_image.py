"""Loads a module of each size in MiB that is given, whose only contents that matter stand at its end, and looks whether it
arrived whole. On the client library that LD_LIBRARY_PATH finds."""

import ctypes
import sys

cuda = ctypes.CDLL("libcuda.so.1")


def check(result, what):
    if result != 0:
        sys.exit(f"{what}: CUresult {result}")


context = ctypes.c_void_p()
check(cuda.cuInit(0), "cuInit")
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), "cuDevicePrimaryCtxRetain")
check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
for size in map(int, sys.argv[1:]):
    filling = (b"// " + b"x" * 1020 + b"\n") * (size << 10)
    image = (b".version 7.5\n.target sm_75\n.address_size 64\n" + filling
             + b".visible .global .align 4 .u32 mark = %d;\n.visible .entry k() { ret; }\n\0" % (1000 + size))
    module, address, bytes_of_mark = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t()
    mark = ctypes.c_uint32()
    check(cuda.cuModuleLoadData(ctypes.byref(module), image), f"cuModuleLoadData of {size} MiB")
    check(cuda.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(bytes_of_mark), module, b"mark"), "its variable")
    check(cuda.cuMemcpyDtoH_v2(ctypes.byref(mark), address, ctypes.c_size_t(4)), "cuMemcpyDtoH")
    if mark.value != 1000 + size:
        sys.exit(f"the variable at the end of {size} MiB holds {mark.value}")
    check(cuda.cuModuleUnload(module), "cuModuleUnload")
    print(size, "MiB loaded", flush=True)
