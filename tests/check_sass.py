#!/usr/bin/env python3
"""Instructions per byte of codes in the main loops of the wint2 kernels, from their machine code.

usage: check_sass.py OBJECT [KERNEL]

OBJECT: what nvcc made of kernels/cuda/wint2_experts.cu, or the archive beside whose objects it
lies. KERNEL (G1, B4, ...): its main loop is printed. For every kernel `experts<NT, FORM>` of
sm_90a the smallest loop that has tensor cores and byte extraction is taken, its instructions are
counted, and the count is divided by the bytes of codes that the loop decodes. A kernel that needs
more than its row of LIMITS allows, or that spills registers there, fails. 77: no tools, no object.
Standard library only; needs cuobjdump and nvdisasm (PATH, CUDA_HOME, or the folder of the pip
packages' `nvidia` in CCQ_CUDA_TOOLS).

A count is no time: it says what issue slots and ALU of a multiprocessor allow at most. At 96 %
of an H200's bandwidth there are 8.1 slots and 4.04 ALU operations for a byte.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

# Instructions of the pipe that shifts and logic share, 64 lanes a clock. The rest: FMA-heavy
# (IMAD, IDP), fp32 and half (FFMA, FADD, HFMA2), memory, tensor cores, uniform, control.
ALU = {"LOP3", "SHF", "PRMT", "IADD3", "LEA", "SEL", "ISETP", "FSETP", "IMNMX", "VIMNMX", "FMNMX",
       "SGXT", "PLOP3", "BMSK", "FSEL", "VIADD", "F2FP", "IABS", "MOV"}
FORMS = {0: "G", 1: "W", 2: "B", 3: "U"}
# (slots, ALU) a byte. G for 8 rows: the plan's figures for this decoder. The others: counted
# when the kernels were written (nvcc 13.0), as the plan has none for form B, and for G with more
# rows those of another decoder without what sums start from (8.7, 4.8 and 11.2, 4.8).
LIMITS = {
    ("G", 1): (7.61, 3.81), ("G", 2): (9.6, 3.8), ("G", 3): (10.6, 3.9), ("G", 4): (12.0, 4.0),
    ("B", 1): (13.0, 5.0), ("B", 2): (13.6, 5.0), ("B", 3): (14.3, 5.1), ("B", 4): (15.1, 5.2),
}
TOLERANCE = 1.05


def find(name):
    homes = [os.environ.get(v) for v in ("CCQ_CUDA_TOOLS", "CUDA_HOME", "CUDA_PATH")]
    homes += ["/usr/local/cuda"]
    for home in filter(None, homes):
        for path in [pathlib.Path(home) / "bin" / name, *pathlib.Path(home).glob(f"*/bin/{name}")]:
            if path.is_file():
                return str(path)
    return shutil.which(name)


def disassemble(path):
    """[(kernel, [(address, opcode, operands)])] of sm_90a."""
    tool, inner = find("cuobjdump"), find("nvdisasm")
    if not tool or not inner:
        print("skipped: no cuobjdump and nvdisasm (PATH, CUDA_HOME, CCQ_CUDA_TOOLS)")
        sys.exit(77)
    env = dict(os.environ, PATH=str(pathlib.Path(inner).parent) + ":" + os.environ.get("PATH", ""))
    run = subprocess.run([tool, "-arch", "sm_90a", "-sass", path], capture_output=True, text=True,
                         env=env)
    if run.returncode:
        print("cuobjdump: " + run.stderr.strip())
        sys.exit(1)
    kernels, body = [], []
    for line in run.stdout.splitlines():
        if m := re.match(r"\s*Function : (\S+)", line):
            body = []
            kernels.append((m[1], body))
        elif m := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)(\S*)(.*?);",
                           line):
            body.append((int(m[1], 16), m[2], m[3] + m[4]))
    return kernels


def main_loop(body):
    """The smallest loop with tensor cores and byte extraction."""
    best = None
    for address, opcode, operands in body:
        m = re.search(r"0x([0-9a-f]+)", operands)
        if opcode != "BRA" or not m or int(m[1], 16) >= address:
            continue
        loop = [i for i in body if int(m[1], 16) <= i[0] <= address]
        names = {i[1] for i in loop}
        if {"HMMA", "IDP"} <= names and (best is None or len(loop) < len(best)):
            best = loop
    return best


def count(loop, tiles):
    """Slots and ALU operations a byte: of four tensor products, 8 bytes of a lane each."""
    loop = [i for i in loop if i[1] != "NOP"]
    bytes_ = 2.0 * sum(i[1] == "HMMA" for i in loop) / tiles
    alu = sum(i[1] in ALU for i in loop)
    return len(loop) / bytes_, alu / bytes_, bytes_


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else ""
    if path.endswith(".a"):
        path += ".p/cuda_wint2_experts.cu.o"
    if not pathlib.Path(path).is_file():
        print(f"skipped: no object {path}")
        return 77
    kernels = disassemble(path)
    bad = seen = 0
    for name, body in kernels:
        m = re.match(r"_Z\d+experts(?:ILi)(\d+)ELi(\d+)E", name)
        if not m:
            continue
        tiles, form = int(m[1]), FORMS[int(m[2])]
        loop = main_loop(body)
        if not loop:
            if form != "U":
                print(f"{form} {tiles}: no main loop found")
                bad += 1
            continue
        slots, alu, bytes_ = count(loop, tiles)
        most = LIMITS.get((form, tiles), (0, 0))
        over = slots > most[0] * TOLERANCE or alu > most[1] * TOLERANCE
        local = sum(i[1] in ("LDL", "STL") for i in loop)
        print(f"form {form}, {tiles} x 8 rows: {slots:.2f} slots/byte, {alu:.2f} ALU/byte, limits "
              f"{most[0]} and {most[1]}, {bytes_:.0f} bytes a turn, {local} spills"
              + (" TOO MANY" if over else ""))
        if len(sys.argv) > 2 and sys.argv[2] == f"{form}{tiles}":
            for i in loop:
                print(f"  {i[0]:05x} {i[1]}{i[2]}")
        seen += 1
        bad += over or local > 0
    if not seen:
        print("no kernels of sm_90a in it")
    return 1 if bad or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
