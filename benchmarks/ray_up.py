"""`ray up` for machines of one's own, for real over SSH: three hosts made here, a search on them, all taken down.

    python benchmarks/ray_up.py        # as root; writes docs/cluster/ray-up.md

A host is a set of namespaces (network, processes, mounts, name) with an SSH server, a home and a /tmp of its own, and
an environment ~/env that already holds the libraries, as an image would. The configuration is deploy/onprem.yaml with
the addresses of the hosts filled in.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import ray
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "evo"))

from ray_nodes import Network, without_ray  # noqa: E402

PAGE = ROOT / "docs" / "cluster" / "ray-up.md"
SEARCH = (
    "evo search digits --seed 7 --workers 1 --address auto --out /mnt/runs --name over-ssh --set data.limit=300 "
    "--set training.steps=160 --set growth.cycles=3 --set search.networks=4 --set search.population=2 "
    "--set record.mlflow=false"
)
CALM = re.compile(
    r"Warning: Permanently added|^\s*$|^Shared connection|VINFO|^sending incremental|^sent \d|^total size is"
    r"|bashrc: No such|^(\.ci|benchmarks|deploy|docs|evo|search_spaces|tests|tournaments)/"
    r"|^[\w.]+(\.toml|\.txt|\.md|\.yaml|file)?$"
)
"""Lines of `ray up` and rsync that tell nothing."""


class Hosts:
    """Three of them, and the machine of whoever launches."""

    def __init__(self, base: Path) -> None:
        self.base, self.network = base, Network.made()
        self.laptop = base / "laptop"
        (base / "shared").mkdir()
        (self.laptop / ".ssh").mkdir(parents=True, mode=0o700)
        self.key = self.laptop / ".ssh" / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.addresses: list[str] = []

    def add(self) -> None:
        name = f"host{len(self.addresses)}"
        namespace, address = self.network.join()
        home = self.base / name
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh" / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        key = self.base / f"{name}.key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        configuration = self.base / f"{name}.sshd"
        configuration.write_text(
            f"HostKey {key}\nPidFile none\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "StrictModes no\nUsePAM no\nMaxSessions 100\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        words = ["ip", "netns", "exec", namespace, "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
        script = self._script(name, home, configuration)
        with (self.base / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*words, "--mount-proc", "bash", "-ec", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        self.addresses.append(address)

    def _script(self, name: str, home: Path, configuration: Path) -> str:
        """Mounts what makes it a machine of its own, installs the libraries, and serves SSH."""
        own, python = Path.home(), Path(sys.base_prefix)
        libraries = sysconfig.get_path("purelib")
        kept = python.relative_to(own) if python.is_relative_to(own) else None
        lines = [f"hostname {name}", f"mkdir -p {home}/tmp /run/sshd", f"mount --bind {home}/tmp /tmp"]
        if kept is not None:
            lines += [f"mkdir -p {home}/{kept}", f"mount --bind {python} {home}/{kept}"]
        lines += [
            f"mount --bind {sys.prefix} {sys.prefix}", f"mount -o remount,ro,bind {sys.prefix}",
            f"mount --bind {self.base}/shared /mnt", f"mount --rbind {home} {own}", f"cd {own}",
            f"{python}/bin/python3 -m venv --without-pip env",
            f"echo {libraries} > env/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/libraries.pth",
            f"for tool in ray pip; do sed '1s|.*|#!{own}/env/bin/python|' {sys.prefix}/bin/$tool > env/bin/$tool; done",
            "chmod +x env/bin/ray env/bin/pip",
            # The hosts see each other and nothing else: pip must build with what is there.
            "printf '[global]\\nno-index = true\\nno-build-isolation = false\\n' > env/pip.conf",
            f"exec /usr/sbin/sshd -D -e -f {configuration}",
        ]  # fmt: skip
        return "\n".join(lines)

    def close(self) -> None:
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)  # the first process of its namespace, and hence all of them
            process.wait()
        time.sleep(1.0)
        self.network.close()


class Log:
    def __init__(self, hosts: Hosts) -> None:
        self.hosts, self.parts, self.failed = hosts, list[str](), False
        self.env = {
            **without_ray(), "HOME": str(hosts.laptop), "RAY_TMPDIR": str(hosts.laptop / "tmp"), "TERM": "dumb",
            "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        }  # fmt: skip

    def run(self, command: str, tell: str = "", patience: float = 600.0, refused: bool = False) -> str:
        """A command of whoever launches, in the folder of the repository. refused: as it is to be."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.hosts.laptop / "meristem", env=self.env, text=True, timeout=patience,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.failed |= (done.returncode != 0) != refused
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout).replace("\r", "")
        for path, name in ((str(self.hosts.laptop), "~"), (str(self.hosts.base), "..."), (sys.prefix, "...")):
            text = text.replace(path, name)
        text = "\n".join(line.rstrip() for line in text.splitlines() if not CALM.search(line))
        end = f"(exit code {done.returncode}, {time.monotonic() - began:.0f} s)"
        self.parts.append(f"{tell}\n\n```console\n$ {command}\n{text}\n{end}\n```\n".lstrip())
        print(self.parts[-1], flush=True)
        return text


