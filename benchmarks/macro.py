# SPDX-License-Identifier: Apache-2.0
"""Programs that people run in, processor time of the whole machine out: instructions, in a guest whose clock counts them.

bench.py calls it in its guest, once with no program and once under each setting that it asks for. What is counted is the time that the only
processor spent on tasks (/proc/schedstat): the programs, their servers, the agent and the kernel's threads, but not the idle task, which
advances the clock of the guest without doing anything. Each row is a shell script and perhaps a server. After one run that is not
measured it is run until the two least differ by less than SPREAD, at most ROUNDS times; the least counts.

Programs, what they read and what they write are on tmpfs: they have a mount namespace with a root of their own, a copy of the few files
that they need. The guest's own root is 9p below overlays, where an open is two opens, and many a look-up a message to the host: while the
guest waits for the answer its clock leaps ahead, and whatever is done every second is done far too often.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

WORK: Final = Path("/tmp/bpfence-macro")
ROOT: Final = Path("/run/bpfence-macro")
ROUNDS: Final = 6
SPREAD: Final = 0.003
SETTLE_SECONDS: Final = 0.005  # the processor's count of a task's time is brought up to date when the task gives way
START_SECONDS: Final = 60
STATISTICS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
PRINTED: Final = 10
PORTS: Final = {"nginx+ab": 18080, "redis": 16379}


class Row(NamedTuple):
    """`script`: for sh in WORK; `server`: what serves the script's programs meanwhile, on the port of PORTS."""

    script: str
    server: tuple[str, ...] = ()


ROWS: Final = {
    "gcc": Row("for i in 1 2; do gcc -O2 -c -o work.o work.c; done"),
    "find+grep": Row("for i in 1 2 3 4; do find tree -name '*.h' -type f >found; grep -rc 'alpha beta gamma' tree >counted; done"),
    "sqlite": Row("sqlite3 commits.db <commits.sql"),
    "nginx+ab": Row(
        f"ab -q -n 2000 -c 8 http://127.0.0.1:{PORTS['nginx+ab']}/index.html >ab.out",
        ("nginx", "-c", f"{WORK}/nginx.conf", "-e", f"{WORK}/nginx.log"),
    ),
    "redis": Row(
        f"redis-benchmark -p {PORTS['redis']} -q -n 4000 -c 20 -t set,get >redis.out",
        ("redis-server", "--port", str(PORTS["redis"]), "--dir", str(WORK), "--save", "", "--logfile", f"{WORK}/redis.log"),
    ),
    "spawns": Row("i=0; while [ $i -lt 250 ]; do /bin/true; i=$((i+1)); done"),
    "python": Row("for i in 1 2 3; do python3 -c 'import json'; done"),
}  # fmt: skip
PROGRAMS: Final = (
    "sh", "true", "gcc", "as", "find", "grep", "sqlite3", "ab", "nginx", "redis-server", "redis-benchmark", "python3", "umount", "sleep",
)  # fmt: skip
SETTINGS: Final = ("ld.so.cache", "passwd", "group", "nsswitch.conf", "hosts", "ssl/openssl.cnf", "python3.11/sitecustomize.py")
"""Files of /etc, where the host has them."""
NAMESPACE: Final = """\
cd "$0"
for folder in proc sys dev tmp; do mkdir -p $folder; mount --rbind /$folder $folder; done
mkdir old
pivot_root . old
cd /
umount -l old
echo ready
exec sleep infinity
"""
"""What makes the mount namespace of the root that it is given, and holds it."""
STDLIB: Final = ("*.py", "__pycache__", "encodings", "collections", "importlib", "json", "re")

