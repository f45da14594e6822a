#!/usr/bin/env python3
"""Registers of the CUDA kernels: nothing of a thread lies in local memory.

usage: check_registers.py ARCHIVE

ARCHIVE: kernels/libkernels_cuda.a of a build, beside whose objects it lies. For every kernel of
sm_90a registers, stack and shared memory are printed; a stack that STACKS does not allow fails:
an array that is indexed at run time, or registers that were spilled. 77: no tools. Standard
library only; needs cuobjdump (as check_sass.py).
"""
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check_sass  # noqa: E402

# By mangled name, as they were when written (nvcc 13.0): kernels that have 128 registers, for
# two blocks on a multiprocessor, and spill a few. What experts<2, G> spills is loaded before its
# loops, in which check_sass.py allows none.
STACKS = {r"^_Z\d+expertsILi2ELi0E": 80, r"^_Z\d+groups_kernel": 88, r"^_Z\d+few_kernel": 16,
          r"^_Z\d+attend_kernelILi1ELi4ELi2E": 8}


def kernels(tool, path):
    """(name, {REG: n, STACK: n, ...})"""
    run = subprocess.run([tool, "-arch", "sm_90a", "-res-usage", str(path)], capture_output=True,
                         text=True)
    if run.returncode:
        print("cuobjdump: " + run.stderr.strip())
        sys.exit(1)
    name = None
    for line in run.stdout.splitlines():
        if m := re.match(r"\s*Function (\S+):", line):
            name = m[1]
        elif name and "REG:" in line:
            yield name, {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}
            name = None


def main():
    objects = sorted(pathlib.Path(sys.argv[1] + ".p").glob("*.cu.o"))
    tool = check_sass.find("cuobjdump")
    if not tool:
        print("skipped: no cuobjdump (PATH, CUDA_HOME, CCQ_CUDA_TOOLS)")
        return 77
    bad = seen = 0
    for path in objects:
        for name, use in kernels(tool, path):
            most = max([v for k, v in STACKS.items() if re.search(k, name)], default=0)
            over = use["STACK"] > most or use.get("LOCAL", 0) > 0
            print(f"{path.name}: {name}: {use['REG']} registers, {use['STACK']} bytes of stack, "
                  f"{use['SHARED']} of shared memory" + (" TOO MUCH" if over else ""))
            seen += 1
            bad += over
    if not seen:
        print(f"no kernels beside {sys.argv[1]}")
    return 1 if bad or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
