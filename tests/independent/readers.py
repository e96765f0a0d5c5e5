#!/usr/bin/env python3
"""Images that qemu-img-rs writes, read by readers that share no code with it or with QEMU.

    python3 -m venv /tmp/readers
    /tmp/readers/bin/pip install dissect.hypervisor libqcow-python libvmdk-python libvhdi-python libluksde-python
    apt-get install 7zip
    /tmp/readers/bin/python tests/independent/readers.py target/debug/qemu-img-rs

Every image is made from the same disk; what a reader gives has to have the disk's SHA-256. A reader that is not
installed is left out. The table that is printed is for docs/COMPATIBILITY.md; the exit code is 1 if any reader failed.
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile

SIZE = 40 << 20
STEP = 1 << 20
SECRET = ["--object", "secret,id=s,data=pw"]


def disk():
    """Data, noise, runs, zeros; more than one table of a VMDK and more than one block of everything."""
    rng = random.Random(7)
    data = bytearray(SIZE)
    for at in range(0, SIZE - (1 << 20), 3_000_064):
        kind = at // 3_000_064 % 3
        length = [512, 70_000, 400_000][kind]
        data[at : at + length] = rng.randbytes(length) if kind else bytes([at % 250 + 1]) * length
    data[-512:] = b"\x77" * 512
    return bytes(data)


def seven_zip(path, _):
    with tempfile.TemporaryDirectory() as folder:
        tool = shutil.which("7zz") or shutil.which("7z")
        subprocess.run([tool, "x", "-y", f"-o{folder}", path], check=True, capture_output=True)
        names = os.listdir(folder)
        if len(names) != 1:
            raise ValueError(f"unpacked {names}")
        with open(os.path.join(folder, names[0]), "rb") as file:
            return file.read()


def dissect_qcow2(path, _):
    from dissect.hypervisor.disk import qcow2

    with open(path, "rb") as file:
        return read_stream(qcow2.QCow2(file).open())


def dissect_vdi(path, _):
    from dissect.hypervisor.disk import vdi

    with open(path, "rb") as file:
        return read_stream(vdi.VDI(file).open())


def dissect_vhd(path, _):
    from dissect.hypervisor.disk import vhd

    with open(path, "rb") as file:
        return read_stream(vhd.VHD(file))


def dissect_vhdx(path, _):
    from pathlib import Path

    from dissect.hypervisor.disk import vhdx

    return read_stream(vhdx.VHDX(Path(path)))


def dissect_vmdk(path, _):
    from pathlib import Path

    from dissect.hypervisor.disk import vmdk

    return read_stream(vmdk.VMDK(Path(path)))


def dissect_parallels(path, _):
    from dissect.hypervisor.disk import hdd

    with open(path, "rb") as file:
        return read_stream(hdd.HDS(file))


def read_stream(stream):
    parts = []
    while True:
        part = stream.read(STEP)
        if not part:
            return b"".join(parts)
        parts.append(part)


def libqcow(path, _):
    import pyqcow

    return read_media(pyqcow.file(), path)


def libvhdi(path, _):
    import pyvhdi

    return read_media(pyvhdi.file(), path)


def libvmdk(path, _):
    import pyvmdk

    handle = pyvmdk.handle()
    handle.open(path)
    handle.open_extent_data_files()
    data = read_opened(handle)
    handle.close()
    return data


def libluksde(path, _):
    import pyluksde

    volume = pyluksde.volume()
    volume.set_password("pw")
    volume.open(path)
    if volume.is_locked():
        raise ValueError("locked")
    data = read_opened(volume, volume.get_size())
    volume.close()
    return data


def read_media(handle, path):
    handle.open(path)
    data = read_opened(handle)
    handle.close()
    return data


def read_opened(handle, size=None):
    size = handle.get_media_size() if size is None else size
    parts = []
    for at in range(0, size, STEP):
        parts.append(handle.read_buffer_at_offset(min(STEP, size - at), at))
    return b"".join(parts)


LUKS = "key-secret=s,iter-time=10"
# Left out, for the readers fail with qemu-img's own images too: libqcow on compressed qcow2, 7-Zip on compressed qcow
# ("Unsupported Method"), libluksde on aes-128 with essiv ("locked").
CASES = [
    ("qcow2", "", [seven_zip, dissect_qcow2, libqcow]),
    ("qcow2", "compat=0.10,cluster_size=4k", [seven_zip, dissect_qcow2, libqcow]),
    ("qcow2", "-c", [seven_zip, dissect_qcow2]),
    ("qcow", "", [seven_zip, libqcow]),
    ("qcow", "-c", [libqcow]),
    ("vmdk", "", [seven_zip, dissect_vmdk, libvmdk]),
    ("vmdk", "subformat=streamOptimized", [seven_zip, dissect_vmdk, libvmdk]),
    ("vmdk", "subformat=monolithicFlat", [dissect_vmdk, libvmdk]),
    ("vmdk", "subformat=twoGbMaxExtentSparse", [dissect_vmdk, libvmdk]),
    ("vmdk", "subformat=twoGbMaxExtentFlat", [dissect_vmdk, libvmdk]),
    ("vdi", "", [seven_zip, dissect_vdi]),
    ("vdi", "static=on", [seven_zip, dissect_vdi]),
    ("vpc", "force_size=on", [seven_zip, dissect_vhd, libvhdi]),
    ("vpc", "", [seven_zip, dissect_vhd, libvhdi]),
    ("vpc", "subformat=fixed,force_size=on", [seven_zip, dissect_vhd, libvhdi]),
    ("vhdx", "", [seven_zip, dissect_vhdx, libvhdi]),
    ("vhdx", "subformat=fixed", [seven_zip, dissect_vhdx, libvhdi]),
    ("parallels", "", [dissect_parallels]),
    ("luks", LUKS, [libluksde]),
    ("luks", LUKS + ",cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", [libluksde]),
]
SUFFIX = {"vpc": "vhd", "parallels": "hds"}


def main():
    program = os.path.abspath(sys.argv[1])
    data = disk()
    failed = False
    print("| image | reader | result |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "source.raw")
        with open(source, "wb") as file:
            file.write(data)
        for number, (fmt, options, readers) in enumerate(CASES):
            place = os.path.join(folder, str(number))
            os.mkdir(place)
            path = os.path.join(place, "disk." + SUFFIX.get(fmt, fmt))
            extra = ["-c"] if options == "-c" else ["-o", options] if options else []
            subprocess.run([program, "convert", *SECRET, "-f", "raw", "-O", fmt, *extra, source, path], check=True)
            for reader in readers:
                result = judge(reader, path, data)
                failed |= result.startswith("FAILED")
                print(f"| {fmt} {options.replace(LUKS, '').strip(',')} | {reader.__name__} | {result} |", flush=True)
            shutil.rmtree(place)
    return 1 if failed else 0


def judge(reader, path, data):
    try:
        found = reader(path, data)
    except ImportError as error:
        return f"not installed: {error}"
    except Exception as error:  # whatever a reader says
        return f"FAILED: {type(error).__name__}: {error}"[:200]
    # A disk may have been made longer, by its geometry.
    same = len(found) >= len(data) and not any(found[len(data) :])
    same &= hashlib.sha256(found[: len(data)]).digest() == hashlib.sha256(data).digest()
    return "equal" if same else f"FAILED: {len(found)} bytes differ"


if __name__ == "__main__":
    sys.exit(main())