def main() -> int:
    base = Path(tempfile.mkdtemp(prefix="evo-hosts-", dir="/var/tmp"))
    hosts = Hosts(base)
    log = Log(hosts)
    try:
        for _ in range(3):
            hosts.add()
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True).stdout
        (hosts.laptop / "meristem").mkdir()
        subprocess.run(["tar", "-x", "-C", str(hosts.laptop / "meristem")], input=archive, check=True)
        _await(hosts)
        _launch(hosts, log)
    finally:
        hosts.close()
        shutil.rmtree(base, ignore_errors=True)
    _write(hosts, log)
    return int(log.failed)


def _await(hosts: Hosts) -> None:
    for address in hosts.addresses:
        words = ["ssh", "-i", str(hosts.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        end = time.monotonic() + 60
        while subprocess.run([*words, f"root@{address}", "true"], capture_output=True, check=False).returncode != 0:
            logs = "".join(path.read_text() for path in hosts.base.glob("*.log"))
            assert time.monotonic() < end, logs
            time.sleep(0.5)


def _launch(hosts: Hosts, log: Log) -> None:
    head, *workers = hosts.addresses
    fill = (
        f"sed -i -e 's/HEAD-ADDRESS/{head}/' -e 's/FIRST-ADDRESS, SECOND-ADDRESS/{', '.join(workers)}/' "
        "-e 's/YOU$/root/' -e \"s|~/.ssh|$HOME/.ssh|\" deploy/onprem.yaml"
    )
    log.run(fill, "The addresses are filled in:")
    log.run("ray get-auth-token --generate >/dev/null; ls -l ~/.ray/auth_token | cut -c1-10", "The token:")
    log.run("ray up -y deploy/onprem.yaml", "The cluster is started:")
    wait = "import ray, time; ray.init(); [time.sleep(1) for _ in iter(lambda: len(ray.nodes()) < 3, False)]"
    log.run(
        f"ray exec deploy/onprem.yaml '. ~/.profile; python -c \"{wait}\"; ray status'",
        "The head starts the workers over SSH; when they are there:",
    )
    log.run(
        'ray exec deploy/onprem.yaml "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=wrong ~/env/bin/evo search digits --address '
        f'{head}:6379 --out /mnt/runs"',
        "Whoever does not know the token is refused:",
        refused=True,
    )
    log.run(f"ray exec deploy/onprem.yaml '. ~/.profile; {SEARCH}'", "A search:")
    log.run(
        "ray exec deploy/onprem.yaml '. ~/.profile; ray job submit --no-wait --submission-id again --address "
        "http://127.0.0.1:8265 -- evo search digits --workers 1 --address auto --out /mnt/runs --name by-job "
        "--set data.limit=300 --set training.steps=60 --set growth.cycles=2 --set search.networks=2 "
        "--set record.mlflow=false; ray job logs --follow --address http://127.0.0.1:8265 again'",
        "The same as a job, which needs no terminal to stay open:",
    )
    log.run("ray exec deploy/onprem.yaml '. ~/.profile; evo runs --out /mnt/runs'", "What is in the folder of runs:")
    log.run("ray down -y deploy/onprem.yaml", "The cluster is stopped:")


def _write(hosts: Hosts, log: Log) -> None:
    about = (
        f"{datetime.date.today():%d %B %Y}; Ray {ray.__version__}, PyTorch {torch.__version__}, Python "
        f"{platform.python_version()}; three hosts on one machine of {os.cpu_count()} cores, each with namespaces of "
        "its own for network, processes, mounts and name, its own SSH server, home and /tmp, and `~/env` with the "
        "libraries in place, as an image would have it."
    )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(
        "# `ray up` over SSH, run for real\n\nWritten by `python benchmarks/ray_up.py` (as root), with "
        f"`deploy/onprem.yaml`. {about}\n\n" + "\n".join(log.parts)
    )


if __name__ == "__main__":
    sys.exit(main())