FUNCTION: Final = """\
struct item{n} {{ struct item{n} *next; char name[{size}]; int count; }};
static struct item{n} *add{n}(struct item{n} *list, const char *name)
{{
    struct item{n} *item = calloc(1, sizeof(*item));

    if (!item)
        return NULL;
    snprintf(item->name, sizeof(item->name), "%s-{n}", name);
    for (struct item{n} *each = list; each; each = each->next)
        if (!strcmp(each->name, item->name))
            item->count += each->count * {size} + 1;
    item->next = list;
    return item;
}}
int sum{n}(int argc, char **argv)
{{
    struct item{n} *list = NULL;
    int total = 0;

    for (int i = 0; i < argc; i++)
        list = add{n}(list, argv[i]);
    for (struct item{n} *each = list; each; each = each->next)
        total += each->count;
    return total;
}}
"""
NGINX: Final = """\
daemon off; worker_processes 1; user root; pid {work}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/t1; proxy_temp_path {work}/t2;
    fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
    server {{ listen 127.0.0.1:{port}; root {work}/www; }}
}}
"""


def write_sources(work: Path) -> None:
    """What the scripts read: a C file, a tree of text, commits, a page."""
    headers = ("errno", "stdio", "stdlib", "string", "sys/socket", "sys/stat", "unistd")
    functions = (FUNCTION.format(n=n, size=16 + n) for n in range(2))
    (work / "work.c").write_text("".join(f"#include <{name}.h>\n" for name in headers) + "".join(functions))
    numbers = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]
    lines = [" ".join(numbers.choices(words, k=8)) for _ in range(1000)]
    for part in range(60):
        folder = work / "tree" / f"part-{part % 8}" / f"module-{part}"
        folder.mkdir(parents=True)
        for n in range(40):
            text = "\n".join(numbers.choices(lines, k=60))
            (folder / f"file-{n}.{'h' if n % 3 else 'c'}").write_text(text)
    inserts = (f"INSERT INTO commits(name, value) VALUES('name-{n}', {n});\n" for n in range(2000))
    table = "DROP TABLE IF EXISTS commits;\nCREATE TABLE commits(id INTEGER PRIMARY KEY, name TEXT, value INTEGER);\n"
    (work / "commits.sql").write_text(f"PRAGMA journal_mode=DELETE;\n{table}{''.join(inserts)}")
    (work / "www").mkdir()
    (work / "www" / "index.html").write_text("x" * 1024)
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=PORTS["nginx+ab"]))


def needed(work: Path) -> Iterator[Path]:
    """The files that the scripts' programs are, load and read. Raises SystemExit where a program is missing."""
    programs = []
    for name in PROGRAMS:
        found = shutil.which(name, path="/usr/sbin:/usr/bin")
        if found is None:
            raise SystemExit(f"{name} is not installed: benchmarks/setup.sh installs what the macro rows need")
        programs.append(Path(found))
    compiler = subprocess.run(["gcc", "-print-prog-name=cc1"], check=True, capture_output=True, text=True).stdout.strip()
    programs.append(Path(compiler))
    yield from programs
    loaded = subprocess.run(["ldd", *map(str, programs)], check=True, capture_output=True, text=True).stdout.split()
    yield from {Path(word) for word in loaded if word.startswith("/") and not word.endswith(":")}
    read = subprocess.run(["gcc", "-O2", "-M", str(work / "work.c")], check=True, capture_output=True, text=True).stdout.split()
    yield from {Path(word) for word in read if word.startswith("/usr/")}
    (library,) = Path("/usr/lib").glob(f"{Path('/usr/bin/python3').resolve().name}/")
    for pattern in STDLIB:
        for path in library.glob(pattern):
            yield from (path.rglob("*") if path.is_dir() else (path,))
    yield from filter(Path.exists, (Path("/etc", name) for name in SETTINGS))


def copy(path: Path, root: Path) -> None:
    """Copy one file, and whatever links lead to it, to where it is found below `root`."""
    top = Path("/", path.parts[1])
    if top.is_symlink() and not (root / top.name).is_symlink():  # /bin, where that is usr/bin
        (root / top.name).symlink_to(top.readlink())
    path = Path(top.resolve(), *path.parts[2:])
    target = root / path.relative_to("/")
    if path.is_dir() or target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        link = path.readlink()
        target.symlink_to(link)
        copy(Path(path.parent, link).parent.resolve() / link.name, root)
    else:
        shutil.copy2(path, target)


