"""Several hosts that train one model."""

import atexit
import itertools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, NoReturn, cast

import jax
import numpy as np
from jax._src import distributed  # whose client has no public name
from jax.experimental import multihost_utils

from .._check import check_positive

_VARIABLES: Final = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM: Final = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
_ANSWER: Final = b"go"
_LOOK_EVERY: Final = 1.0  # seconds
_GRACE: Final = 3.0  # seconds
_COUNTER: Final = itertools.count()
"""Numbers the contexts of `share_failure`, alike on all hosts."""


def join_hosts(*, timeout: int = 300) -> int:
    """Connects this process with those on other hosts, so that `jax.devices()` has the devices of all. Call it before
    anything else that uses JAX, on every host.

    Which hosts there are is in the environment: in the variables `JAX_COORDINATOR_ADDRESS` (the address of host 0 and a
    free port, `10.0.0.1:7890`), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (from 0), in those of a step of Slurm, or in
    what else `jax.distributed.initialize` finds, as on GKE, Cloud TPU and under Open MPI.

    **Arguments:**

    - `timeout`: how many seconds a host waits for the others.

    **Returns:**

    The number of this host.

    **Raises:** `TimeoutError` that names the hosts that did not answer; `ValueError` if the variables are not right.
    Where JAX finds the hosts, it ends the process instead.
    """
    check_positive(timeout=timeout)
    found = _read_environment(os.environ)
    options: dict[str, Any] = {"initialization_timeout": timeout}
    if found is not None:
        address, hosts, host = found
        _meet(address, hosts, host, timeout)
        method = "deactivate" if _VARIABLES[0] in os.environ else "slurm"
        options |= {"coordinator_address": address, "num_processes": hosts, "process_id": host}
        options["cluster_detection_method"] = method
    cast(Any, jax.distributed.initialize)(**options)
    return jax.process_index()


def is_writer() -> bool:
    """Whether this host writes the files of a run that are written once."""
    return jax.process_index() == 0


