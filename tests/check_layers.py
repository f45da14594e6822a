#!/usr/bin/env python3
"""What the tree promises and no compiler checks.

usage: check_layers.py SOURCE BUILD [TOOL...]

Arrows between layers, names of symbols, no mutable globals, no printing or exit
below the tools, plain text, and that --help and the man page of each TOOL tell
of the same options. Standard library only; nm is used where there is one.
"""
import pathlib
import re
import shutil
import subprocess
import sys

LAYERS = {
    "formats": {"formats"},
    "kernels": {"kernels"},
    "libccq": {"libccq", "formats", "kernels"},
    "tools": {"tools", "libccq", "formats", "kernels"},
    "tests": {"tests", "tools", "libccq", "formats", "kernels"},
}
CODE = {".c", ".h", ".cc", ".cu", ".cuh"}
NARROW = CODE | {".py", ".sh"}  # at most 100 columns
TEXT = NARROW | {".md", ".1", ".build", ".txt"}
SPEAKS = re.compile(r"\b(v?f?printf|puts|fputs|putchar|perror|exit|_exit|abort|assert|setlocale)"
                    r"\s*\(")
faults = []


def fault(path, line, text):
    faults.append(f"{path}:{line}: {text}" if line else f"{path}: {text}")


def sources(top, suffixes):
    for folder in ("formats", "kernels", "libccq", "tools", "tests", "docs"):
        for path in sorted((top / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file() and "ernie-micro" not in path.parts:
                yield path
    for path in sorted(top.iterdir()):
        if path.suffix in suffixes and path.is_file():
            yield path


def without_comments(text):
    """Comments and the insides of literals blanked, lines kept."""
    def blank(m):
        s = m[0]
        return re.sub(r"[^\n]", " ", s) if s[0] == "/" else s[0] + s[0]
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.S)


def check_includes(top, path, text):
    layer = path.relative_to(top).parts[0]
    for number, line in enumerate(text.splitlines(), 1):
        m = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
        if not m:
            continue
        if not (top / m[1]).is_file():
            fault(path.relative_to(top), number, f'"{m[1]}" is not spelled from the root')
        elif m[1].split("/")[0] not in LAYERS[layer]:
            fault(path.relative_to(top), number, f'{layer} does not see "{m[1]}"')
        elif m[1].endswith((".c", ".cc")):
            fault(path.relative_to(top), number, f'"{m[1]}": a source is compiled, not included')


def check_code(top):
    for path in sources(top, CODE):
        relative = path.relative_to(top)
        text = path.read_text(encoding="utf-8")
        check_includes(top, path, text)
        if relative.parts[0] in ("tools", "tests"):
            continue
        for number, line in enumerate(without_comments(text).splitlines(), 1):
            if m := SPEAKS.search(line):
                fault(relative, number, f"{m[1]}() below the tools")
    code_h = (top / "kernels/code.h").read_text()
    if re.findall(r"#\s*include\s*(\S+)", code_h) != ["<stdint.h>"]:
        fault("kernels/code.h", 0, "includes more than <stdint.h>")


def check_text(top):
    for path in sources(top, TEXT):
        relative = path.relative_to(top)
        text = path.read_bytes().decode("utf-8")
        if text and not text.endswith("\n"):
            fault(relative, 0, "no newline at the end")
        for number, line in enumerate(text.split("\n"), 1):
            if "\t" in line or "\r" in line:
                fault(relative, number, "a tab or a carriage return")
            if line != line.rstrip():
                fault(relative, number, "blanks at the end")
            if path.suffix in NARROW and len(line) > 100:
                fault(relative, number, f"{len(line)} columns")
        if path.name == "meson.build" and re.search(r"-march=native|-ffast-math|-Ofast", text):
            fault(relative, 0, "no -march=native, no fast-math")


def check_symbols(build):
    """External symbols of the static libraries; 0 when there is no nm."""
    nm = shutil.which("nm")
    libraries = [p for folder in ("formats", "kernels", "libccq")
                 for p in sorted((build / folder).rglob("*.a"))]
    seen = 0
    if not nm:
        print("no nm: symbols not looked at")
        return
    for path in libraries:
        listing = subprocess.run([nm, "-f", "sysv", str(path)], capture_output=True,
                                 encoding="utf-8")
        if listing.returncode:
            fault(path.name, 0, "nm: " + listing.stderr.strip())
        for line in listing.stdout.splitlines():
            words = [w.strip() for w in line.split("|")]  # name value class type size line section
            if len(words) < 7 or len(words[2]) != 1 or words[2] in "UwvNn":
                continue
            name, kind, section = words[0], words[2], words[6]
            if name.startswith(("__", ".", "_GLOBAL__", "asan.", "llvm", "DW.ref.")):
                continue  # the compiler's own
            if "__fatDeviceText" in name or "__cudaFatCubinHandle" in name or "__cudart" in name:
                continue  # nvcc's own
            if re.match(r"_Z\w*\d+ccq_|_ZN\d+_GLOBAL__N_", name):
                continue  # C++; what nvcc makes of a namespace without a name
            if kind.isupper() and kind != "N" and not name.startswith("ccq_"):
                fault(path.name, 0, f"external symbol {name} without ccq_")
            # constant tables of pointers lie in .data.rel.ro: the loader fills them in
            if kind in "BbCDd" and not section.startswith(".data.rel.ro"):
                fault(path.name, 0, f"{name} can be written to ({section})")
            seen += 1
    if not seen:
        fault(build, 0, "no symbols seen: not built?")


def check_manual(top, tool):
    name = pathlib.Path(tool).name
    page = (top / "docs" / f"{name}.1").read_text(encoding="utf-8")
    text = subprocess.run([tool, "--help"], capture_output=True, encoding="utf-8").stdout
    said = set(re.findall(r"^  (?:-\w, |    )--([a-z0-9-]+)", text, re.M))
    said_letters = set(re.findall(r"^  -(\w), ", text, re.M))
    items = "\n".join(re.findall(r"^\.It (.*)$", page, re.M))
    written = set(re.findall(r"\bFl (?:Fl |-)([a-z][a-z0-9-]*)", items))
    letters = set(re.findall(r"\bFl (\w)\b(?!-)", items))
    if not said:
        fault(name, 0, "--help lists no options")
    for option in sorted(said - written):
        fault(f"docs/{name}.1", 0, f"--{option} is missing")
    for option in sorted(written - said):
        fault(f"docs/{name}.1", 0, f"--{option} is no option of {name}")
    for letter in sorted(said_letters ^ letters):
        fault(f"docs/{name}.1", 0, f"-{letter} is not in both, --help and the page")


def main():
    top, build = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    check_code(top)
    check_text(top)
    check_symbols(build)
    for tool in sys.argv[3:]:
        check_manual(top, tool)
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