def processor_ns(schedstat: str) -> int:
    """Nanoseconds that the first processor has spent on tasks since it started: the seventh number of its line in /proc/schedstat
    (Documentation/scheduler/sched-stats.rst)."""
    line = next(line for line in schedstat.splitlines() if line.startswith("cpu0 "))
    return int(line.split()[7])


def spent() -> int:
    """`processor_ns` of now."""
    time.sleep(SETTLE_SECONDS)
    return processor_ns(Path("/proc/schedstat").read_text())


def agree(times: Sequence[int]) -> bool:
    """Whether the least has another beside it."""
    return len(times) > 1 and sorted(times)[1] <= (1 + SPREAD) * min(times)


def program_costs() -> dict[tuple[int, str], tuple[int, int]]:
    """Id and name of every BPF program, to its nanoseconds and runs while STATISTICS was on."""
    listed = json.loads(subprocess.run(["bpftool", "prog", "show", "-j"], check=True, capture_output=True).stdout)
    return {(each["id"], each.get("name", "")): (each.get("run_time_ns", 0), each.get("run_cnt", 0)) for each in listed}


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when a server answers. Raises SystemExit where it ends or takes longer than START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{server.args!r} does not answer on port {port}") from None
            time.sleep(0.1)
        else:
            return


class Macro:
    """The rows, ready to be run: their files and their mount namespace."""

    def __init__(self) -> None:
        WORK.mkdir()
        write_sources(WORK)
        ROOT.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(ROOT)], check=True)
        for path in needed(WORK):
            copy(path, ROOT)
        copy(Path("/bin/sh"), ROOT)  # by its usual name, for whoever says /bin
        self._holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", NAMESPACE, str(ROOT)], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            raise SystemExit("the mount namespace for the rows of programs could not be made")
        self._enter = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")

    def run(self, rows: Sequence[str]) -> dict[str, int]:
        """Row to instructions."""
        return {name: self._row(name) for name in rows}

    def _row(self, name: str) -> int:
        row = ROWS[name]
        with self._served(name, row):
            self._script(row)
            times: list[int] = []
            while len(times) < ROUNDS and not agree(times):
                before = spent()
                self._script(row)
                times.append(spent() - before)
        least, *others = sorted(times)
        spread = "".join(f"{100 * (each / least - 1):+8.2f} %" for each in others)
        print(f"  {name:12} {least:>14,}  the other runs{spread}{'' if agree(times) else '  UNSTEADY'}", flush=True)
        return least

    def print_programs(self, rows: Sequence[str]) -> None:
        """One more run of each row, and the BPF programs that ran longest in it: instructions, runs. Counting them costs some, too."""
        for name in rows:
            with self._served(name, ROWS[name]):
                self._script(ROWS[name])
                before = program_costs()
                STATISTICS.write_text("1")
                self._script(ROWS[name])
                STATISTICS.write_text("0")
            costs = [
                (ns - before.get(key, (0, 0))[0], runs - before.get(key, (0, 0))[1], key[1]) for key, (ns, runs) in program_costs().items()
            ]
            print(f"  {name}")
            for ns, runs, program in sorted(costs, reverse=True)[:PRINTED]:
                print(f"    {program:24} {ns:>14,} {runs:>10,}", flush=True)

    def _script(self, row: Row) -> None:
        command = [*self._enter, "sh", "-ec", f"cd {WORK}; {row.script}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{row.script}: {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")

    @contextlib.contextmanager
    def _served(self, name: str, row: Row) -> Iterator[None]:
        if not row.server:
            yield
            return
        with subprocess.Popen([*self._enter, *row.server], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(PORTS[name], server)
                yield
            finally:
                server.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End what was started."""
        self._holder.kill()
        self._holder.wait()