def wait_for_hosts(name: str) -> None:
    """Waits until all hosts are there, by a name of the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree_largest(number: int) -> int:
    """The largest number of those of all hosts, which all ask."""
    return int(np.max(multihost_utils.process_allgather(np.array(number, np.int32))))


@contextmanager
def share_failure() -> Generator[None]:
    """In this context, which all hosts enter, a host that fails tells the others, which end within seconds. Without it
    they would wait for it in an operation of all devices, until JAX misses it after minutes.

    A host cannot leave such an operation, so that nothing can be raised in it: a thread beside it looks for failures,
    and ends the process with status 1 if it does not end by itself.
    """
    client = cast(Any, None if jax.process_count() == 1 else distributed.global_state.client)
    if client is None:
        yield
        return
    name, over = f"vitrail/failure/{next(_COUNTER)}", threading.Event()
    threading.Thread(target=_watch, args=(client, name, over), daemon=True).start()
    try:
        yield
    except BaseException as error:
        over.set()
        with suppress(Exception):  # another was first, or the first host is gone
            client.key_value_set(name, f"host {jax.process_index()} failed: {type(error).__name__}: {error}")
        atexit.register(_leave, _find_status(error))
        raise
    finally:
        over.set()


def _watch(client: Any, name: str, over: threading.Event) -> None:
    """Ends the process after another host failed, if the context is not left."""
    while not over.wait(_LOOK_EVERY):
        try:
            message: str = client.blocking_key_value_get(name, 1)
        except Exception:  # there is no such key, and no failure
            continue
        if not over.wait(_GRACE):  # all fail at once where all have the same problem
            print(f"vitrail: error: {message}; this host, {jax.process_index()}, ends too", file=sys.stderr, flush=True)
            if is_writer():  # the first host goes last: without it JAX aborts the rest
                time.sleep(3 * (_LOOK_EVERY + _GRACE))
            os._exit(1)


def _find_status(error: BaseException) -> int:
    """The exit status of a program that an exception ends."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int) -> NoReturn:
    """Ends the process when the others had time to end, which would lose its reason if it were gone. JAX would wait
    here for all hosts to end well, and abort because they do not."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(2 * (_LOOK_EVERY + _GRACE))
    os._exit(status)


def _read_environment(variables: Mapping[str, str]) -> tuple[str, int, int] | None:
    """The address of host 0, the number of hosts, and which this is; `None` where the environment does not say."""
    for names in (_VARIABLES, _SLURM):
        given = [variables.get(name) for name in names]
        if not any(given):
            continue
        numbers = [value for value in given[1:] if value is not None and value.isdecimal()]
        if not given[0] or len(numbers) != 2 or not int(numbers[1]) < int(numbers[0]):
            raise ValueError(
                f"{', '.join(names)} must say where host 0 is, how many hosts there are, and which of them this is, "
                f"from 0, got {', '.join(map(repr, given))}"
            )
        address, hosts, host = given[0], *map(int, numbers)
        if names is _SLURM:
            address = f"{_find_first(address)}:{61_440 + int(variables.get('SLURM_JOB_ID', 0)) % 4096}"
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise ValueError(f"{names[0]} must be an address and a port, as 10.0.0.1:7890, got {address!r}")
        return address, hosts, host
    return None


def _find_first(nodes: str) -> str:
    """The first of `node[003-005,7]` or `a1,a2`."""
    match = cast("re.Match[str]", re.match(r"([^,\[]+)(?:\[(\d+))?", nodes))
    return match[1] + (match[2] or "")


def _meet(address: str, hosts: int, host: int, timeout: int) -> None:
    """Returns when all hosts are there. JAX would end the process without naming those that are not."""
    ends = time.monotonic() + timeout
    name, port = address.rsplit(":", 1)
    if host == 0:
        _wait_for_others(int(port), hosts, ends, timeout)
        return
    try:
        with _connect(name.strip("[]"), int(port), ends) as connection:
            connection.sendall(f"{host} of {hosts}\n".encode())
            connection.settimeout(_find_left(ends) + 5)  # host 0 says who is missing
            answer = connection.recv(len(_ANSWER))
    except OSError as error:
        raise TimeoutError(
            f"host 0 did not answer host {host} at {address} within {timeout} s ({error.strerror or error}): start it "
            "there, or check the address and the firewall"
        ) from error
    if answer != _ANSWER:
        raise TimeoutError(f"host 0 at {address} did not find all {hosts} hosts: its error says which are missing")


def _connect(name: str, port: int, ends: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection((name, port), timeout=_find_left(ends))
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def _wait_for_others(port: int, hosts: int, ends: float, timeout: int) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        there: dict[int, socket.socket] = {}
        while len(there) < hosts - 1:
            try:
                server.settimeout(_find_left(ends))
                connection = stack.enter_context(server.accept()[0])
            except TimeoutError as error:
                missing = ", ".join(str(host) for host in range(1, hosts) if host not in there)
                raise TimeoutError(
                    f"host 0 waited {timeout} s at port {port} for {hosts} hosts, of which {missing} did not answer: "
                    "start them, or check the address that they have and the firewall"
                ) from error
            host = _read_number(connection, hosts)
            if host in there:
                raise ValueError(f"each host must have a number of its own, got {host} twice")
            if host is not None:
                there[host] = connection
        for connection in there.values():
            connection.sendall(_ANSWER)
            connection.recv(1)  # the other end closes first, so that the port is free at once


def _listen(port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise OSError(
            f"host 0 cannot listen at port {port} ({error.strerror or error}): choose another port"
        ) from error


def _read_number(connection: socket.socket, hosts: int) -> int | None:
    """The number of a host; `None` for a stranger."""
    connection.settimeout(5)
    try:
        match = re.fullmatch(rb"(\d+) of (\d+)\n", connection.recv(32))
    except OSError:
        return None
    if match is None:
        return None
    if int(match[2]) != hosts:
        raise ValueError(f"all hosts must be told the same number of hosts, got {hosts} and {int(match[2])}")
    return int(match[1])


def _find_left(ends: float) -> float:
    return max(ends - time.monotonic(), 0.01)
