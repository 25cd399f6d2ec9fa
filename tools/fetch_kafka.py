#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Maven in, the archives of a Kafka broker out: what tests/e2e/test_kafka.py runs.

Run by `make kafka`. They are kept in the cache beside the test kernels, and are not installed. Prints where they are.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from vmtest.kernels import cache_folder

WANTED: Final = (("org.apache.kafka", "kafka_2.13", "4.4.0"), ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"))
SECONDS: Final = 300


def folder() -> Path:
    """Where the archives are, or will be."""
    return cache_folder().parent / f"kafka-{WANTED[0][2]}"


def project() -> str:
    """What Maven is asked for."""
    parts = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in WANTED
    )
    head = "<modelVersion>4.0.0</modelVersion><groupId>bpfence</groupId><artifactId>kafka</artifactId><version>1</version>"
    return f'<project xmlns="http://maven.apache.org/POM/4.0.0">{head}<dependencies>{parts}</dependencies></project>\n'


def fetch(target: Path) -> None:
    """Put the archives into a folder. OSError, CalledProcessError, TimeoutExpired."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        staging = Path(name)
        (staging / "pom.xml").write_text(project())
        command = ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
        subprocess.run(command, cwd=staging, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True, timeout=SECONDS)
        if target.exists():
            shutil.rmtree(target)
        (staging / "libs").rename(target)


def main() -> int:
    """Fetch them where they are not there yet."""
    if not folder().exists():
        try:
            fetch(folder())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"Kafka could not be had: {error}", file=sys.stderr)
            return 1
    print(folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
